r"""The wake-sleep algorithm, the paper's one online competitor with the same recognition model.

    wake:   z ~ q(z|x) on data x,       the model minimises  -log p(x, z)
    sleep:  (z, x) ~ p(z) p(x|z),       the guide minimises  -log q(z|x)

The two phases do not descend one bound: the fixed point is biased where the guide's family misses the posterior.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from ..pairs.data import Rows
from ..pairs.pair import Pair
from .objective import Batch, Phase

__all__ = ["WakeSleep"]


@dataclass(frozen=True, kw_only=True)
class WakeSleep:
    """Train the model awake on the data, the guide asleep on the model's dreams.

    Args:
        num_samples: Draws a datapoint in the wake phase.

    References:
        The wake-sleep algorithm for unsupervised neural networks (Hinton, Dayan, Frey & Neal, 1995), Science 268;
        the baseline of Auto-Encoding Variational Bayes (Kingma & Welling, 2013), sec. 5.
    """

    name = "wake-sleep"
    num_samples: int = 1

    def __post_init__(self) -> None:
        if self.num_samples < 1:
            raise ValueError(f"num_samples={self.num_samples} must be at least 1.")

    @property
    def trains(self) -> frozenset[str]:
        """Model and guide."""
        return frozenset({"model", "guide"})

    def start(self, pair: Pair, data: Rows) -> nn.Module:
        """No memory; a guide without a density is refused."""
        pair.insist_on_density()
        return nn.Module()

    def __call__(self, pair: Pair, batch: Batch, memory: nn.Module) -> Iterator[Phase]:
        """Yield the wake phase, then the sleep phase."""
        with torch.no_grad():
            z, log_q = pair.scored_draws(batch.data, self.num_samples)
        log_joint = pair.log_joint(z, batch.data)
        yield Phase({"model": -log_joint.mean()}, {"bound": (log_joint.detach() - log_q).mean()})
        with torch.no_grad():
            z, dreamt = pair.simulate(batch.data)
        sleep = -pair.log_guide(z, dreamt).mean()
        yield Phase({"guide": sleep}, {"sleep_loss": sleep.detach()})
