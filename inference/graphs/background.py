"""Compile a captured graph in another process, while this one trains on the graph as it is.

The other process leaves what it compiled in the cache that torch keeps on disk; this one then compiles the same graph
in a second instead of half a minute. A process and not a thread: torch's compiler saves and restores the global random
state around its work, and would rewind the draws of a run beside it.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import tempfile
import weakref
from pathlib import Path

import torch
from torch import Tensor

from .graph import Flat
from .graph_file import read_graph, write_graph
from .inductor import compiled
from .torch_internals import CannotCompileError

__all__ = ["Background", "warm"]

_PROGRAM = "import sys; from aevb.inference.graphs.background import warm; warm(sys.argv[1])"


class Background:
    """A compiler at work in a process of its own.

    Args:
        flat: The graph.
        arguments: Examples of what it is called with after its state; their shapes count.
    """

    def __init__(self, flat: Flat, arguments: list[Tensor]) -> None:
        tensors = [*flat.state, *arguments]
        shapes = [(tuple(t.shape), t.stride(), t.dtype, str(t.device), t.requires_grad) for t in tensors]
        written = pickle.dumps((write_graph(flat.module), len(flat.state), shapes, torch.get_num_threads()))
        folder = tempfile.TemporaryDirectory(prefix="aevb-")
        order = Path(folder.name) / "graph.pickle"
        order.write_bytes(written)
        self._process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, str(order)], start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self._end = weakref.finalize(self, _end, self._process, folder)

    def wait(self) -> None:
        """Wait until it is done.

        Raises:
            CannotCompileError: The compiler failed, or there is none; the message says how.
        """
        _, said = self._process.communicate()
        self.stop()
        if self._process.returncode:
            lines = said.strip().splitlines() or ["no word"]
            raise CannotCompileError(lines[-1][:200])

    def stop(self) -> None:
        """Stop it and what it has started, and wait until it is gone; nothing happens where it is done."""
        self._end()


def _end(process: subprocess.Popen[str], folder: tempfile.TemporaryDirectory[str]) -> None:
    with process:  # at its end the pipe is closed and the process waited for
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)  # the C++ compiler is of the same session
    folder.cleanup()


def warm(order: str) -> None:
    """Compile the graph of an order, for the sake of what that leaves in the cache."""
    graph, count, shapes, threads = pickle.loads(Path(order).read_bytes())
    torch.set_num_threads(threads)  # what is compiled is compiled for so many
    tensors = [
        torch.empty_strided(shape, stride, dtype=dtype, device=device).requires_grad_(wants)
        for shape, stride, dtype, device, wants in shapes
    ]
    compiled(Flat(read_graph(graph), tuple(tensors[:count])), tensors[count:])
