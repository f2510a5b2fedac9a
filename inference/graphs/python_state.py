"""The Python state of some programs: numbers, switches, hooks and tensors that they hold and a step may read.

A captured graph keeps what it read of it while it was captured. So it is looked at before a graph is used again, all
of it in one comparison (some microseconds for a small net), and it is put back where a graph is captured on trial.

What is followed: attributes of modules and of the user's own objects and classes; what a function closes over, its
defaults, and the globals that it names; lists, dicts and sets of all these. Of a large array some entries are looked
at. Libraries' code is not followed, nor the inside of their objects, but for those that are there to hold things
(``argparse.Namespace``, ``UserDict``).
"""

from __future__ import annotations

import argparse
import collections
import functools
import random
import sys
import threading
import types
from array import array
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from .libraries import is_library
from .torch_internals import capture

__all__ = ["PythonState"]

_MOST = 1000  # entries of a container that are looked into; of a longer one only the length is seen
_LARGEST = 100_000  # bytes of an array that are kept; of a larger one evenly spaced entries are
_PLAIN = (int, float, complex, str, bytes, bool, type(None), torch.dtype, torch.device)
_CONTAINERS = (dict, list, set, deque)
# Library objects that are there to hold what users put into them.
_HOLDERS = (
    nn.Module,
    types.SimpleNamespace,
    argparse.Namespace,
    threading.local,
    collections.UserDict,
    collections.UserList,
    collections.ChainMap,
)
_PRETTY = {"_parameters", "_buffers", "_modules"}


class _Spot(NamedTuple):
    """One value that is no entry of a container: a closure's, a global, a class's or an object's attribute."""

    name: str
    read: Callable[[], Any]
    write: Callable[[Any], object]
    value: Any


class _Stream(NamedTuple):
    """A generator of random numbers outside torch's global one."""

    name: str
    read: Callable[[], Any]
    write: Callable[[Any], object]
    value: Any


