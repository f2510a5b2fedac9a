"""Plant faults one at a time, and see whether a test sees each of them.

    python benchmarks/planted_faults.py                 every fault of planted_faults.toml
    python benchmarks/planted_faults.py sandwich gap    those whose file or description holds one of the words

A fault is a text of one file that another takes the place of, in a copy of the tree: a sign, a root, a seed, a split, a
direction. The tests that should see it run with ``-x`` in a process of their own, and the file is put back. Tests that
fail without any fault would catch everything, so they are run on the clean copy first, and left out. The exit status is
1 where a fault survives for which the table has no reason, or a test fails without one.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TABLE = Path(__file__).with_suffix(".toml")
_LIMIT = 600  # seconds, after which a fault has been seen by the test that does not end
_HEAVY = [  # of every test
    *("torch", "pyro", "pyro.infer", "pyro.distributions", "scipy.stats", "sklearn.mixture", "sklearn.datasets"),
    *("matplotlib.pyplot", "pandas", "arviz", "hypothesis"),
]


@dataclass(frozen=True)
class Fault:
    """A text of a file and what takes its place; ``tests`` are pytest's words, ``reason`` says why none can see it."""

    what: str
    file: str
    before: str
    after: str
    tests: tuple[str, ...]
    reason: str = ""

    @classmethod
    def of(cls, row: dict[str, object]) -> Fault:
        """A row of the table; ``tests`` is one string of words."""
        return cls(**{**row, "tests": tuple(shlex.split(str(row["tests"])))})  # type: ignore[arg-type]


def read(words: Sequence[str] = ()) -> list[Fault]:
    """The faults of the table, or those that one of the words is about."""
    rows = tomllib.loads(TABLE.read_text(encoding="utf-8"))["fault"]
    faults = [Fault.of(row) for row in rows]
    return [f for f in faults if not words or any(word in f"{f.file} {f.what}" for word in words)]


def refusals(faults: Sequence[Fault], root: Path = ROOT) -> Iterator[str]:
    """Why faults cannot be planted: their text does not stand in its file exactly once."""
    for fault in faults:
        path = root / fault.file
        count = path.read_text(encoding="utf-8").count(fault.before) if path.is_file() else 0
        if count != 1 or fault.before == fault.after:
            yield f"{fault.file}: {fault.what}: its text occurs {count} times, not once:\n{fault.before}"


def copied(folder: Path) -> Path:
    """A copy of the tree as it stands, changes that are not committed among it."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        source, target = ROOT / name, folder / name
        if source.exists() or source.is_symlink():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target, follow_symlinks=False)
    return folder


class _Failures:
    """A pytest plugin that hears which tests failed."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep the name of a test that failed."""
        if report.failed:
            self.names.append(report.nodeid)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Keep the name of a file that could not be imported."""
        if report.failed:
            self.names.append(report.nodeid)


def failures(tree: Path, words: Sequence[str]) -> list[str]:
    """The tests of those words that fail on a tree, in a fork of this process, which has imported what is slow."""
    heard = tree / ".failures"
    heard.unlink(missing_ok=True)
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        try:  # whatever happens there, what this process is to tidy up is not the child's to remove
            _run_tests(tree, words, heard)
        except BaseException as error:
            heard.write_text(f"the tests could not be run: {error!r}", encoding="utf-8")
        finally:
            os._exit(0)
    deadline = time.monotonic() + _LIMIT
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        if time.monotonic() > deadline:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            break
        time.sleep(0.05)
    return heard.read_text(encoding="utf-8").split("\n") if heard.exists() else [f"no end of {' '.join(words)}"]


def _run_tests(tree: Path, words: Sequence[str], heard: Path) -> None:
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    os.chdir(tree)
    os.environ |= {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
    sys.path.insert(0, str(tree))
    found = _Failures()
    early = ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # of plugins that this process imported beforehand
    code = pytest.main(["-q", "-p", "no:cacheprovider", *early, *words], plugins=[found])
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED) and not found.names:
        found.names.append(f"nothing was tested: pytest ended with {code}")
    heard.write_text("\n".join(found.names), encoding="utf-8")


def main(words: Sequence[str]) -> int:
    """Plant every fault, print the table, and return the exit status."""
    faults = read(words)
    stale = list(refusals(faults))
    if stale:
        print("\n".join(stale), file=sys.stderr)
        return 2
    for name in _HEAVY:
        import_module(name)
    import_module("torch").set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        tree = copied(Path(folder).resolve())
        broken: set[str] = set()
        for tests in dict.fromkeys(fault.tests for fault in faults):
            broken |= set(filter(None, failures(tree, tests)))
        if broken:
            print("these fail without any fault, and are left out:", *sorted(broken), sep="\n  ")
        survived = [fault for fault in faults if not _planted(tree, fault, broken)]
    unexplained = [fault for fault in survived if not fault.reason]
    print(f"\n{len(faults) - len(survived)} of {len(faults)} faults caught, {len(survived)} survived")
    for fault in survived:
        print(f"  {fault.file}: {fault.what}: {fault.reason or 'no reason is known'}")
    return int(bool(unexplained or broken))


def _planted(tree: Path, fault: Fault, broken: set[str]) -> bool:
    """Whether a fault is caught; one line of the table is printed."""
    path = tree / fault.file
    clean, began = path.read_text(encoding="utf-8"), time.perf_counter()
    stat = path.stat()
    path.write_text(clean.replace(fault.before, fault.after), encoding="utf-8")
    # Compiled files are told apart by their source's time, in whole seconds: each fault's is one of its own.
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 10**9 * (1 + zlib.crc32(fault.what.encode()) % 10**8)))
    left_out = [word for name in broken for word in ("--deselect", name)]
    try:
        caught = list(filter(None, failures(tree, ["-x", *fault.tests, *left_out])))
    finally:
        path.write_text(clean, encoding="utf-8")
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    seconds = time.perf_counter() - began
    by = caught[0].rpartition("/")[2] if caught else ""
    print(
        f"{'caught' if caught else 'SURVIVED':<9}{seconds:6.1f} s  {fault.file}: {fault.what}"
        + (f"  [{by}]" if by else ""),
        flush=True,
    )
    return bool(caught)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
