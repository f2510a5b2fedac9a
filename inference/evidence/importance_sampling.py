r"""The marginal likelihood by importance sampling from the guide.

    log p(x) ~ log 1/K sum_k w_k,     w_k = p(x, z_k) / q(z_k|x),     z_k ~ q(z|x)

The average weight is unbiased for p(x), so its logarithm lies below log p(x) in expectation, by about the squared
coefficient of variation of the weights over 2K. Pareto's k-hat of the largest weights says whether that average can
be trusted at all, and what a tail of that shape holds beyond the largest weight is in the error (:mod:`errors`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..arviz_compat import pareto_khat
from ..graphs.precision import check_precision, products_in
from ..graphs.traced_function import captured, worth_compiling
from ..pairs.data import Rows, chunks
from ..pairs.pair import Pair
from ..pairs.sites import Data
from .errors import FEWEST_FOR_KHAT, log_mean_errors, not_known, with_rounding
from .evidence import Evidence

__all__ = ["ImportanceSampling", "joined"]

Weigh = Callable[[Data, int], Tensor]

_WEIGHTS = 2_000_000  # log-weights held at once: with more samples per datapoint, fewer datapoints
_DRAWS_AT_ONCE = 100  # of a datapoint: its encoding, made anew each time, then costs next to nothing
_WORTH_CAPTURING = 100  # evaluations: a graph costs about as much as some tens of them


@dataclass(frozen=True)
class ImportanceSampling:
    """Average ``num_samples`` importance weights a datapoint.

    The programs run on chunks of about ``rows`` (sample, datapoint) pairs, and only log-weights are kept, of fewer
    datapoints the more samples there are: memory grows neither with the samples nor with the datapoints.

    Args:
        num_samples: Draws K a datapoint; below 25 the error is not known.
        rows: Pairs of a sample and a datapoint that are decoded at once.
        precision: Of the matrix products: ``"float32"``, or ``"bfloat16"`` where the processor has units for it; every
            log-weight is then off by a rounding error that does not average out over the samples of a datapoint.

    Raises:
        ValueError: ``num_samples`` or ``rows`` is below 1, or the precision is unknown.

    References:
        Importance Weighted Autoencoders (Burda, Grosse & Salakhutdinov, 2015), eq. (8), https://arxiv.org/abs/1509.00519;
        Pareto Smoothed Importance Sampling (Vehtari et al., 2015), https://arxiv.org/abs/1507.02646
    """

    name = "importance"
    num_samples: int = 5000
    rows: int = 1000
    precision: str = "float32"

    def __post_init__(self) -> None:
        if self.num_samples < 1 or self.rows < 1:
            raise ValueError(f"num_samples={self.num_samples} and rows={self.rows} must be at least 1.")
        check_precision(self.precision)

    @classmethod
    def in_verdict(cls, pair: Pair) -> dict[str, dict[str, int]]:
        """Ask for a thousand draws, which tell whether more would help."""
        return {cls.name: {"num_samples": 1000}}

    def __call__(self, pair: Pair, data: Rows) -> Evidence:
        """Estimate log p(x) of every datapoint."""
        return with_rounding(joined([self.averaged(log_weights) for log_weights in self.log_weights(pair, data)]), pair)

    def log_weights(self, pair: Pair, data: Rows) -> Iterator[Tensor]:
        """The log-weights of a few datapoints after the other, ``[K, batch]`` in float64 on the CPU."""
        points = max(1, min(self.rows // _DRAWS_AT_ONCE, _WEIGHTS // self.num_samples))
        weigh = _Weigher(pair, self.precision, len(data) * self.num_samples / self.rows, self.rows)
        for part in chunks(data, points):
            yield self._log_weights(weigh, part)

    def averaged(self, log_weights: Tensor) -> Evidence:
        """The evidence of a few datapoints by their log-weights ``[K, batch]``."""
        total = log_weights.logsumexp(0)
        khat = pareto_khat(log_weights.T) if self.num_samples >= FEWEST_FOR_KHAT else None
        # A guide may be far too narrow, and fewer weights show no tail.
        errors = not_known(total) if khat is None else log_mean_errors(log_weights, khat)
        return Evidence(
            method="importance",
            direction="lower bound",
            log_px=total - math.log(self.num_samples),
            num_samples=self.num_samples,
            ess=(2 * total - (2 * log_weights).logsumexp(0)).exp(),
            khat=khat,
            **errors._asdict(),
        )

    def _log_weights(self, weigh: Weigh, part: Data) -> Tensor:
        """The log-weights of a few datapoints, ``[K, batch]`` in float64 on the CPU."""
        at_once = max(1, self.rows // len(part[0]))
        # Written into one tensor: hundreds of small ones would leave holes in memory that no chunk can fill.
        log_weights = torch.empty(self.num_samples, len(part[0]), dtype=torch.float64)
        for first in range(0, self.num_samples, at_once):
            count = min(at_once, self.num_samples - first)
            log_weights[first : first + count] = weigh(part, count)
        return log_weights


def joined(parts: Sequence[Evidence]) -> Evidence:
    """The evidence of all datapoints from that of a few after the other."""
    return replace(
        parts[0],
        log_px=torch.cat([part.log_px for part in parts]),
        ess=_cat([part.ess for part in parts]),
        khat=_cat([part.khat for part in parts]),
        own_errors=_cat([part.own_errors for part in parts]),
        scatter=_cat([part.scatter for part in parts]),
        biases=_cat([part.biases for part in parts]),
    )


def _cat(values: Sequence[Tensor | None]) -> Tensor | None:
    known = [value for value in values if value is not None]
    return torch.cat(known) if known else None


class _Weigher:
    """Log-weights ``[count, batch]`` of draws from the guide, by one graph for each shape where that pays."""

    def __init__(self, pair: Pair, precision: str, evaluations: float, rows: int) -> None:
        self.pair, self.precision = pair, precision
        self.capture, self.compile = evaluations >= _WORTH_CAPTURING, worth_compiling(int(evaluations), rows)
        self._graphs: dict[tuple[int, int], Callable[..., tuple[Tensor, ...]]] = {}

    def __call__(self, part: Data, count: int) -> Tensor:
        def log_weight(*data: Tensor) -> tuple[Tensor]:
            with products_in(self.precision):
                return (self.pair.cloud(data, count).log_weight,)

        if not self.capture:
            return log_weight(*part)[0]
        shape = (len(part[0]), count)
        if shape not in self._graphs:
            self._graphs[shape] = captured(log_weight, *part, compile=self.compile)
        return self._graphs[shape](*part)[0]
