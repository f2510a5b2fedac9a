"""Generative models p(z) p(x|z): what composes a prior, a decoder and a likelihood."""

from . import likelihoods, networks, priors
from .latent_variable_model import LatentVariableModel
from .probabilistic_pca import ProbabilisticPCA

__all__ = [
    "LatentVariableModel",
    "ProbabilisticPCA",
    "likelihoods",
    "networks",
    "priors",
]
