"""Reads of a tensor's values into Python: a graph would keep the number that was read while it was captured.

Torch's tracer refuses to read what it follows, and lets be read what it takes for constant: parameters and buffers,
which are not; ``numpy()`` and ``tolist()`` pass by it altogether.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from .libraries import is_library
from .torch_internals import capture, dispatch_mode

__all__ = ["ReadError", "WithoutReads"]

_READERS = frozenset(
    {
        *("item", "tolist", "numpy", "__array__", "__dlpack__", "__contains__", "__format__", "__repr__"),
        *("__bool__", "__float__", "__int__", "__index__", "__complex__"),
    }
)
_COPIERS = frozenset({"tensor", "as_tensor", "new_tensor"})  # they read tensors inside of lists as numbers


class ReadError(RuntimeError):
    """A tensor's values were read into Python; the message says how and where."""


class WithoutReads:
    """Refuse, inside ``with``, to read a tensor's values into Python.

    Raises:
        ReadError: It was tried, also where the program caught the error.

    Example:
        >>> with WithoutReads():
        ...     doubled = 2.0 * torch.ones(3)
        >>> with WithoutReads():
        ...     largest = float(doubled.max())
        Traceback (most recent call last):
        ...
        aevb.inference.graphs.reads.ReadError: __float__() reads a tensor's values as Python numbers...
    """

    def __init__(self) -> None:
        self._read: ReadError | None = None
        self._modes = ExitStack()

    def __enter__(self) -> WithoutReads:
        """Begin to watch."""
        self._modes.enter_context(_Calls(self))
        self._modes.enter_context(dispatch_mode(self._operation))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Stop, and raise what the program may have swallowed."""
        self._modes.close()
        if self._read is not None and (kind is None or issubclass(kind, Exception)):
            raise self._read

    def refuse(self, reader: str) -> None:
        """Raise, and remember."""
        self._read = ReadError(f"{reader}() reads a tensor's values as Python numbers{_where()}")
        raise self._read

    def _operation(self, func: Any, args: Any, kwargs: Any) -> Any:
        """See what is read from C++: a size or an index that is given as a tensor."""
        if torch.Tag.data_dependent_output in func.tags:
            self.refuse(str(func).removeprefix("aten.").partition(".")[0].lstrip("_"))
        return func(*args, **kwargs)


class _Calls(TorchFunctionMode):
    def __init__(self, watch: WithoutReads) -> None:
        super().__init__()
        self.watch = watch

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name in _READERS or (name in _COPIERS and _copies_values(name, args)):
            self.watch.refuse(name)
        return func(*args, **(kwargs or {}))


def _copies_values(name: str, args: Sequence[Any]) -> bool:
    """Whether a call makes a tensor of other tensors' values; ``as_tensor`` of a tensor is that tensor."""
    given = args[int(name == "new_tensor")] if len(args) > int(name == "new_tensor") else None
    if name == "as_tensor" and isinstance(given, Tensor):
        return False
    return any(isinstance(leaf, Tensor) for leaf in capture.tree_leaves(given))


def _where() -> str:
    """The user's line that reads, where there is one."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and is_library(frame.f_globals.get("__name__", "")):
        frame = frame.f_back
    return "" if frame is None else f" at {Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
