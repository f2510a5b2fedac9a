r"""Monte Carlo standard errors that two of which cover in 95 % of repeats.

    of log 1/K sum_k w_k:   e = t s + s^2 / 2 + (m - 1/K) k / (1 - k),      s^2 = (1 / ESS - 1 / K) K / (K - 1)
    of 1/K sum_k b_k:       e = (t + 3/4 |g| / sqrt K) s,                   s^2 = var(b) / K
    of rounding:            e = eps (1 + |log p|)

Each is made so that the true value lies within two of it as often as within two standard deviations of a normal
variable. ``t`` is half of Student's t at that level, as few draws do not know their own spread; ``s^2 / 2`` is the bias
of a logarithm (the delta method) and ``g`` the skewness (Johnson's modified t). The last term of the first is for what
a heavy tail holds beyond the largest of K draws: of a tail of shape ``k`` about ``m k / (1 - k)`` of the whole, ``m``
being the largest weight's share. ``k`` is estimated, and most draws of a heavy tail look like those of a lighter one:
its upper 99 % limit is taken, k + 2.33 (1 + k) / sqrt M of the M weights in the tail, where k = (k-hat (M + 10) - 5) /
M is k-hat before it was shrunk; but no more than .9, which is nine times the largest weight.

Over datapoints the scatter ``s`` averages out, and so does the allowance that is made for not knowing it, faster; the
bias does not.

An error is of the estimator's own scatter, about the value that more draws *of the same kind* would lead to. A mode of
the posterior that no draw reached is in no weight, so it is in no error and in no k-hat either.

References:
    Monte Carlo Theory, Methods and Examples (Owen, 2013), sec. 2.7 and 9.2, https://artowen.su.domains/mc/; Modified t
    Tests and Confidence Intervals for Asymmetrical Populations (Johnson, 1978), JASA 73; Pareto Smoothed Importance
    Sampling (Vehtari et al., 2024), https://arxiv.org/abs/1507.02646, for the tail and how k-hat is shrunk; Estimating
    Tails of Probability Distributions (Smith, 1987), Annals of Statistics 15, for the scatter of k; The Sample Size
    Required in Importance Sampling (Chatterjee & Diaconis, 2018), https://arxiv.org/abs/1511.01437, for when there are
    too few.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from ..pairs.pair import Pair
from .evidence import Evidence

__all__ = [
    "FEWEST_CHAINS",
    "FEWEST_DRAWS",
    "FEWEST_FOR_KHAT",
    "Errors",
    "log_mean_errors",
    "mean_errors",
    "not_known",
    "rounding_errors",
    "with_rounding",
]

FEWEST_CHAINS = 4  # annealed weights: below, no spread of theirs says anything
FEWEST_DRAWS = 10  # log-weights, whose skewness takes more to be seen
FEWEST_FOR_KHAT = 25  # weights: below, no five of them make a tail to fit a Pareto to

_TWO_SIGMA = 0.9772498680518208  # the probability of lying below two standard deviations of a normal variable
_LIMIT = 2.33  # standard deviations of k-hat to its upper 99 % limit
_PRIOR_DRAWS = 10  # of shape 1/2, that k-hat is shrunk by
_HEAVIEST = 0.9  # above, a tail would hold more than ten times its largest weight


class Errors(NamedTuple):
    """Errors of N numbers, the scatter in them and what is bias, each ``[N]`` in nats and float64."""

    own_errors: Tensor
    scatter: Tensor
    biases: Tensor


def log_mean_errors(log_weights: Tensor, khat: Tensor | None = None, *, unseen: float = 1.0 / 3.0) -> Errors:
    """State the error of the logarithm of an average of weights.

    Args:
        log_weights: Of K independent draws, ``[K, N]``.
        khat: The shape of each tail, ``[N]``, where there are weights enough to fit one.
        unseen: The shape that a tail is taken to have where there are not: as a default the heaviest with a skewness.

    Returns:
        The errors. They are not numbers where there are fewer than four weights, and where nothing bounds what no draw
        has seen: k-hat is one or more or, without it, log-weights spread like those of which exp(spread^2 / 2) > K
        draws are needed.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> log_weights = torch.randn(8, 1000, dtype=torch.float64) * 0.5 - 0.5**2 / 2  # their average is 1
        >>> away = log_weights.logsumexp(0) - math.log(8)
        >>> 0.92 < float((away.abs() < 2 * log_mean_errors(log_weights).own_errors).double().mean()) < 0.99
        True
    """
    draws, log_weights = len(log_weights), log_weights.double()
    total = log_weights.logsumexp(0)
    if draws < FEWEST_CHAINS:
        return not_known(total)
    share = (log_weights - total).exp()
    ess = 1.0 / share.square().sum(0)
    square = (1.0 / ess - 1.0 / draws).clamp(min=0.0) * draws / (draws - 1)
    tail = _upper_limit(khat.to(total), draws) if khat is not None else _unseen_tail(log_weights, unseen)
    beyond = (share.amax(0) - 1.0 / draws).clamp(min=0.0) * tail / (1.0 - tail)
    # The weights that count are as few as their effective number.
    scatter = square.sqrt()
    biases = (square + beyond.clamp(max=1.0).square()) / 2
    return Errors(_half_t(ess - 1.0) * scatter + square / 2 + beyond, scatter, biases)


def mean_errors(values: Tensor) -> Errors:
    """State the error of an average of K independent numbers ``[K, N]``; it is not a number below ten of them."""
    draws, values = len(values), values.double()
    if draws < FEWEST_DRAWS:
        return not_known(values[0])
    away = values - values.mean(0)
    variance = away.square().mean(0)
    skewness = away.pow(3).mean(0) / variance.clamp(min=torch.finfo(torch.float64).tiny) ** 1.5
    shift = 0.75 * skewness.abs() / math.sqrt(draws)  # half of (1 + 2 t^2) / 6 at t = 2
    scatter = (variance / (draws - 1)).sqrt()
    return Errors((_half_t(torch.full_like(variance, draws - 1.0)) + shift) * scatter, scatter, scatter * 0.0)


def not_known(like: Tensor) -> Errors:
    """Errors that are not known, of as many numbers."""
    return Errors(*(torch.full_like(like, math.nan, dtype=torch.float64) for _ in range(3)))


def rounding_errors(pair: Pair, log_px: Tensor) -> Tensor:
    """State how far rounding moves numbers of the size of ``log_px`` ``[N]`` that a pair computes.

    It is taken to be one unit in the last place of the type of the pair's parameters (of its data, where there are
    none): every sample of a datapoint is rounded alike, so it does not average out over them.
    """
    kept = [value for value in (*pair.parameters(), *pair.buffers()) if value.is_floating_point()]
    kept = kept or [part for part in pair.example if part.is_floating_point()]
    types = {value.dtype for value in kept} or {torch.get_default_dtype()}
    return max(torch.finfo(dtype).eps for dtype in types) * (1.0 + log_px.double().abs())


def with_rounding(evidence: Evidence, pair: Pair) -> Evidence:
    """The same evidence, rounding counted in its errors."""
    rounding = rounding_errors(pair, evidence.log_px).to(evidence.errors)
    scatter = evidence.errors if evidence.scatter is None else evidence.scatter
    return replace(evidence, own_errors=evidence.errors.hypot(rounding), scatter=scatter.hypot(rounding))


def _upper_limit(khat: Tensor, draws: int) -> Tensor:
    """The upper 99 % limit of k-hat, between zero and nearly one; not a number where k-hat is one or more."""
    tail = min(0.2 * draws, 3.0 * math.sqrt(draws))
    shape = khat + (khat - 0.5) * _PRIOR_DRAWS / tail  # as it was before it was shrunk
    limit = shape + _LIMIT * (1.0 + shape.clamp(min=0.0)) / math.sqrt(tail)
    return limit.clamp(0.0, _HEAVIEST).where(khat < 1.0, math.nan)


def _unseen_tail(log_weights: Tensor, shape: float) -> Tensor:
    """That shape, or no number where the spread of log-weights ``[K, N]`` about their median asks for more of them."""
    away = log_weights - log_weights.quantile(0.5, dim=0)
    halves = [half.clamp(min=0.0).square().mean(0) for half in (away, -away)]  # half of each variance
    enough = torch.minimum(*halves) <= math.log(len(log_weights))
    return torch.full_like(halves[0], shape).where(enough, math.nan)


def _half_t(freedom: Tensor) -> Tensor:
    """Half the quantile of Student's t that leaves out as much as two standard deviations of a normal variable do."""
    from scipy.stats import t

    return torch.as_tensor(t.ppf(_TWO_SIGMA, freedom.clamp(min=1.0).cpu().numpy())).to(freedom) / 2
