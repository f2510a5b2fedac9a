"""Priors p(z): modules whose call, without arguments, returns a distribution over one latent."""

from .standard_normal import StandardNormal

__all__ = ["StandardNormal"]