class PythonState:
    """The state that some objects hold, as it is now.

    Args:
        roots: The objects by the names that messages call them.

    Example:
        >>> layer = nn.Dropout(0.5)
        >>> state = PythonState({"layer": layer})
        >>> state.changed()
        >>> layer.p = 0.1
        >>> state.changed()
        'layer.p'
        >>> state.restore()
        >>> layer.p
        0.5
    """

    def __init__(self, roots: Mapping[str, Any]) -> None:
        self.tensors: dict[int, Tensor] = {}
        self._names: list[str] = []
        self._live: list[Any] = []
        self._saved: list[Any] = []
        self._empty: list[tuple[str, Any]] = []  # most containers of a module, for hooks that it does not have
        self._void: list[Any] = []
        self._held: list[tuple[str, Callable[[], Any], Tensor]] = []  # how a tensor is found again
        self._lengths: list[tuple[str, Any, int]] = []
        self._arrays: list[tuple[str, np.ndarray, np.ndarray]] = []
        self._glances: list[tuple[str, np.ndarray, np.ndarray]] = []  # at large arrays
        self._copies: list[_Spot] = []  # what is held in no container of Python's own, by value
        self._spots: list[_Spot] = []
        self._streams: list[_Stream] = [
            _Stream("Python's random", random.getstate, random.setstate, random.getstate()),
            _Stream("NumPy's random", _numpy_state, np.random.set_state, _numpy_state()),
        ]
        self._classes: set[type] = set()
        self._seen: dict[int, Any] = {}  # the objects are kept, so that their ids stay theirs
        for name, root in roots.items():
            self._follow(name, root)
        self._wants = self._wishes()

    # ------------------------------------------------------------------ what is asked

    @property
    def modules(self) -> list[nn.Module]:
        """The modules that were come upon, the outermost first."""
        return [thing for thing in self._seen.values() if isinstance(thing, nn.Module)]

    def changed(self) -> str | None:
        """The name of something that is not as it was; ``None`` if all of it is."""
        try:  # one comparison of everything, most of it in C
            same = (
                not any(self._void)
                and all(len(owner) == length for _, owner, length in self._lengths)
                and all(find() is tensor for _, find, tensor in self._held)
                and self._live == self._saved
                and all(_same(spot.read(), spot.value) for spot in self._spots)
                and all(np.array_equal(now, then) for _, now, then in self._arrays)
                and all(np.array_equal(_glance(now), then) for _, now, then in self._glances)
                and all(copy.read() == copy.value for copy in self._copies)
                and self._wishes() == self._wants
            )
        except Exception:  # a key that is gone, values that cannot be compared
            same = False
        return None if same else self._first_change()

    def drawn(self) -> str | None:
        """The name of a generator that has drawn since; torch's own is not among them."""
        return next((s.name for s in self._streams if not _equal(s.read(), s.value)), None)

    def restore(self) -> None:
        """Put everything back."""
        for live, saved in zip(self._live, self._saved, strict=True):
            _refill(live, saved)
        for owner in self._void:
            if owner:
                owner.clear()
        for spot in self._spots:
            if not _same(spot.read(), spot.value):
                spot.write(spot.value)
        for _, now, then in self._arrays:
            np.copyto(now, then)
        for copy in self._copies:
            if copy.read() != copy.value:
                copy.write(copy.value)
        for stream in self._streams:
            stream.write(stream.value)
        for tensor, (wants, _) in zip(self.tensors.values(), self._wants, strict=True):
            if tensor.requires_grad != wants:
                tensor.requires_grad_(wants)

    # ------------------------------------------------------------------ the walk

    def _follow(self, name: str, thing: Any) -> None:
        if isinstance(thing, _PLAIN) or id(thing) in self._seen:
            return
        self._seen[id(thing)] = thing
        if isinstance(thing, Tensor):
            self.tensors[id(thing)] = thing
        elif isinstance(thing, np.ndarray):
            if thing.nbytes <= _LARGEST:
                self._arrays.append((name, thing, thing.copy()))
            else:
                self._glances.append((name, thing, _glance(thing)))
        elif isinstance(thing, _CONTAINERS):
            self._contain(name, thing)
        elif isinstance(thing, array | bytearray):
            if len(thing) <= _MOST:
                self._copies.append(_Spot(name, lambda: thing[:], functools.partial(_overwrite, thing), thing[:]))
            else:
                self._lengths.append((name, thing, len(thing)))
        elif isinstance(thing, tuple | frozenset):
            for position, item in enumerate(thing):
                self._follow(f"{name}[{position}]", item)
        elif (stream := _stream(name, thing)) is not None:
            self._streams.append(stream)
        elif isinstance(thing, types.FunctionType):
            if not is_library(thing.__module__ or ""):
                self._function(name, thing)
            else:  # one of ours may close over the user's
                self._closure(name, thing)
        elif isinstance(thing, types.MethodType):
            self._follow(name, thing.__self__)
            self._follow(name, thing.__func__)
        elif isinstance(thing, functools.partial):
            for part in (thing.func, thing.args, thing.keywords):
                self._follow(name, part)
        elif isinstance(thing, staticmethod | classmethod):
            self._follow(name, thing.__func__)
        elif isinstance(thing, property):
            self._follow(name, thing.fget)
        elif isinstance(thing, type):
            self._class(thing)
        elif _is_followed(thing):
            self._class(type(thing))
            for key in _slots(type(thing)):
                if hasattr(thing, key):
                    self._spot(f"{name}.{key}", thing, key)
                    self._follow(f"{name}.{key}", getattr(thing, key))
            if hasattr(thing, "__dict__"):
                self._contain(name, vars(thing))
        elif hasattr(thing, "__wrapped__"):
            self._follow(name, thing.__wrapped__)

    def _contain(self, name: str, owner: Any) -> None:
        if len(owner) > _MOST:
            self._lengths.append((name, owner, len(owner)))
            return
        self._seen[id(owner)] = owner
        if not owner:
            self._empty.append((name, owner))
            self._void.append(owner)
            return
        self._names.append(name)
        self._live.append(owner)
        self._saved.append(owner.copy())
        for key, value in _entries(owner):
            own = _named(name, key)
            if isinstance(value, Tensor) and not isinstance(owner, set):
                get = owner.get if isinstance(owner, dict) else owner.__getitem__
                self._held.append((own, functools.partial(get, key), value))
            self._follow(own, value)

    def _class(self, cls: type) -> None:
        """A class's attributes, and what its methods name."""
        for base in cls.__mro__:
            if is_library(base.__module__) or base in self._classes:
                continue
            self._classes.add(base)
            self._lengths.append((f"what {base.__name__} holds", vars(base), len(vars(base))))
            for key, value in vars(base).items():
                if not key.startswith("__"):
                    own, write = f"{base.__name__}.{key}", functools.partial(setattr, base, key)
                    self._spots.append(_Spot(own, functools.partial(vars(base).get, key), write, value))
                self._follow(f"{base.__name__}.{key}", value)

    def _function(self, name: str, function: types.FunctionType) -> None:
        self._closure(name, function)
        for key, default in [*enumerate(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).items()]:
            self._follow(f"{name}({key})", default)
        named = set(_names(function.__code__))
        for key in sorted(named & sys.modules.keys() - function.__globals__.keys()):  # imported by the function itself
            self._module(key, sys.modules[key], named)
        for key in sorted(named & function.__globals__.keys()):
            value = function.__globals__[key]
            if isinstance(value, types.ModuleType):
                self._module(key, value, named)
                continue
            spaces = function.__globals__
            self._spots.append(
                _Spot(key, functools.partial(spaces.get, key), functools.partial(spaces.__setitem__, key), value)
            )
            self._follow(key, value)

    def _closure(self, name: str, function: types.FunctionType) -> None:
        for key, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            if id(cell) in self._seen or not _is_full(cell):
                continue
            self._seen[id(cell)] = cell
            read = functools.partial(getattr, cell, "cell_contents", None)
            self._spots.append(_Spot(key, read, functools.partial(setattr, cell, "cell_contents"), cell.cell_contents))
            self._follow(key, cell.cell_contents)

    def _module(self, name: str, module: types.ModuleType, named: set[str]) -> None:
        """The attributes of a module of the user's that a function may read, and those of modules inside it."""
        if is_library(module.__name__):
            return
        for key in sorted(named & vars(module).keys()):
            value = getattr(module, key)
            if not isinstance(value, types.ModuleType):
                self._spot(f"{name}.{key}", module, key)
                self._follow(f"{name}.{key}", value)
            elif value.__name__.startswith(f"{module.__name__}."):
                self._module(f"{name}.{key}", value, named)

    def _spot(self, name: str, owner: Any, key: str) -> None:
        read, write = functools.partial(getattr, owner, key, None), functools.partial(setattr, owner, key)
        self._spots.append(_Spot(name, read, write, getattr(owner, key)))

    # ------------------------------------------------------------------ what changed

    def _wishes(self) -> list[tuple[bool, int]]:
        """Of each tensor, whether it wants a gradient, and how many hooks hang on that."""
        backward_hooks = capture.backward_hooks
        return [(t.requires_grad, len(backward_hooks(t) or ())) for t in self.tensors.values()]

    def _first_change(self) -> str:
        for name, owner, length in self._lengths:
            if len(owner) != length:
                return f"the length of {name}"
        for name, owner in self._empty:
            if owner:
                return _named(name, next(iter(owner)))
        for name, live, saved in zip(self._names, self._live, self._saved, strict=True):
            if (entry := _changed_entry(live, saved)) is not None:
                return _named(name, entry)
        for spot in self._spots:
            if not _same(spot.read(), spot.value):
                return spot.name
        for name, now, then in self._arrays:
            if not np.array_equal(now, then):
                return name
        for name, now, then in self._glances:
            if not np.array_equal(_glance(now), then):
                return name
        for copy in self._copies:
            if copy.read() != copy.value:
                return copy.name
        return "what wants a gradient"


