r"""The evidence lower bound as an evidence: log p(x) >= E_q[log p(x, z) - log q(z|x)]."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..pairs.data import Rows, chunks
from ..pairs.pair import Pair
from ..random_state import RandomState
from .errors import Errors, mean_errors, with_rounding
from .evidence import Evidence

__all__ = ["ELBO", "mean_bound"]

_ROWS = 1000  # decoder rows held at once


@dataclass(frozen=True)
class ELBO:
    """The bound of each datapoint, averaged over ``num_samples`` draws of the guide.

    Args:
        num_samples: Draws K a datapoint; below 100 the error, which is of the bound, is not known.

    References:
        Auto-Encoding Variational Bayes (Kingma & Welling, 2013), eq. (2), https://arxiv.org/abs/1312.6114
    """

    name = "elbo"
    num_samples: int = 100

    def __post_init__(self) -> None:
        if self.num_samples < 1:
            raise ValueError(f"num_samples={self.num_samples} must be at least 1.")

    @classmethod
    def in_verdict(cls, pair: Pair) -> dict[str, dict[str, int]]:
        """Ask for as many draws as :class:`ImportanceSampling` is asked for."""
        return {cls.name: {"num_samples": 1000}}

    def __call__(self, pair: Pair, data: Rows) -> Evidence:
        """Estimate the bound of every datapoint."""
        at_once = min(self.num_samples, 100)
        found = []
        for part in chunks(data, max(1, _ROWS // at_once)):
            log_weights = torch.empty(self.num_samples, len(part[0]), dtype=torch.float64)
            for first in range(0, self.num_samples, at_once):
                draws = min(at_once, self.num_samples - first)
                log_weights[first : first + draws] = pair.cloud(part, draws).log_weight
            found.append((log_weights.mean(0), *mean_errors(log_weights)))
        bound, *errors = (torch.cat(column) for column in zip(*found, strict=True))
        known = Errors(*errors)._asdict()
        return with_rounding(Evidence("elbo", "lower bound", bound, self.num_samples, **known), pair)


def mean_bound(pair: Pair, data: Rows, seed: int) -> float:
    """The mean bound of a data set with one draw per datapoint, the same draws at every call; nats per datapoint."""
    with RandomState(seed, pair.example[0].device), pair.evaluation():
        return ELBO(num_samples=1)(pair, data).mean
