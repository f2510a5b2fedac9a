"""Likelihoods p(x|z): modules that turn a decoder's output into a distribution over data."""

from .bernoulli import Bernoulli
from .normal import Normal

__all__ = ["Bernoulli", "Normal"]
