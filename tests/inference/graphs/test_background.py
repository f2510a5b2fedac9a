"""A compiler beside a run that ends early is stopped, with everything it has started."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import pyro
import pyro.distributions as dist
import pytest
import torch

from aevb.inference.graphs import background
from aevb.inference.training import step_runner
from aevb.inference.training.trainer import Fit

SLEEPER = """
import os, pathlib, subprocess, sys, time
helper = subprocess.Popen(["sleep", "600"])
started = pathlib.Path(sys.argv[1]).with_name("started")
started.with_suffix(".part").write_text(f"{os.getpid()} {helper.pid}")
started.with_suffix(".part").rename(started)
time.sleep(600)
"""


def model(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
        pyro.sample("x", dist.Normal(pyro.param("slope", torch.tensor(0.7)) * z, 0.5), obs=x)


def guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(pyro.param("gain", torch.tensor(0.5)) * x, 0.6))


def _is_alive(pid):
    """Whether a process runs; one that is dead and not yet collected does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


class _Ending:
    """Ends a run after its first epoch, once the compiler is at work, in one way or another."""

    def __init__(self, way):
        self.way, self.pids = way, []

    def __call__(self, fit):
        folder = Path(fit._make_step._background._process.args[-1]).parent
        while not (folder / "started").exists():
            time.sleep(0.01)
        self.pids = [int(pid) for pid in (folder / "started").read_text().split()]
        self.folder = folder
        assert all(map(_is_alive, self.pids))
        if self.way == "stop":
            fit.stop("enough")
        elif self.way != "break":
            raise {"error": ValueError, "interrupt": KeyboardInterrupt}[self.way]("enough")


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at processes in /proc")
@pytest.mark.parametrize("way", ["stop", "error", "interrupt", "break"])
def test_no_compiler_is_left_behind(way, monkeypatch):
    monkeypatch.setattr(step_runner, "_WORTH_COMPILING", 50)
    monkeypatch.setattr(background, "_PROGRAM", SLEEPER)
    ending = _Ending(way)
    loop = Fit(model, guide, torch.linspace(-1, 1, 8), steps=100, batch_size=4, observers=[ending], progress=False)
    with contextlib.suppress(ValueError, KeyboardInterrupt):
        if way == "break":
            for _ in loop:
                if ending.pids:
                    break
        else:
            loop.drain()
    assert not any(map(_is_alive, ending.pids)) and len(ending.pids) == 2
    assert not ending.folder.exists()
