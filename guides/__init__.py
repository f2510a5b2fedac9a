"""Guides q(z|x): recognition models as Pyro programs."""

from . import kl as kl  # noqa: PLC0414
from .amortized import AmortizedGuide
from .batch_norm_normal import BatchNormNormal
from .conditional_normal import ConditionalNormal
from .dirichlet import Dirichlet
from .flow import Flow
from .full_covariance_normal import FullCovarianceNormal
from .hierarchical import Hierarchical
from .implicit import ConcatenatedNoise, Implicit, ImplicitDistribution
from .logistic_normal import LogisticNormal
from .low_rank_normal import LowRankNormal
from .masked_normal import MaskedNormal
from .mean_field import MeanField
from .minimum_rate_normal import MinimumRateNormal
from .noise_basis import NoiseBasis
from .normal import Normal
from .power_spherical import PowerSpherical
from .relaxed_categorical import RelaxedCategorical
from .semi_amortized import SemiAmortized
from .von_mises_fisher import VonMisesFisher

__all__ = [
    "Normal",
    "FullCovarianceNormal",
    "LowRankNormal",
    "Flow",
    "BatchNormNormal",
    "MinimumRateNormal",
    "SemiAmortized",
    "VonMisesFisher",
    "PowerSpherical",
    "Dirichlet",
    "LogisticNormal",
    "RelaxedCategorical",
    "MaskedNormal",
    "MeanField",
    "ConditionalNormal",
    "Hierarchical",
    "ConcatenatedNoise",
    "NoiseBasis",
    "AmortizedGuide",
    "Implicit",
    "ImplicitDistribution",
]
