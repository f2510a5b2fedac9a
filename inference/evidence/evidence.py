"""One log p(x) a datapoint, and how far to trust it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from ..pairs.data import Rows
from ..pairs.pair import Pair
from .provenance import Provenance

__all__ = ["Direction", "Estimator", "Evidence", "khat_threshold"]

Direction = Literal["lower bound", "upper bound", "estimate", "exact"]


def khat_threshold(num_samples: int) -> float:
    """The k-hat above which an average of so many weights is not to be trusted, min(1 - 1 / log10 S, 0.7).

    Example:
        >>> khat_threshold(100), khat_threshold(5000)
        (0.5, 0.7)

    References:
        Pareto Smoothed Importance Sampling (Vehtari et al., 2024), sec. 3.2.4, https://arxiv.org/abs/1507.02646
    """
    return min(1.0 - 1.0 / math.log10(num_samples), 0.7) if num_samples > 1 else math.nan


@dataclass(frozen=True, repr=False)
class Evidence:
    """Estimates of log p(x), one per datapoint.

    Args:
        method: The estimator's name.
        direction: Whether the numbers lie below log p(x) in expectation, above it, scatter around it, or equal it.
        log_px: ``[N]``, in nats.
        num_samples: The samples per datapoint it took.
        ess: Effective sample size of the importance weights, ``[N]``, where there are weights.
        khat: Pareto shape of the largest weights, ``[N]``; above :func:`khat_threshold` of as many samples the estimate
            is not to be trusted.
        notes: Sentences a reader should see beside the number.
        own_errors: Monte Carlo standard error of each number, ``[N]``, in nats; not a number where it is not known.
        scatter: The standard deviation of each number that its error allows more than once for, ``[N]``, as so few
            samples do not know it; as a default the errors themselves.
        biases: The part of each error that does not average out over datapoints, ``[N]``: a logarithm of an average
            lies to one side.
        why_unknown: Why the error is not known where there are samples enough, as the end of a sentence.
        provenance: What the numbers are of: rows, units, measure; ``None`` where evidence was built by hand.

    Two errors cover log p(x) (of the bound: its expectation) in 95 % of repeats, or the error is not a number and
    ``unknown`` says why. They are of the estimator's own scatter, given that its draws reach the posterior's mass: a
    mode that no draw reached is in no error and no k-hat (see :mod:`errors`).
    """

    method: str
    direction: Direction
    log_px: Tensor
    num_samples: int
    ess: Tensor | None = None
    khat: Tensor | None = None
    notes: tuple[str, ...] = ()
    own_errors: Tensor | None = None
    scatter: Tensor | None = None
    biases: Tensor | None = None
    why_unknown: str = ""
    provenance: Provenance | None = None

    def __repr__(self) -> str:
        share = self.khat_share
        parts = [
            f"{self.mean:.4g} +- {self.standard_error:.2g} nats per datapoint over {len(self.log_px)}",
            self.direction,
        ]
        parts += [] if share is None else [f"k-hat over {khat_threshold(self.num_samples):.2f} on {share:.0%}"]
        return f"Evidence({self.method}: {', '.join([*parts, *self.remarks])})"

    @property
    def mean(self) -> float:
        """The mean over datapoints, nats per datapoint."""
        return float(self.log_px.double().mean())

    @property
    def standard_error(self) -> float:
        """The standard error of the mean over datapoints (their spread over sqrt(N)), in nats."""
        if len(self.log_px) < 2:
            return math.nan
        return float(self.log_px.double().std() / math.sqrt(len(self.log_px)))

    @property
    def errors(self) -> Tensor:
        """The Monte Carlo standard error of each number, ``[N]``, in nats: zero if exact, not a number if not known."""
        if self.own_errors is not None:
            return self.own_errors
        return torch.full(self.log_px.shape, 0.0 if self.direction == "exact" else math.nan, dtype=torch.float64)

    @property
    def monte_carlo_error(self) -> float | None:
        """The part of the mean's error that more samples would take away; ``None`` where a datapoint's is not known.

        It is ||scatter|| / N + ||errors - scatter|| / N^(3/2) + (1 - 1/N) mean(biases): of one datapoint its error, and
        of many their common scatter and bias. The rest of the mean's error is the datapoints' own spread.
        """
        errors, points = self.errors.double(), len(self.errors)
        scatter = errors if self.scatter is None else self.scatter.double()
        excess = torch.zeros(()) if self.scatter is None else errors - scatter  # an infinite error less itself is none
        allowance = torch.linalg.vector_norm(excess) / points**1.5
        bias = torch.zeros(()) if self.biases is None else (1.0 - 1.0 / points) * self.biases.double().mean()
        error = float(torch.linalg.vector_norm(scatter) / points + allowance + bias)
        return None if math.isnan(error) else error

    @property
    def unknown(self) -> str:
        """On how many datapoints the Monte Carlo error is not known, and why; empty where it is known on all."""
        lost = int(self.errors.isnan().sum())
        if not lost:
            return ""
        why = self.why_unknown or f"num_samples={self.num_samples} is too few to tell how much such weights scatter"
        return f"the Monte Carlo error is not known on {lost} of {len(self.errors)} datapoints: {why}"

    @property
    def remarks(self) -> tuple[str, ...]:
        """The notes, and where the error is not known."""
        return (*self.notes, self.unknown) if self.unknown else self.notes

    def first(self, count: int) -> Evidence:
        """The same of the first datapoints alone."""
        columns = ("log_px", "ess", "khat", "own_errors", "scatter", "biases")
        shorter = {c: v[:count] for c in columns if (v := getattr(self, c)) is not None}
        return replace(self, **shorter, provenance=None)  # which is of all of the data

    @property
    def khat_share(self) -> float | None:
        """The share of datapoints whose k-hat is above :func:`khat_threshold` of as many samples, or no number."""
        return None if self.khat is None else len(self.doubtful) / len(self.khat)

    @property
    def doubtful(self) -> Tensor:
        """The rows whose k-hat is above the threshold for so many samples (or no number), the worst first."""
        if self.khat is None:
            return torch.zeros(0, dtype=torch.long)
        worst = torch.where(self.khat.isnan(), torch.inf, self.khat)
        order = worst.argsort(descending=True)
        return order[worst[order] > khat_threshold(self.num_samples)]

    def record(self, split: str) -> dict[str, Any]:
        """The row of ``evidence.json`` for a split of the data."""
        return {
            "method": self.method,
            "split": split,
            "direction": self.direction,
            "mean": self.mean,
            "standard_error": self.standard_error,
            "monte_carlo_error": self.monte_carlo_error,
            "num_points": len(self.log_px),
            "num_samples": self.num_samples,
            **self._khat_record(),
            **({"notes": list(self.remarks)} if self.remarks else {}),
            **({"provenance": {**self.provenance.record(), "split": split}} if self.provenance else {}),
        }

    def _khat_record(self) -> dict[str, float | None]:
        """The share above the threshold, the threshold, and the share above 0.7, which older files hold alone."""
        known = self.khat is not None
        return {
            "khat_over_threshold": self.khat_share,
            "khat_threshold": khat_threshold(self.num_samples) if known else None,
            "khat_over_0.7": float((~(self.khat <= 0.7)).double().mean()) if self.khat is not None else None,
        }


class Estimator(Protocol):
    """Anything that maps a checked pair and a data set to an :class:`Evidence`.

    A class of estimators with a ``name`` may say more: ``in_verdict(pair)``, a class method, under which names and with
    which options a verdict asks it (``{name: {}}`` where it says nothing); ``applies_to(pair)``, why it has no answer
    to give in a verdict, in a sentence, or ``None``.
    """

    def __call__(self, pair: Pair, data: Rows) -> Evidence:
        """Estimate log p(x) of every datapoint; called under no_grad with the pair in evaluation mode."""
