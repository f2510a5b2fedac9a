"""A user's own modules for the command: importing one registers its blocks, and says that what it defines is trusted.

A run folder never has a module imported: it names the classes that its pair is made of, and they are looked up among
this package's blocks and the modules that the user has named by ``--plugin``.
"""

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path

__all__ = ["load_plugins", "named_in", "trusted"]

_LOADED: dict[str, str] = {}  # as it was named, to the module


def load_plugins(names: Sequence[str]) -> None:
    """Import modules, each once: a path to a ``.py`` file, or a dotted name.

    Raises:
        ValueError: There is no such module, another one has its name, or it fails.
    """
    for name in names:
        if name not in _LOADED:
            _LOADED[name] = _from_file(Path(name)) if name.endswith(".py") else _by_name(name)


def trusted() -> list[str]:
    """The modules that the user has named, whose classes a run folder may hold."""
    return list(_LOADED.values())


def named_in(words: Sequence[str]) -> list[str]:
    """The modules that a command line names by ``--plugin MODULE`` or ``--plugin=MODULE``."""
    following = [later for word, later in zip(words, words[1:], strict=False) if word == "--plugin"]
    return following + [word.removeprefix("--plugin=") for word in words if word.startswith("--plugin=")]


def _by_name(name: str) -> str:
    try:
        return import_module(name).__name__
    except Exception as error:  # a user's module can fail in any way
        raise ValueError(f"plugin {name} cannot be imported: {type(error).__name__}: {error}") from error


def _from_file(path: Path) -> str:
    """Import a file under its own name, so that what it defines can be looked up there."""
    if not path.is_file():
        raise ValueError(f"plugin {path} is no file; give a path to a .py file, or the name of a module.")
    name = path.stem
    spec = spec_from_file_location(name, path.resolve())
    assert spec is not None and spec.loader is not None
    if _origin(name) not in (None, spec.origin):  # which might be imported later, and would find this one
        raise ValueError(f"plugin {path} has the name of another module, {name}; rename the file.")
    if name in sys.modules:
        return name
    module = sys.modules[name] = module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise ValueError(f"plugin {path} cannot be imported: {type(error).__name__}: {error}") from error
    return name


def _origin(name: str) -> str | None:
    """Where a module of that name is, imported already or not."""
    if name in sys.modules:
        return str(getattr(sys.modules[name], "__file__", "built in"))
    found = find_spec(name) if name.isidentifier() else None
    return None if found is None else str(found.origin)
