r"""Stochastic gradient variational Bayes, the objective of auto-encoding variational Bayes.

    A (eq. 6):  L = 1/L sum_l [ log p(x, z_l) - log q(z_l|x) ]
    B (eq. 7):  L = -KL(q(z|x) || p(z)) + 1/L sum_l log p(x|z_l),     z_l = g(eps_l, x)

A is Pyro's ``Trace_ELBO``; B, with the divergence in closed form where one is known, its ``TraceMeanField_ELBO``. That
one asks of a guide that it draws the latents in the model's order and does not look whether it does; here a latent
whose divergence does not hold in closed form (:mod:`~aevb.inference.pairs.draw_order`) takes A's term of the same draw.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pyro.infer import ELBO, Trace_ELBO, TraceMeanField_ELBO
from torch import Tensor, nn

from ..pairs.data import Rows
from ..pairs.pair import Pair
from .objective import Batch, Phase
from .pyro_elbo import PyroELBO

__all__ = ["SGVB"]

_ESTIMATORS = ("A", "B")


class _ClosedWhereItHolds(TraceMeanField_ELBO):
    """Pyro's estimator B over all sites but the ``drawn`` ones, whose terms are those of ``Trace_ELBO``."""

    def __init__(self, drawn: tuple[str, ...], **options: Any) -> None:
        super().__init__(**options)
        self.drawn = drawn

    def _get_trace(self, model: Any, guide: Any, args: Any, kwargs: Any) -> tuple[Any, Any]:
        return Trace_ELBO._get_trace(self, model, guide, args, kwargs)  # without the warning that orders differ

    def _differentiable_loss_particle(self, model_trace: Any, guide_trace: Any) -> tuple[Any, Tensor]:
        terms = [guide_trace.nodes[n]["log_prob_sum"] - model_trace.nodes[n]["log_prob_sum"] for n in self.drawn]
        for trace in (model_trace, guide_trace):
            for name in self.drawn:
                trace.remove_node(name)
        loss, surrogate = super()._differentiable_loss_particle(model_trace, guide_trace)
        return loss + sum(term.detach() for term in terms), surrogate + sum(terms)


@dataclass(frozen=True, kw_only=True)
class SGVB:
    """Maximise the evidence lower bound by the reparameterised gradient (AEVB).

    A latent without a pathwise gradient falls to Pyro's score-function term under estimator A; B refuses it.

    Args:
        estimator: ``"A"`` samples the whole bound, ``"B"`` takes the KL analytically wherever that is right: "typically
            has less variance".
        num_samples: The number L of samples per datapoint.

    Raises:
        ValueError: The estimator is neither A nor B, or ``num_samples < 1``.

    Example:
        >>> SGVB(estimator="B", num_samples=1)
        SGVB(estimator='B', num_samples=1)

    References:
        Auto-Encoding Variational Bayes (Kingma & Welling, 2013), eqs. (6), (7), https://arxiv.org/abs/1312.6114
    """

    name = "sgvb"
    estimator: str = "B"
    num_samples: int = 1

    def __post_init__(self) -> None:
        if self.estimator not in _ESTIMATORS:
            raise ValueError(f"estimator={self.estimator!r} is unknown; choose one of {list(_ESTIMATORS)}.")
        if self.num_samples < 1:
            raise ValueError(f"num_samples={self.num_samples} must be at least 1.")

    @property
    def trains(self) -> frozenset[str]:
        """Model and guide."""
        return frozenset({"model", "guide"})

    def start(self, pair: Pair, data: Rows) -> nn.Module:
        """No memory; estimator B is refused for a latent that cannot be reparameterised."""
        pair.insist_on_density()
        stuck = [site.name for site in pair.latents if not site.has_rsample]
        if stuck and self.estimator == "B":
            raise ValueError(
                f"SGVB B needs reparameterised latents, but the guide's {stuck} have no rsample; use "
                'SGVB(estimator="A"), whose score-function term handles them, or relax the family.'
            )
        return nn.Module()

    def __call__(self, pair: Pair, batch: Batch, memory: nn.Module) -> Iterator[Phase]:
        """Yield the one phase: model and guide on the negative bound."""
        yield from PyroELBO(self._elbo(pair))(pair, batch, memory)

    def _elbo(self, pair: Pair) -> ELBO:
        options = {
            "num_particles": self.num_samples,
            "vectorize_particles": self.num_samples > 1,
            "max_plate_nesting": pair.max_plate_nesting,
        }
        if self.estimator == "A":
            return Trace_ELBO(**options)
        return _ClosedWhereItHolds(tuple(site.name for site in pair.latents if not site.has_closed_form), **options)
