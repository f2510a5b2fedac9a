r"""A weight on the rate: beta, and its annealing, against posterior collapse.

    L = E_q[log p(x|z)] - b(t) KL(q(z|x) || p(z))
    linear:   b(t) = beta min(1, t/T)
    cyclical: b(t) = beta min(1, (t mod T) / (T r))      T steps a cycle, the first r of them rising

What is reported as the bound always carries the whole rate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..pairs.data import Rows
from ..pairs.divergence import rates
from ..pairs.pair import Pair
from .objective import Batch, Phase
from .particles import require_paths, require_samples

__all__ = ["KLAnnealing"]

_SCHEDULES: dict[str, Callable[[Tensor, int], Tensor]] = {
    "constant": lambda t, period: torch.ones_like(t),
    "linear": lambda t, period: (t / period).clamp(max=1.0),
    "cyclical": lambda t, period: (2.0 * torch.remainder(t, period) / period).clamp(max=1.0),
}


@dataclass(frozen=True, kw_only=True)
class KLAnnealing:
    """Maximise the bound with its KL weighted by beta, raised linearly or in cycles (beta-VAE, KL warm-up).

    The divergence is in closed form where one is known, as in SGVB's estimator B.

    Args:
        schedule: ``"linear"``, ``"cyclical"`` (half of each cycle rising, half at beta) or ``"constant"``.
        beta: The final weight; below or above one the optimum is not the bound's.
        steps: Steps of the linear rise, or of one cycle.
        num_samples: Samples a datapoint.

    Raises:
        ValueError: The schedule is unknown, or a number is out of range.

    Example:
        >>> KLAnnealing(steps=100).weight(torch.tensor(25))
        tensor(0.2500)

    References:
        Generating Sentences from a Continuous Space (Bowman et al., 2016), https://arxiv.org/abs/1511.06349;
        Cyclical Annealing Schedule (Fu et al., 2019), https://arxiv.org/abs/1903.10145;
        beta-VAE (Higgins et al., 2017)
    """

    name = "kl-annealing"
    schedule: str = "linear"
    beta: float = 1.0
    steps: int = 2000
    num_samples: int = 1

    def __post_init__(self) -> None:
        require_samples(self.num_samples)
        if self.schedule not in _SCHEDULES:
            raise ValueError(f"schedule={self.schedule!r} is unknown; choose one of {sorted(_SCHEDULES)}.")
        if self.beta < 0.0 or self.steps < 1:
            raise ValueError(f"beta={self.beta} must not be negative and steps={self.steps} must be at least 1.")

    @property
    def trains(self) -> frozenset[str]:
        """Model and guide."""
        return frozenset({"model", "guide"})

    def start(self, pair: Pair, data: Rows) -> nn.Module:
        """No memory; a latent without a pathwise gradient is refused."""
        require_paths(pair, "KLAnnealing")
        return nn.Module()

    def weight(self, step: Tensor) -> Tensor:
        """The weight b(t) of the rate after ``step`` steps."""
        return self.beta * _SCHEDULES[self.schedule](step.to(torch.get_default_dtype()), self.steps)

    def __call__(self, pair: Pair, batch: Batch, memory: nn.Module) -> Iterator[Phase]:
        """Yield the one phase: both players on the weighted bound."""
        cloud, by_site = rates(pair, batch.data, self.num_samples)
        rate = torch.stack([kl.sum(-1).mean() for kl in by_site.values()]).sum()
        fit, weight = cloud.log_lik.mean(), self.weight(batch.step)
        loss = -(fit - weight * rate)
        report = {"bound": (fit - rate).detach(), "rate": rate.detach(), "kl_weight": weight}
        yield Phase({"model": loss, "guide": loss}, report)
