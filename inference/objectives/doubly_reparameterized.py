r"""Doubly reparameterized gradients of the importance-weighted bound.

    d/dphi L_K = E[ sum_k w~_k^2 (d log w_k / d z_k) (d z_k / d phi) ],     w~_k = w_k / sum_j w_j

Unbiased for the gradient of IWAE's bound in the guide, with a signal-to-noise that grows with K instead of falling.
The model's gradient is IWAE's own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from ..pairs.data import Rows
from ..pairs.pair import Pair
from .objective import Batch, Phase
from .particles import iwae_bound, path_cloud, path_loss, require_one_density, require_paths, require_samples, valued

__all__ = ["DReG"]


@dataclass(frozen=True, kw_only=True)
class DReG:
    """Maximise the importance-weighted bound with the doubly reparameterized gradient (DReG).

    Args:
        num_samples: The number K of samples per datapoint; one gives sticking the landing.

    Raises:
        ValueError: ``num_samples < 1``, or a latent has no pathwise gradient.

    References:
        Doubly Reparameterized Gradient Estimators for Monte Carlo Objectives (Tucker, Lawson, Gu & Maddison, 2018),
        https://arxiv.org/abs/1810.04152
    """

    name = "dreg"
    num_samples: int = 5

    def __post_init__(self) -> None:
        require_samples(self.num_samples)

    @property
    def trains(self) -> frozenset[str]:
        """Model and guide."""
        return frozenset({"model", "guide"})

    def start(self, pair: Pair, data: Rows) -> nn.Module:
        """No memory; a latent without a pathwise gradient is refused."""
        require_paths(pair, "DReG")
        require_one_density(pair, "DReG")
        return nn.Module()

    def __call__(self, pair: Pair, batch: Batch, memory: nn.Module) -> Iterator[Phase]:
        """Yield the one phase: the model on IWAE's bound, the guide on the squared-weight path derivative."""
        z, cloud = path_cloud(pair, batch, self.num_samples)
        weights = cloud.log_weight.detach().softmax(0)
        bound = iwae_bound(cloud.log_weight.detach()).mean()
        model = -(weights * cloud.log_joint).sum(0).mean()
        guide = path_loss(z, cloud, weights.square())
        report = {"bound": bound, "elbo": cloud.log_weight.detach().mean()}
        yield Phase({"model": valued(model, -bound), "guide": valued(guide, -bound)}, report)
