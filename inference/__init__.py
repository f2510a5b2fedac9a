"""Everything that is done with a model/guide pair: training, evidence, chains, diagnostics.

This room knows Pyro programs, not this library's own blocks: it imports neither models nor guides.
"""

from .arviz_export import guide_draws, hmc_draws
from .diagnosis import NonFiniteError
from .early_stopping import EarlyStopping
from .evidence import log_evidence
from .objectives import MAP, MCEM, SGVB, AdversarialVB, PyroELBO, WakeSleep
from .pair import Cloud, ContractError, Pair
from .run import Run, load
from .sample_divergence import sample_divergence
from .trainer import Fit, fit

__all__ = [
    "MAP",
    "MCEM",
    "SGVB",
    "AdversarialVB",
    "Cloud",
    "ContractError",
    "EarlyStopping",
    "Fit",
    "NonFiniteError",
    "Pair",
    "PyroELBO",
    "Run",
    "WakeSleep",
    "fit",
    "guide_draws",
    "hmc_draws",
    "load",
    "log_evidence",
    "sample_divergence",
]
