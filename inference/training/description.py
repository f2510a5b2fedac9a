"""Blocks as plain JSON and back: how a run folder says what model it holds.

A block is described by its class and the arguments it was built with, read back from attributes of the same names
(scikit-learn's convention). Nothing is pickled, so a folder can be read by a person and opened years later, and opening
one runs no code but this package's own and what the user trusts.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib import import_module
from typing import Any, cast

from torch import nn

__all__ = ["DescriptionError", "Trust", "describe", "rebuild"]

Trust = Sequence[str | Callable[..., Any]]

_PLAIN = (bool, int, float, str, type(None))

# The packages whose public names a description may hold without anybody's leave.
_HOMES = (
    "aevb.models",
    "aevb.models.priors",
    "aevb.models.likelihoods",
    "aevb.models.networks",
    "aevb.guides",
    "aevb.inference.objectives",
)


class DescriptionError(ValueError):
    """An object cannot be described by its class and arguments, or a description cannot be followed."""


def describe(thing: Any, seen: dict[int, int] | None = None) -> Any:
    """Describe a block, a function or a plain value as JSON.

    A block that occurs twice (a prior that shares the guide's network) is described once and referred to.

    Raises:
        DescriptionError: An argument was not kept, or a function lives where it cannot be imported from.

    Example:
        >>> from aevb.inference import SGVB
        >>> describe(SGVB())
        {'id': 0, 'class': 'aevb.inference.objectives.sgvb:SGVB', 'args': {'estimator': 'B', 'num_samples': 1}}
    """
    seen = {} if seen is None else seen
    if isinstance(thing, _PLAIN):
        return thing
    if isinstance(thing, list | tuple):
        return [describe(part, seen) for part in thing]
    if inspect.isfunction(thing):
        return {"function": _path(thing)}
    if inspect.ismethod(thing):  # a prior made of the guide's posterior, a tutorial's vae.model
        return {"method": thing.__name__, "of": describe(thing.__self__, seen)}
    if id(thing) in seen:
        return {"ref": seen[id(thing)]}
    seen[id(thing)] = number = len(seen)
    names = _arguments(type(thing))
    missing = [name for name in names if not _keeps(thing, name)]
    if missing:
        raise DescriptionError(
            f"{type(thing).__name__} does not keep its argument(s) {missing} under attributes of the same names, so a "
            "run folder cannot say how to build it again; keep them, or pass model= and guide= when loading."
        )
    arguments = {name: describe(getattr(thing, name), seen) for name in names}
    return {"id": number, "class": _path(type(thing)), "args": arguments}


def rebuild(description: Any, trust: Trust = ()) -> Any:
    """Build again what :func:`describe` described, out of this package's public blocks.

    A description is text that anybody can have written, so what it names is looked up among those blocks and never
    imported or called because it is named; only what the user trusts is followed further.

    Args:
        description: As :func:`describe` made it.
        trust: The user's own: names of modules that may be imported (with what lies inside them), or classes and
            functions themselves.

    Raises:
        DescriptionError: It names what is neither ours nor trusted, or a class no longer takes the arguments.
    """
    try:
        return _Rebuilding(trust).build(description)
    except RecursionError as error:
        raise DescriptionError("the description of the pair is nested too deeply to be followed.") from error


class _Rebuilding:
    """One description being followed: what may be named, and what has been built so far."""

    def __init__(self, trust: Trust) -> None:
        entries = [trust] if isinstance(trust, str) else list(trust)
        self.modules = [entry for entry in entries if isinstance(entry, str)]
        self.known = _own_blocks() | {_path(entry): entry for entry in entries if not isinstance(entry, str)}
        self.built: dict[int, Any] = {}
        self.forms: dict[frozenset[str], Callable[[Mapping[str, Any]], Any]] = {
            frozenset({"ref"}): self._refer,
            frozenset({"function"}): lambda one: self._find(one["function"], inspect.isfunction, "function"),
            frozenset({"method", "of"}): self._bind,
            frozenset({"id", "class", "args"}): self._construct,
        }

    def build(self, description: Any) -> Any:
        if isinstance(description, list):
            return [self.build(part) for part in description]
        if not isinstance(description, dict):
            return description
        form = self.forms.get(frozenset(description))
        if form is None:
            raise DescriptionError(f"nothing is described by the entries {_quoted(sorted(description))}.")
        return form(description)

    def _refer(self, description: Mapping[str, Any]) -> Any:
        number = description["ref"]
        if number not in list(self.built):
            raise DescriptionError(f"the description refers to a block {_quoted(number)} that it has not described.")
        return self.built[number]

    def _bind(self, description: Mapping[str, Any]) -> Any:
        """A method that a block adds to what every module has: its posterior, a tutorial's vae.model."""
        owner, name = self.build(description["of"]), description["method"]
        if not (isinstance(name, str) and any(owner is block for block in self.built.values()) and _adds(owner, name)):
            raise DescriptionError(
                f"{_quoted(name)} of a {type(owner).__name__} is no method that a pair can be made of."
            )
        return getattr(owner, name)

    def _construct(self, description: Mapping[str, Any]) -> Any:
        path, arguments = description["class"], description["args"]
        kind = self._find(path, inspect.isclass, "class")
        if not isinstance(arguments, dict):
            raise DescriptionError(f"{path} is described with arguments {_quoted(arguments)} that have no names.")
        arguments = {name: self.build(value) for name, value in arguments.items()}
        try:
            self.built[description["id"]] = thing = kind(**arguments)
        except (TypeError, ValueError, AttributeError, RuntimeError, LookupError, ArithmeticError) as error:
            raise DescriptionError(f"{path} cannot be built from {sorted(arguments)}: {error}") from error
        return thing

    def _find(self, path: Any, fits: Callable[[Any], bool], kind: str) -> Any:
        """What a path names, among what may be named."""
        found = self.known.get(path) if isinstance(path, str) else None
        if found is None and isinstance(path, str) and self._is_trusted(path):
            found = _imported(path)
        if not fits(found):
            raise DescriptionError(
                f"config.json names the {kind} {_quoted(path)}, which is none of aevb's own; nothing of it was "
                f"imported or called. {_mend(path)}"
            )
        return found

    def _is_trusted(self, path: str) -> bool:
        module = path.partition(":")[0]
        return any(module == name or module.startswith(f"{name}.") for name in self.modules)


def _keeps(thing: Any, name: str) -> bool:
    """Whether an argument is kept under its name, where no method of that name stands in its place."""
    return hasattr(thing, name) and getattr(getattr(thing, name), "__self__", None) is not thing


def _arguments(kind: type) -> list[str]:
    """The names that a class is built from; refused where building it again would lose what it holds."""
    build: Any = cast(Any, kind).__init__
    bare = build is nn.Module.__init__ or (build is object.__init__ and cast(Any, kind).__new__ is object.__new__)
    parameters = [] if bare else list(inspect.signature(build).parameters.values())[1:]
    if not bare and (not inspect.isfunction(build) or any(p.kind is p.VAR_POSITIONAL for p in parameters)):
        raise DescriptionError(
            f"a {kind.__name__} cannot be described by the arguments it was built from, so a run folder cannot say how "
            "to build it again; give the block plain numbers, strings, lists and other blocks, or pass model= and "
            "guide= when loading."
        )
    return [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]


def _path(thing: Any) -> str:
    """Where a class or function is imported from, as ``module:name``."""
    if not (inspect.isclass(thing) or inspect.isfunction(thing)):
        raise DescriptionError(f"{_quoted(thing)} is neither a class nor a function, nor the name of a module.")
    module, name = thing.__module__, thing.__qualname__
    if module == "__main__" or "<" in name:
        raise DescriptionError(
            f"{name} is defined in a script, a notebook or inside a function, where loading cannot import it from; "
            "pass model= and guide= when loading."
        )
    return f"{module}:{name}"


def _adds(owner: Any, name: str) -> bool:
    """Whether a block's class has a method of its own of that name."""
    method = inspect.getattr_static(type(owner), name, None)
    return not name.startswith("_") and inspect.isfunction(method) and method is not getattr(nn.Module, name, None)


@cache
def _own_blocks() -> dict[str, Any]:
    """This package's public classes and programs, by the path that a description names them by."""
    homes = [import_module(name) for name in _HOMES]
    public = [getattr(home, name) for home in homes for name in home.__all__]
    return {_path(thing): thing for thing in public if inspect.isclass(thing) or inspect.isfunction(thing)}


def _imported(path: str) -> Any:
    """A class or function that a trusted module defines: not what it happens to have imported."""
    module, _, name = path.partition(":")
    try:
        found: Any = import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
            if not (inspect.isclass(found) or inspect.isfunction(found)):
                return None
    except (ImportError, AttributeError) as error:
        raise DescriptionError(f"{path} cannot be imported: {error}") from error
    return found if _path(found) == path else None


def _mend(path: Any) -> str:
    """How the user says that a module is theirs; not offered for Python's own, where no model lives."""
    module = str(path).partition(":")[0]
    top = module.partition(".")[0]
    offered = all(part.isidentifier() for part in module.split(".")) and top not in {*sys.stdlib_module_names, "aevb"}
    trusted = f'if {top} is your own, aevb.load(folder, trust=["{top}"]) or --plugin; ' if offered else ""
    return f"To open it: {trusted}aevb.load(folder, model=..., guide=...) with the pair itself."


def _quoted(text: Any) -> str:
    """Somebody else's text as a message can carry it: no control characters, and no more than a line."""
    return repr(text)[:200]
