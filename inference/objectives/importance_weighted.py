r"""The importance-weighted bound: K samples per datapoint inside the logarithm.

    L_K = E[ log 1/K sum_k p(x, z_k) / q(z_k|x) ],     L_1 = ELBO,     L_K <= L_(K+1) <= log p(x)

The weights are made per datapoint before anything is averaged, so minibatches and their scale change nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from ..pairs.data import Rows
from ..pairs.pair import Pair
from .objective import Batch, Phase
from .particles import iwae_bound, require_paths, require_samples

__all__ = ["IWAE"]


@dataclass(frozen=True, kw_only=True)
class IWAE:
    """Maximise the importance-weighted bound (IWAE) of model and guide together.

    The guide's signal-to-noise falls as K grows; :class:`DReG` mends that at the same bound.

    Args:
        num_samples: The number K of samples per datapoint; one gives SGVB's estimator A.

    Raises:
        ValueError: ``num_samples < 1``, or a latent has no pathwise gradient.

    Example:
        >>> IWAE(num_samples=50)
        IWAE(num_samples=50)

    References:
        Importance Weighted Autoencoders (Burda, Grosse & Salakhutdinov, 2015), eq. (8), https://arxiv.org/abs/1509.00519
    """

    name = "iwae"
    num_samples: int = 5

    def __post_init__(self) -> None:
        require_samples(self.num_samples)

    @property
    def trains(self) -> frozenset[str]:
        """Model and guide."""
        return frozenset({"model", "guide"})

    def start(self, pair: Pair, data: Rows) -> nn.Module:
        """No memory; a latent without a pathwise gradient is refused."""
        require_paths(pair, "IWAE")
        return nn.Module()

    def __call__(self, pair: Pair, batch: Batch, memory: nn.Module) -> Iterator[Phase]:
        """Yield the one phase: both players on the negative bound, which is reported with the ELBO beside it."""
        log_weight = pair.cloud(batch.data, self.num_samples).log_weight
        bound = iwae_bound(log_weight).mean()
        loss = -bound
        report = {"bound": bound.detach(), "elbo": log_weight.detach().mean()}
        yield Phase({"model": loss, "guide": loss}, report)
