"""Time this library against its peers: ``python benchmarks/run.py``, or ``make bench``.

Makes an environment with the peers beside this file, runs every contender in a process of its own, lets them take
turns, and writes the medians and their ratios to BENCHMARKS.md.
"""

from __future__ import annotations

import argparse
import datetime
import os
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
REFERENCE = "Pyro's example"


def main() -> None:
    """Run the tables that are asked for."""
    arguments = _arguments()
    peers = _environment()
    tables = []
    for threads in arguments.threads:
        for size in arguments.sizes:
            tables.append(_table(peers, size, threads, arguments))
            print(tables[-1], flush=True)
    if arguments.out:
        Path(arguments.out).write_text(_page(tables, arguments), encoding="utf-8")


def _arguments() -> argparse.Namespace:
    sys.path.insert(0, str(HERE))
    from contenders import CONTENDERS, SIZES

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10, help="turns of every contender")
    parser.add_argument("--seconds", type=float, default=0.7, help="length of a turn")
    parser.add_argument("--sizes", nargs="+", default=list(SIZES), choices=list(SIZES))
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--contenders", nargs="+", default=list(CONTENDERS), choices=list(CONTENDERS))
    parser.add_argument("--out", default=str(ROOT / "BENCHMARKS.md"), help="the page to write; '' for none")
    return parser.parse_args()


def _environment() -> Path:
    """An environment with the peers that this library does not itself stand on; made once."""
    folder = ROOT / "build" / "bench-env"
    python = folder / "bin" / "python"
    if (folder / "ready").exists():
        return python
    uv = shutil.which("uv")
    if uv:
        subprocess.run([uv, "venv", "--clear", str(folder), "--python", sys.executable], check=True)
        install = [uv, "pip", "install", "--python", str(python)]
    else:
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        install = [str(python), "-m", "pip", "install"]
    subprocess.run([*install, "-r", str(HERE / "peers.txt")], check=True)
    (folder / "ready").touch()
    return python


class _Worker:
    """A contender's process."""

    def __init__(self, python: Path, contender: str, size: str, threads: int) -> None:
        # Threads are bound before the numeric libraries are loaded.
        environment = os.environ | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
        self.process = subprocess.Popen(
            [str(python), str(HERE / "worker.py"), contender, size, str(threads)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip
        if self.process.stdout.readline().strip() != "ready":
            raise RuntimeError(self.process.stderr.read().strip().splitlines()[-1])

    def advance(self, steps: int) -> tuple[float, float]:
        self.process.stdin.write(f"{steps}\n")
        self.process.stdin.flush()
        wall, cpu = self.process.stdout.readline().split()
        return float(wall), float(cpu)

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def _table(peers: Path, size: str, threads: int, arguments: argparse.Namespace) -> str:
    from contenders import PEERS, SIZES

    workers, steps, missing = {}, {}, {}
    for name in arguments.contenders:
        try:
            worker = _Worker(peers if name in PEERS else Path(sys.executable), name, size, threads)
            worker.advance(2)
            wall, _ = worker.advance(4)
        except (RuntimeError, ValueError) as error:
            missing[name] = str(error)
            continue
        workers[name] = worker
        steps[name] = max(2, int(4 * arguments.seconds / wall))
        worker.advance(steps[name])  # a scan is compiled for its length
    walls: dict[str, list[float]] = {name: [] for name in workers}
    cpus: dict[str, list[float]] = {name: [] for name in workers}
    for _ in range(arguments.rounds):
        for name, worker in workers.items():
            wall, cpu = worker.advance(steps[name])
            walls[name].append(steps[name] / wall)
            cpus[name].append(steps[name] / cpu)
    for worker in workers.values():
        worker.close()
    lines = [
        f"### {SIZES[size].name}, {threads} thread{'s' * (threads > 1)}",
        "",
        f"| contender | steps/s | over {REFERENCE} | steps per processor second | over {REFERENCE} |",
        "|---|---|---|---|---|",
    ]
    base_wall = statistics.median(walls.get(REFERENCE, [float("nan")]))
    base_cpu = statistics.median(cpus.get(REFERENCE, [float("nan")]))
    for name in workers:
        wall, cpu = statistics.median(walls[name]), statistics.median(cpus[name])
        lines.append(f"| {name} | {wall:.1f} | {wall / base_wall:.2f} | {cpu:.1f} | {cpu / base_cpu:.2f} |")
    lines += [f"| {name} | not run: {why[:80]} | | | |" for name, why in missing.items()]
    return "\n".join([*lines, ""])


def _page(tables: list[str], arguments: argparse.Namespace) -> str:
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    vectors = [name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if f" {name}" in flags]
    load = os.getloadavg()[0]
    return "\n".join(
        [
            "# Benchmarks",
            "",
            f"Written by `benchmarks/run.py` on {datetime.date.today()}: {os.cpu_count()} processor cores "
            f"({', '.join(vectors) or 'no listed vector extensions'}), load average {load:.1f} at the end.",
            f"Medians of {arguments.rounds} rounds in which the contenders take turns of about {arguments.seconds} s.",
            "Where other work ran beside (a load average above the threads), read the processor-second columns.",
            "",
            *tables,
        ]
    )


if __name__ == "__main__":
    main()
