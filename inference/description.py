"""Blocks as plain JSON and back: how a run folder says what model it holds.

A block is described by its class and the arguments it was built with, read back from attributes of the same names
(scikit-learn's convention). Nothing is pickled, so a folder can be read by a person and opened years later.
"""

from __future__ import annotations

import inspect
from importlib import import_module
from typing import Any, cast

from torch import nn

__all__ = ["DescriptionError", "describe", "rebuild"]

_PLAIN = (bool, int, float, str, type(None))


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


def rebuild(description: Any, built: dict[int, Any] | None = None) -> Any:
    """Build again what :func:`describe` described.

    Raises:
        DescriptionError: A class is gone or no longer takes the arguments.
    """
    built = {} if built is None else built
    if isinstance(description, list):
        return [rebuild(part, built) for part in description]
    if not isinstance(description, dict):
        return description
    if "ref" in description:
        return built[description["ref"]]
    if "function" in description:
        return _find(description["function"])
    if "method" in description:
        return getattr(rebuild(description["of"], built), description["method"])
    arguments = {name: rebuild(value, built) for name, value in description["args"].items()}
    try:
        built[description["id"]] = thing = _find(description["class"])(**arguments)
    except TypeError as error:
        raise DescriptionError(f"{description['class']} cannot be built from {sorted(arguments)}: {error}") from error
    return thing


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
    module, name = thing.__module__, thing.__qualname__
    if module == "__main__" or "<" in name:
        raise DescriptionError(
            f"{name} is defined in a script, a notebook or inside a function, where loading cannot import it from; "
            "pass model= and guide= when loading."
        )
    return f"{module}:{name}"


def _find(path: str) -> Any:
    module, _, name = path.partition(":")
    try:
        found: Any = import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise DescriptionError(f"{path} cannot be imported: {error}") from error
    return found
