"""Evidence: one estimator of log p(x) a file, each from a pair and data to an :class:`Evidence`."""

from .annealed import AnnealedImportanceSampling
from .density_fit import DensityFit
from .elbo import ELBO
from .evidence import Direction, Estimator, Evidence, khat_threshold
from .exact import Exact
from .importance_sampling import ImportanceSampling
from .log_evidence import log_evidence
from .pareto_smoothed import ParetoSmoothedImportanceSampling
from .provenance import Observed, Provenance
from .quadrature import Quadrature
from .sandwich import BidirectionalMonteCarlo, Sandwich, sandwich

__all__ = [
    "ELBO",
    "ImportanceSampling",
    "ParetoSmoothedImportanceSampling",
    "AnnealedImportanceSampling",
    "BidirectionalMonteCarlo",
    "DensityFit",
    "Exact",
    "Quadrature",
    "Direction",
    "Estimator",
    "Evidence",
    "khat_threshold",
    "log_evidence",
    "Observed",
    "Provenance",
    "sandwich",
    "Sandwich",
]
