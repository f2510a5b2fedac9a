"""Objectives: one training algorithm a file, each a generator of phases on the one trainer."""

from .adversarial import AdversarialVB, warn_if_above
from .maximum_a_posteriori import MAP
from .monte_carlo_em import MCEM
from .objective import Batch, Objective, Phase
from .only import Only
from .pyro_elbo import PyroELBO
from .sgvb import SGVB
from .wake_sleep import WakeSleep

__all__ = [
    "MAP",
    "MCEM",
    "SGVB",
    "AdversarialVB",
    "Batch",
    "Objective",
    "Only",
    "Phase",
    "PyroELBO",
    "WakeSleep",
    "warn_if_above",
]
