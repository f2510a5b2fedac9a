r"""The variational Renyi bound, a family between the ELBO and the importance-weighted bound.

L_(alpha, K) = 1/(1 - alpha) log 1/K sum_k w_k^(1 - alpha),     alpha -> 1: ELBO,     alpha = 0: IWAE
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn

from ..pairs.data import Rows
from ..pairs.pair import Pair
from .objective import Batch, Phase
from .particles import iwae_bound, require_paths, require_samples

__all__ = ["Renyi"]


@dataclass(frozen=True, kw_only=True)
class Renyi:
    """Maximise the variational Renyi bound of order alpha.

    Every order from zero up stays below log p(x); a negative one need not, and then the reported bound is the
    importance-weighted one of the same weights.

    Args:
        alpha: The order; 0 is IWAE, 1 the ELBO, above 1 the guide seeks a mode.
        num_samples: The number K of samples per datapoint.

    Raises:
        ValueError: ``num_samples < 1``, alpha is not finite, or a latent has no pathwise gradient.

    References:
        Renyi Divergence Variational Inference (Li & Turner, 2016), sec. 4, https://arxiv.org/abs/1602.02311
    """

    name = "renyi"
    alpha: float = 0.5
    num_samples: int = 5

    def __post_init__(self) -> None:
        require_samples(self.num_samples)
        if not math.isfinite(self.alpha):
            raise ValueError(f"alpha={self.alpha} must be finite; the limit at infinity is not offered.")

    @property
    def trains(self) -> frozenset[str]:
        """Model and guide."""
        return frozenset({"model", "guide"})

    def start(self, pair: Pair, data: Rows) -> nn.Module:
        """No memory; a latent without a pathwise gradient is refused."""
        require_paths(pair, "Renyi")
        return nn.Module()

    def __call__(self, pair: Pair, batch: Batch, memory: nn.Module) -> Iterator[Phase]:
        """Yield the one phase: both players on the negative Renyi bound."""
        log_weight = pair.cloud(batch.data, self.num_samples).log_weight
        renyi = self.bound(log_weight).mean()
        lower = renyi if self.alpha >= 0.0 else iwae_bound(log_weight).mean()
        loss = -renyi
        yield Phase({"model": loss, "guide": loss}, {"bound": lower.detach(), "renyi_bound": renyi.detach()})

    def bound(self, log_weight: Tensor) -> Tensor:
        """The bound of each datapoint, ``[K, batch] -> [batch]``, in nats."""
        power = 1.0 - self.alpha
        if abs(power) < 1e-6:
            return log_weight.mean(0)
        return iwae_bound(power * log_weight) / power
