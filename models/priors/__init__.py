"""Priors p(z): modules whose call, without arguments, returns a distribution over one latent."""

from .class_conditional import ClassConditional
from .dirichlet import Dirichlet
from .flow import Flow
from .laplace import Laplace
from .learned_normal import LearnedNormal
from .logistic_normal import LogisticNormal
from .mixture_of_gaussians import MixtureOfGaussians
from .relaxed_categorical import RelaxedCategorical
from .standard_normal import StandardNormal
from .student_t import StudentT
from .uniform_sphere import UniformSphere
from .vamp_prior import VampPrior

__all__ = [
    "StandardNormal",
    "LearnedNormal",
    "Laplace",
    "StudentT",
    "MixtureOfGaussians",
    "VampPrior",
    "Flow",
    "UniformSphere",
    "Dirichlet",
    "LogisticNormal",
    "RelaxedCategorical",
    "ClassConditional",
]
