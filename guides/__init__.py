"""Guides q(z|x): recognition models as Pyro programs."""

from .amortized import AmortizedGuide
from .normal import Normal

__all__ = ["AmortizedGuide", "Normal"]
