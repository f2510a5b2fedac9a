"""Objectives: one training algorithm per file, each a generator of phases on the one trainer."""

from .adversarial import AdversarialVB, warn_if_above
from .annealed_kl import KLAnnealing
from .doubly_reparameterized import DReG
from .expectation_maximization import EM, Summarized
from .free_bits import FreeBits
from .full_vb import FullVB
from .importance_weighted import IWAE
from .maximum_a_posteriori import MAP
from .monte_carlo_em import MCEM
from .objective import Batch, Objective, Phase, evaluations_per_visit
from .only import Only
from .pyro_elbo import PyroELBO
from .renyi import Renyi
from .reweighted_wake_sleep import ReweightedWakeSleep
from .sgvb import SGVB
from .sticking_the_landing import StickingTheLanding
from .tail_adaptive import TailAdaptive
from .wake_sleep import WakeSleep

__all__ = [
    "SGVB",
    "WakeSleep",
    "MCEM",
    "IWAE",
    "Renyi",
    "StickingTheLanding",
    "DReG",
    "TailAdaptive",
    "ReweightedWakeSleep",
    "KLAnnealing",
    "FreeBits",
    "FullVB",
    "AdversarialVB",
    "Batch",
    "EM",
    "evaluations_per_visit",
    "MAP",
    "Objective",
    "Only",
    "Phase",
    "PyroELBO",
    "Summarized",
    "warn_if_above",
]
