"""Distributions that Pyro lacks: on the hypersphere, on the open simplex, and flows with a support."""

from .flow import FLOW_FAMILIES, FlowDistribution, build_flow
from .logistic_normal import LogisticNormal
from .power_spherical import PowerSpherical
from .relaxed_one_hot import RelaxedOneHotCategorical
from .uniform_sphere import UniformSphere
from .von_mises_fisher import VonMisesFisher

__all__ = [
    "FLOW_FAMILIES",
    "FlowDistribution",
    "LogisticNormal",
    "PowerSpherical",
    "RelaxedOneHotCategorical",
    "UniformSphere",
    "VonMisesFisher",
    "build_flow",
]
