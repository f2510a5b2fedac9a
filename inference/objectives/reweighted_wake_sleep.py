r"""Reweighted wake-sleep: importance weights turn the wake phase into a step on the K-sample bound.

    wake-theta:  - sum_k w~_k log p(x, z_k)         wake-phi:  - sum_k w~_k log q(z_k|x)
    sleep-phi:   - log q(z|x),  (z, x) ~ p(z) p(x|z)

One set of weights a datapoint. Latents need no pathwise gradient: discrete ones are welcome.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..pairs.data import Rows
from ..pairs.pair import Pair
from .objective import Batch, Phase
from .particles import iwae_bound, require_samples, valued

__all__ = ["ReweightedWakeSleep"]

_WAKE_SHARE = {"wake": 1.0, "sleep": 0.0, "both": 0.5}


@dataclass(frozen=True, kw_only=True)
class ReweightedWakeSleep:
    """Train the model on the importance-weighted bound, the guide awake on the data, asleep on dreams, or on both.

    Args:
        num_samples: The number K of samples per datapoint.
        guide: Whether the guide learns in the ``"wake"`` phase, the ``"sleep"`` phase or ``"both"`` (their mean).

    Raises:
        ValueError: ``num_samples < 1``, or ``guide`` is none of the three.

    References:
        Reweighted Wake-Sleep (Bornschein & Bengio, 2014), https://arxiv.org/abs/1406.2751
    """

    name = "reweighted-wake-sleep"
    num_samples: int = 5
    guide: str = "wake"

    def __post_init__(self) -> None:
        require_samples(self.num_samples)
        if self.guide not in _WAKE_SHARE:
            raise ValueError(f"guide={self.guide!r} is unknown; choose one of {sorted(_WAKE_SHARE)}.")

    @property
    def trains(self) -> frozenset[str]:
        """Model and guide."""
        return frozenset({"model", "guide"})

    def start(self, pair: Pair, data: Rows) -> nn.Module:
        """No memory; a guide without a density is refused."""
        pair.insist_on_density()
        return nn.Module()

    def __call__(self, pair: Pair, batch: Batch, memory: nn.Module) -> Iterator[Phase]:
        """Yield the one phase: the model's wake loss and the guide's wake or sleep loss, from the same parameters."""
        z, log_q = pair.scored_draws(batch.data, self.num_samples)
        log_joint = pair.log_joint(z, batch.data)
        log_weight = (log_joint - log_q).detach()
        weights, bound = log_weight.softmax(0), iwae_bound(log_weight).mean()
        report = {"bound": bound}
        share = _WAKE_SHARE[self.guide]
        losses: list[Tensor] = []
        if share > 0.0:
            losses.append(-share * (weights * log_q).sum(0).mean())
            report["wake_loss"] = losses[-1].detach() / share
        if share < 1.0:
            losses.append((1.0 - share) * self._sleep(pair, batch))
            report["sleep_loss"] = losses[-1].detach() / (1.0 - share)
        model = valued(-(weights * log_joint).sum(0).mean(), -bound)
        yield Phase({"model": model, "guide": sum(losses[1:], losses[0])}, report)

    @staticmethod
    def _sleep(pair: Pair, batch: Batch) -> Tensor:
        with torch.no_grad():
            z, dreamt = pair.simulate(batch.data)
        return -pair.log_guide(z, dreamt).mean()
