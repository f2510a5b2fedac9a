"""Which code came with Python or was installed, and which is the user's own."""

from __future__ import annotations

import sys
import sysconfig
from functools import cache

__all__ = ["is_library"]

_OWN = __name__.partition(".")[0]
_FOLDERS = tuple({sysconfig.get_paths()[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")})


@cache
def is_library(module: str) -> bool:
    """Tell whether a module, by name, is Python's, an installed package's or this library's.

    Example:
        >>> is_library("math"), is_library("torch.nn"), is_library("__main__")
        (True, True, False)
    """
    root = module.partition(".")[0]
    found = sys.modules.get(root)
    if root == "__main__" or found is None:
        return False
    file = getattr(found, "__file__", None)
    if file is None:  # built into the interpreter, or made by hand
        return root == _OWN or root in sys.builtin_module_names
    return root == _OWN or file.startswith(_FOLDERS)
