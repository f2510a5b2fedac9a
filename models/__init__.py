"""Generative models p(z) p(x|z): what composes a prior, a decoder and a likelihood."""

from . import distributions, likelihoods, networks, priors
from .clustering import ClusteringModel
from .conditional import ConditionalModel
from .eight_schools import eight_schools
from .factor_analysis import FactorAnalysis
from .gaussian_mixture import GaussianMixture
from .hierarchical import HierarchicalModel
from .latent_variable_model import LatentVariableModel
from .probabilistic_pca import ProbabilisticPCA

__all__ = [
    "LatentVariableModel",
    "HierarchicalModel",
    "ConditionalModel",
    "ClusteringModel",
    "distributions",
    "eight_schools",
    "FactorAnalysis",
    "GaussianMixture",
    "likelihoods",
    "networks",
    "priors",
    "ProbabilisticPCA",
]
