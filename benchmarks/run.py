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
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from workloads import Workload

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent


def main() -> None:
    """Run the tables that are asked for, and write the page after each of them."""
    sys.path.insert(0, str(HERE))
    from workloads import WORKLOADS

    arguments = _arguments(list(WORKLOADS))
    peers = _environment()
    for name in arguments.workloads:
        for threads in arguments.threads or WORKLOADS[name].threads:
            table = _table(peers, name, WORKLOADS[name], threads, arguments)
            print(table, flush=True)
            if arguments.out:
                _put(Path(arguments.out), table, [workload.title for workload in WORKLOADS.values()])


def _arguments(known: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10, help="turns of every contender")
    parser.add_argument("--scale", type=float, default=1.0, help="lengthen or shorten every turn by this factor")
    parser.add_argument("--workloads", nargs="+", default=known, choices=known)
    parser.add_argument("--threads", nargs="+", type=int, default=None, help="in place of each table's own")
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

    def __init__(self, python: Path, workload: str, contender: str, threads: int) -> None:
        # Threads are bound before the numeric libraries are loaded.
        environment = os.environ | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
        # A pipe that nobody reads would fill and stop the contender; the file lives as long as its process.
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self.process = subprocess.Popen(
            [str(python), str(HERE / "worker.py"), workload, contender, str(threads)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, text=True, env=environment,
        )  # fmt: skip
        if self.process.stdout.readline().strip() != "ready":
            self.process.wait()
            self.errors.seek(0)
            raise RuntimeError((self.errors.read().strip().splitlines() or ["no word"])[-1])

    def advance(self, steps: int) -> tuple[float, float]:
        self.process.stdin.write(f"{steps}\n")
        self.process.stdin.flush()
        wall, cpu = self.process.stdout.readline().split()
        return float(wall), float(cpu)

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def _table(peers: Path, name: str, workload: Workload, threads: int, arguments: argparse.Namespace) -> str:
    seconds = workload.seconds * arguments.scale
    workers, steps, missing = {}, {}, {}
    for contender in workload.contenders:
        try:
            python = peers if contender in workload.peers else Path(sys.executable)
            workers[contender], steps[contender] = _started(_Worker(python, name, contender, threads), seconds)
        except (RuntimeError, ValueError, BrokenPipeError) as error:
            missing[contender] = str(error)
    walls: dict[str, list[float]] = {contender: [] for contender in workers}
    cpus: dict[str, list[float]] = {contender: [] for contender in workers}
    for _ in range(arguments.rounds):
        for contender, worker in workers.items():
            wall, cpu = worker.advance(steps[contender])
            walls[contender].append(steps[contender] / wall)
            cpus[contender].append(steps[contender] / cpu)
    for worker in workers.values():
        worker.close()
    over = f"over {workload.reference}"
    lines = [
        f"### {workload.title}; {threads} thread{'s' * (threads > 1)}",
        "",
        f"{datetime.date.today()}, {arguments.rounds} rounds, load average {os.getloadavg()[0]:.1f} at the end.",
        "",
        f"| contender | {workload.unit} | lowest to highest | {over} | a processor second | {over} |",
        "|---|---|---|---|---|---|",
    ]
    base_wall = statistics.median(walls.get(workload.reference, [float("nan")]))
    base_cpu = statistics.median(cpus.get(workload.reference, [float("nan")]))
    for contender in workers:
        wall, cpu = statistics.median(walls[contender]), statistics.median(cpus[contender])
        spread = f"{min(walls[contender]):.4g} to {max(walls[contender]):.4g}"
        lines.append(
            f"| {contender} | {wall:.4g} | {spread} | {wall / base_wall:.2f} | {cpu:.4g} | {cpu / base_cpu:.2f} |"
        )
    lines += [f"| {contender} | not run: {why[:80]} | | | | |" for contender, why in missing.items()]
    return "\n".join([*lines, ""])


def _started(worker: _Worker, seconds: float) -> tuple[_Worker, int]:
    """Warm a contender up, and find how many steps fill a turn."""
    worker.advance(2)
    wall, _ = worker.advance(4)
    first = max(4, int(4 * seconds / wall / 4))
    wall, _ = worker.advance(first)  # what a call costs before its first step counts less in a longer one
    steps = max(2, int(first * seconds / wall))
    worker.advance(steps)  # a loop is compiled for its length
    return worker, steps


def _put(page: Path, table: str, order: list[str]) -> None:
    """Put a table on the page: in the place of an older one of the same workload, the others kept."""
    there = page.read_text(encoding="utf-8").split("\n### ")[1:] if page.exists() else []
    tables = {block.partition("\n")[0]: block.strip() + "\n" for block in [*there, table.removeprefix("### ")]}
    known = [title for title in tables if title.rpartition(";")[0] in order]
    ranked = sorted(known, key=lambda title: (order.index(title.rpartition(";")[0]), title))
    page.write_text("\n".join([_head(), *(f"### {tables[title]}" for title in ranked)]), encoding="utf-8")


def _head() -> str:
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    vectors = [name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if f" {name}" in flags]
    lines = [
        "# Benchmarks",
        "",
        f"Written by `benchmarks/run.py` on a machine with {os.cpu_count()} processor cores "
        f"({', '.join(vectors) or 'no listed vector extensions'}).",
        "Medians of rounds in which the contenders take turns; ratios hold within a table.",
        "Where other work ran beside (a load average above the threads), read the processor-second columns.",
    ]
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
