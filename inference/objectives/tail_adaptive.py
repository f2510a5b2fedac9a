r"""The tail-adaptive f-divergence: importance weights by rank alone, which no heavy tail can upset.

    gamma_k = ( #{ j : w_j >= w_k } )^(-beta),      guide: sum_k gamma~_k (d log w_k / d z_k) (d z_k / d phi)

gamma~ are the gammas of a datapoint's K samples over their sum; the largest weight has the largest one, K^beta times
that of the least, so the guide covers the posterior's mass instead of a mode.

Pyro's ``TraceTailAdaptive_ELBO`` is another gradient: it makes one weight of a minibatch, takes the sorting
permutation for the ranks (the two differ from K = 3), ranks from below, and keeps the score of log q, whose weighted
mean is not zero.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn

from ..pairs.data import Rows
from ..pairs.pair import Pair
from .objective import Batch, Phase
from .particles import iwae_bound, path_cloud, path_loss, require_one_density, require_paths, require_samples, valued

__all__ = ["TailAdaptive"]


@dataclass(frozen=True, kw_only=True)
class TailAdaptive:
    """Fit the guide by the tail-adaptive f-divergence, the model by the importance-weighted bound of the same samples.

    Args:
        num_samples: The number K of samples per datapoint; of one it is :class:`StickingTheLanding`.
        beta: How much more the largest weights count; 0 is the ELBO's gradient.

    Raises:
        ValueError: ``num_samples < 1``, ``beta < 0``, or a latent has no pathwise gradient.

    References:
        Variational Inference with Tail-Adaptive f-Divergence (Wang, Liu & Liu, 2018), algorithm 1,
        https://arxiv.org/abs/1810.11943
    """

    name = "tail-adaptive"
    num_samples: int = 5
    beta: float = 1.0

    def __post_init__(self) -> None:
        require_samples(self.num_samples)
        if not self.beta >= 0.0:
            raise ValueError(f"beta={self.beta} must be at least 0; below, the least weights would count most.")

    @property
    def trains(self) -> frozenset[str]:
        """Model and guide."""
        return frozenset({"model", "guide"})

    def start(self, pair: Pair, data: Rows) -> nn.Module:
        """No memory; a latent without a pathwise gradient is refused."""
        require_paths(pair, "TailAdaptive")
        require_one_density(pair, "TailAdaptive")
        return nn.Module()

    def __call__(self, pair: Pair, batch: Batch, memory: nn.Module) -> Iterator[Phase]:
        """Yield the one phase: the model on the bound, the guide on its path derivative weighed by rank."""
        z, cloud = path_cloud(pair, batch, self.num_samples)
        log_weight = cloud.log_weight
        bound = iwae_bound(log_weight).mean()
        importance = log_weight.detach().softmax(0)
        model = -(importance * cloud.log_joint).sum(0).mean()
        guide = path_loss(z, cloud, self.weights(log_weight.detach()))
        report = {"bound": bound.detach(), "elbo": log_weight.detach().mean()}
        yield Phase({"model": valued(model, -bound), "guide": valued(guide, -bound)}, report)

    def weights(self, log_weight: Tensor) -> Tensor:
        """The gammas of each datapoint, which sum to one over its samples, ``[K, batch]``."""
        rank = (log_weight.unsqueeze(1) >= log_weight).sum(0)
        gamma = rank.to(log_weight.dtype) ** -self.beta
        return gamma / gamma.sum(0)
