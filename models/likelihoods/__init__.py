"""Likelihoods p(x|z): modules that turn a decoder's output into a distribution over data."""

from .bernoulli import Bernoulli
from .beta import Beta
from .categorical import Categorical
from .continuous_bernoulli import ContinuousBernoulli
from .discretized_logistic import DiscretizedLogistic
from .discretized_logistic_mixture import DiscretizedLogisticMixture
from .gamma import Gamma
from .laplace import Laplace
from .log_normal import LogNormal
from .negative_binomial import NegativeBinomial
from .normal import Normal
from .poisson import Poisson
from .standardized import Standardized
from .student_t import StudentT
from .zero_inflated_negative_binomial import ZeroInflatedNegativeBinomial
from .zero_inflated_poisson import ZeroInflatedPoisson

__all__ = [
    "Bernoulli",
    "ContinuousBernoulli",
    "Beta",
    "Normal",
    "Laplace",
    "StudentT",
    "LogNormal",
    "Gamma",
    "Poisson",
    "NegativeBinomial",
    "ZeroInflatedPoisson",
    "ZeroInflatedNegativeBinomial",
    "Categorical",
    "DiscretizedLogistic",
    "DiscretizedLogisticMixture",
    "Standardized",
]