def _numpy_state() -> Any:
    return np.random.get_state(legacy=False)  # noqa: NPY002 - the global stream that programs may draw from


def _is_followed(thing: Any) -> bool:
    """Whether an object's attributes are a program's own: a module's, an object's of the user's, a namespace's."""
    if isinstance(thing, types.ModuleType):
        return False
    own = type(thing).__module__.partition(".")[0] == __name__.partition(".")[0]
    return own or isinstance(thing, _HOLDERS) or not is_library(type(thing).__module__)


def _glance(large: np.ndarray) -> np.ndarray:
    """Evenly spaced entries of a large array, at most about a thousand."""
    return large.flat[:: 1 + large.size // _MOST]


def _overwrite(live: Any, saved: Any) -> None:
    live[:] = saved


def _stream(name: str, thing: Any) -> _Stream | None:
    if isinstance(thing, random.Random):
        return _Stream(name, thing.getstate, thing.setstate, thing.getstate())
    if isinstance(thing, torch.Generator):
        return _Stream(name, thing.get_state, thing.set_state, thing.get_state())
    if isinstance(thing, np.random.RandomState):
        return _Stream(name, thing.get_state, thing.set_state, thing.get_state())
    if isinstance(thing, np.random.Generator):
        bits = thing.bit_generator
        return _Stream(name, lambda: bits.state, functools.partial(setattr, bits, "state"), bits.state)
    return None


def _slots(cls: type) -> Iterator[str]:
    for base in cls.__mro__:
        slots = vars(base).get("__slots__", ())
        yield from (key for key in ((slots,) if isinstance(slots, str) else slots) if not key.startswith("__"))


def _entries(owner: Any) -> Iterator[tuple[Any, Any]]:
    return iter(owner.items()) if isinstance(owner, dict) else enumerate(owner)


def _names(code: types.CodeType) -> Iterator[str]:
    """Every global name or attribute that code may read, functions inside of it included."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)


def _is_full(cell: types.CellType) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True


def _same(now: Any, then: Any) -> bool:
    """Whether a value is what it was: itself, or an equal plain one."""
    return now is then or (isinstance(now, _PLAIN) and isinstance(then, _PLAIN) and bool(now == then))


def _equal(now: Any, then: Any) -> bool:
    """Whether two states of a generator are one; arrays and tensors may lie anywhere inside."""
    if isinstance(now, dict):
        return now.keys() == then.keys() and all(_equal(now[key], then[key]) for key in now)
    if isinstance(now, Tensor):
        return torch.equal(now, then)
    if isinstance(now, tuple) and any(isinstance(part, np.ndarray) for part in now):
        return all(_equal(a, b) for a, b in zip(now, then, strict=True))
    return np.array_equal(now, then) if isinstance(now, np.ndarray) else bool(now == then)


def _named(name: str, key: Any) -> str:
    """What an entry is called; how a module keeps its parts is left out."""
    if isinstance(key, str):
        return name if key in _PRETTY else f"{name}.{key}"
    return f"{name}[{key}]" if isinstance(key, int) else name


def _changed_entry(live: Any, saved: Any) -> Any:
    now, then = dict(_entries(live)), dict(_entries(saved))
    for key in (*now, *then):
        if key not in now or key not in then or not _unchanged_entry(now[key], then[key]):
            return key
    return None


def _unchanged_entry(now: Any, then: Any) -> bool:
    if isinstance(now, Tensor) or isinstance(then, Tensor):
        return now is then
    try:
        return now is then or bool(now == then)
    except Exception:
        return False


def _refill(live: Any, saved: Any) -> None:
    if _changed_entry(live, saved) is None:
        return
    live.clear()
    (live.update if isinstance(live, dict | set) else live.extend)(saved)
