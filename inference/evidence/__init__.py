"""Evidence: one estimator of log p(x) a file, each from a pair and data to an :class:`Evidence`."""

from .annealed import AnnealedImportanceSampling
from .elbo import ELBO
from .evidence import Direction, Estimator, Evidence
from .importance_sampling import ImportanceSampling
from .log_evidence import log_evidence
from .quadrature import Quadrature

__all__ = [
    "ELBO",
    "AnnealedImportanceSampling",
    "Direction",
    "Estimator",
    "Evidence",
    "ImportanceSampling",
    "Quadrature",
    "log_evidence",
]
