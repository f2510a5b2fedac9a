r"""The marginal likelihood by Pareto-smoothed importance sampling.

    p(x) ~ 1/K sum_k w*_k,     w*_k = w_k but for the largest, which a generalised Pareto fitted to them replaces

Smoothing trades a little bias for much variance: where importance sampling rests on one lucky weight, the smoothed
average rests on the fit to them all. Its k-hat says, as before, whether either can be trusted: where it is bad, the
smoothed average lies below p(x) in expectation, by more than the plain one does. Its error is that of the plain
average, whose tail term allows for both.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..arviz_compat import smoothed_weights
from ..pairs.data import Rows
from ..pairs.pair import Pair
from .errors import FEWEST_FOR_KHAT, with_rounding
from .evidence import Evidence
from .importance_sampling import ImportanceSampling, joined

__all__ = ["ParetoSmoothedImportanceSampling"]

_EQUAL = 1e-6  # nats between the largest and the smallest weight, below which there is no tail to smooth


@dataclass(frozen=True)
class ParetoSmoothedImportanceSampling(ImportanceSampling):
    """Average ``num_samples`` importance weights a datapoint, the largest of them smoothed by a Pareto fit (PSIS).

    Args:
        num_samples: Draws K a datapoint, at least 25.
        rows: Pairs of a sample and a datapoint that are decoded at once.
        precision: Of the matrix products.

    Raises:
        ValueError: As for importance sampling, or ``num_samples`` is below 25.

    References:
        Pareto Smoothed Importance Sampling (Vehtari et al., 2024), sec. 2.2, https://arxiv.org/abs/1507.02646
    """

    name = "psis"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_samples < FEWEST_FOR_KHAT:
            raise ValueError(
                f"num_samples={self.num_samples} must be at least {FEWEST_FOR_KHAT}: no Pareto fits so few weights."
            )

    def averaged(self, log_weights: Tensor) -> Evidence:
        """The evidence of a few datapoints by their log-weights ``[K, batch]``, smoothed."""
        plain = super().averaged(log_weights)
        rows = log_weights.T
        smoothed, _ = smoothed_weights(rows)  # they sum to one
        # The middle weight is never of the tail, so what normalising did to it is the logarithm of the new sum.
        middle = rows.median(-1, keepdim=True)
        log_px = (middle.values - smoothed.gather(-1, middle.indices)).squeeze(-1) - math.log(self.num_samples)
        equal = rows.amax(-1) - rows.amin(-1) < _EQUAL
        assert plain.ess is not None
        return replace(
            plain,
            method="psis",
            direction="estimate",
            log_px=torch.where(equal, plain.log_px, log_px),
            ess=torch.where(equal, plain.ess, (-(2 * smoothed).logsumexp(-1)).exp()),
        )

    def both(self, pair: Pair, data: Rows) -> tuple[Evidence, Evidence]:
        """The plain average and the smoothed one, of the same weights."""
        plain, smoothed = [], []
        for log_weights in self.log_weights(pair, data):
            plain.append(ImportanceSampling.averaged(self, log_weights))
            smoothed.append(self.averaged(log_weights))
        return with_rounding(joined(plain), pair), _directed(with_rounding(joined(smoothed), pair))

    def __call__(self, pair: Pair, data: Rows) -> Evidence:
        """Estimate log p(x) of every datapoint."""
        return _directed(super().__call__(pair, data))


def _directed(evidence: Evidence) -> Evidence:
    """The same, called a lower bound where a k-hat is bad: no smoothing makes up for what no draw has seen."""
    bad = len(evidence.doubtful)
    if not bad:
        return evidence
    note = f"on {bad} datapoints k-hat is bad, and smoothed weights too lie below log p(x) in expectation"
    return replace(evidence, direction="lower bound", notes=(*evidence.notes, note))
