r"""Stochastic gradient variational Bayes, the objective of auto-encoding variational Bayes.

    A (eq. 6):  L = 1/L sum_l [ log p(x, z_l) - log q(z_l|x) ]
    B (eq. 7):  L = -KL(q(z|x) || p(z)) + 1/L sum_l log p(x|z_l),     z_l = g(eps_l, x)

A is Pyro's ``Trace_ELBO``; B, with the divergence in closed form where one is known, its ``TraceMeanField_ELBO``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from torch import nn

from ..data import Dataset
from ..pair import Pair
from .objective import Batch, Phase
from .pyro_elbo import PyroELBO

__all__ = ["SGVB"]

_ESTIMATORS: dict[str, Any] = {"A": Trace_ELBO, "B": TraceMeanField_ELBO}


@dataclass(frozen=True, kw_only=True)
class SGVB:
    """Maximise the evidence lower bound by the reparameterised gradient (AEVB).

    A latent without a pathwise gradient falls to Pyro's score-function term under estimator A; B refuses it.

    Args:
        estimator: ``"A"`` samples the whole bound, ``"B"`` takes the KL analytically: "typically has less variance".
        num_samples: The number L of samples a datapoint.

    Raises:
        ValueError: The estimator is neither A nor B, or ``num_samples < 1``.

    Example:
        >>> SGVB(estimator="B", num_samples=1)
        SGVB(estimator='B', num_samples=1)

    References:
        Auto-Encoding Variational Bayes (Kingma & Welling, 2013), eqs. (6), (7), https://arxiv.org/abs/1312.6114
    """

    estimator: str = "B"
    num_samples: int = 1

    def __post_init__(self) -> None:
        if self.estimator not in _ESTIMATORS:
            raise ValueError(f"estimator={self.estimator!r} is unknown; choose one of {sorted(_ESTIMATORS)}.")
        if self.num_samples < 1:
            raise ValueError(f"num_samples={self.num_samples} must be at least 1.")

    @property
    def trains(self) -> frozenset[str]:
        """Model and guide."""
        return frozenset({"model", "guide"})

    def start(self, pair: Pair, data: Dataset) -> nn.Module:
        """No memory; estimator B is refused for a latent that cannot be reparameterised."""
        stuck = [site.name for site in pair.latents if not site.has_rsample]
        if stuck and self.estimator == "B":
            raise ValueError(
                f"SGVB B needs reparameterised latents, but the guide's {stuck} have no rsample; use "
                'SGVB(estimator="A"), whose score-function term handles them, or relax the family.'
            )
        return nn.Module()

    def __call__(self, pair: Pair, batch: Batch, memory: nn.Module) -> Iterator[Phase]:
        """Yield the one phase: model and guide on the negative bound."""
        elbo = _ESTIMATORS[self.estimator](
            num_particles=self.num_samples,
            vectorize_particles=self.num_samples > 1,
            max_plate_nesting=pair.max_plate_nesting,
        )
        yield from PyroELBO(elbo)(pair, batch, memory)
