"""An estimator of one's own."""

import math
from dataclasses import dataclass

import torch

import aevb
from aevb.inference.evidence import Evidence
from aevb.inference.pairs.data import chunks


@aevb.register("estimator")
@dataclass(frozen=True)
class PriorDraws:
    """The average likelihood of draws from the prior."""

    name = "prior-draws"
    num_samples: int = 500

    def __call__(self, pair, data):
        found = []
        for part in chunks(data, 100):
            z = pair.dream(part, self.num_samples)[0]
            found.append(pair.log_densities(z, part)[1].logsumexp(0) - math.log(self.num_samples))
        return Evidence(self.name, "lower bound", torch.cat(found), self.num_samples)
