"""An objective of one's own."""

from dataclasses import dataclass

from torch import nn

import aevb
from aevb.inference.objectives import Phase


@aevb.register("objective")
@dataclass(frozen=True)
class HalvedRate:
    """The bound with half of its divergence."""

    name = "halved-rate"
    num_samples: int = 1

    @property
    def trains(self):
        return frozenset({"model", "guide"})

    def start(self, pair, data):
        pair.insist_on_density()
        return nn.Module()

    def __call__(self, pair, batch, memory):
        cloud = pair.cloud(batch.data, self.num_samples)
        loss = (0.5 * (cloud.log_q - cloud.log_prior) - cloud.log_lik).mean()
        yield Phase({"model": loss, "guide": loss}, {"bound": cloud.log_weight.detach().mean()})
