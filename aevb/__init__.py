"""Deep latent-variable models in Pyro: write the pair once; every algorithm and every estimator runs on it.

The public names are imported when first asked for, so that ``import aevb`` and the command's ``--help`` are quick.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aevb.data import Dataset
    from aevb.data import load as load_data
    from aevb.inference import Pair, Run, doctor, fit, fit_many, load, log_evidence, refine, verdict
    from aevb.registry import register

__version__ = "0.1.0"

_HOMES = {
    "Dataset": ("aevb.data", "Dataset"),
    "Pair": ("aevb.inference", "Pair"),
    "Run": ("aevb.inference", "Run"),
    "doctor": ("aevb.inference", "doctor"),
    "fit": ("aevb.inference", "fit"),
    "fit_many": ("aevb.inference", "fit_many"),
    "load": ("aevb.inference", "load"),
    "load_data": ("aevb.data", "load"),
    "log_evidence": ("aevb.inference", "log_evidence"),
    "refine": ("aevb.inference", "refine"),
    "register": ("aevb.registry", "register"),
    "verdict": ("aevb.inference", "verdict"),
}
_ROOMS = ("data", "figures", "guides", "inference", "models", "registry", "report", "testing")

__all__ = [
    "Dataset",
    "Pair",
    "Run",
    "doctor",
    "fit",
    "fit_many",
    "load",
    "load_data",
    "log_evidence",
    "refine",
    "register",
    "verdict",
]


def __getattr__(name: str) -> Any:
    """Import a public name or a room of the package on first use."""
    if name in _ROOMS:
        return import_module(f"aevb.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'aevb' has no attribute {name!r}; it has {sorted([*_HOMES, *_ROOMS])}.")
    module, attribute = _HOMES[name]
    return getattr(import_module(module), attribute)
