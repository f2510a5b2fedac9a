r"""Monte Carlo standard errors that two of which cover in 95 % of repeats.

    of log 1/K sum_k w_k:   e = |(t s, h)| + s^2 / 2,              h = (m - 1/K) k / (1 - k)
    of 1/K sum_k b_k:       e = |((t + 3/4 |g| / sqrt K) s, h)|,   h = m k / (1 - k)
    of rounding:            e = eps (1 + |log p|)

Each is made so that the true value lies within two of it as often as within two standard deviations of a normal
variable. ``t`` is half of Student's t at that level, as few draws do not know their own spread; ``s^2 / 2`` is the bias
of a logarithm (the delta method), where s^2 = (1 / ESS - 1 / K) K / (K - 1); of numbers b it is var(b) / K, and ``g``
is their skewness (Johnson's modified t). ``h`` is what a heavy tail holds beyond
the largest of K draws: of a tail of shape ``k`` about ``k / (1 - k)`` times what that one adds to the average, ``m``.
``k`` is estimated, and most draws of a heavy tail look like those of a lighter one: an upper limit is taken,
k + c (1 + k) / sqrt M of the M draws in the tail, where k = (k-hat (M + 10) - 5) / M is k-hat before it was shrunk; but
no more than .93, which is thirteen times the largest. Of weights, whose bias all goes one way, it is the 99 % limit
(c = 2.33), of other numbers the 95 % limit (c = 1.64). A limit is seldom met, so ``h`` and the scatter add as squares
do.

Weights of annealed chains are too few to show their tail, but that of the path's start is seen in draws of it. Under
s^(1-b) p^b a ratio p/s of shape ``k`` under s has the shape k / (1 - b k), so a chain that stays where it is while b
moves on by d weighs with the shape d k / (1 - b k): the largest over the path is taken, of stays of four temperatures.

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

from ..arviz_compat import pareto_khat
from ..pairs.pair import Pair
from .evidence import Evidence

__all__ = [
    "FEWEST_CHAINS",
    "FEWEST_DRAWS",
    "FEWEST_FOR_KHAT",
    "Errors",
    "annealed_tail",
    "log_mean_errors",
    "mean_errors",
    "not_known",
    "rounding_errors",
    "spread_error",
    "with_rounding",
]

FEWEST_CHAINS = 4  # annealed weights: below, no spread of theirs says anything
FEWEST_DRAWS = 100  # log-weights: below, no twenty of them make a tail to be told from a light one
FEWEST_FOR_KHAT = 25  # weights: below, no five of them make a tail to fit a Pareto to

_TINY = torch.finfo(torch.float64).tiny
_TWO_SIGMA = 0.9772498680518208  # the probability of lying below two standard deviations of a normal variable
_LIMIT = 2.33  # standard deviations of k-hat to its upper 99 % limit
_LIMIT_OF_MEANS = 1.64  # to its upper 95 % limit
_PRIOR_DRAWS = 10  # of shape 1/2, that k-hat is shrunk by
_HEAVIEST = 0.93  # above, a tail would hold more than thirteen times its largest weight
_SMALL = 0.05  # the share of the largest weight below which no tail is as heavy as a k-hat of one or more says
_UNSEEN = 1.0 / 3.0  # the heaviest shape of a tail that has a skewness
_LARGEST_SHAPE = 2.0  # of a start; above, draws show how far off they are and no shape of a tail
_STAY = 4  # temperatures: of chains that accept two proposals in three, one in twenty-five stays in place so long
_NO_MEAN_SEEN = 0.7  # shape above which no practical number of draws finds the average of their weights


class Errors(NamedTuple):
    """Errors of N numbers, the scatter in them and what is bias, each ``[N]`` in nats and float64."""

    own_errors: Tensor
    scatter: Tensor
    biases: Tensor


def log_mean_errors(log_weights: Tensor, khat: Tensor | None = None, *, unseen: float | Tensor = _UNSEEN) -> Errors:
    """State the error of the logarithm of an average of weights.

    Args:
        log_weights: Of K independent draws, ``[K, N]``.
        khat: The shape of each tail, ``[N]``, where there are weights enough to fit one.
        unseen: The shape that each tail is taken to have where there are not, a number or ``[N]``: as a default the
            heaviest with a skewness.

    Returns:
        The errors. They are not numbers where there are fewer than four weights, and where nothing bounds what no draw
        has seen: k-hat is one or more and the largest weight a good part of all or, without k-hat, log-weights spread
        like those of which exp(spread^2 / 2) > K draws are needed.

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
    largest, scatter = share.amax(0), square.sqrt()
    known = _unseen_tail(log_weights, unseen) if khat is None else _seen_tail(khat.to(total), draws, largest, _LIMIT)
    beyond = (largest - 1.0 / draws).clamp(min=0.0) * known / (1.0 - known)
    # The weights that count are as few as their effective number.
    allowed = _half_t(ess - 1.0) * scatter
    biases = (square + beyond.clamp(max=1.0).square()) / 2
    # A limit is seldom met, but of what is merely taken to be there all is allowed for.
    return Errors((allowed + beyond if khat is None else allowed.hypot(beyond)) + square / 2, scatter, biases)


def spread_error(values: Tensor) -> float:
    """The error of the mean of numbers ``[N]`` by their own spread, (t + 3/4 |g| / sqrt N) s; no number for just one.

    With many it is the standard error, s; with tens, two of that one cover less than 95 %, and with less than ten so do
    two of this one, if they are skewed.
    """
    values = values.double().cpu()
    away = values - values.mean()
    if len(values) < 2:
        return math.nan
    return float(_allowed(away, _skewness(away)) * away.square().mean(0).div(len(values) - 1).sqrt())


def mean_errors(values: Tensor) -> Errors:
    """State the error of an average of K independent numbers ``[K, N]``.

    It is not a number below a hundred of them, which do not show whether they have a variance, and where the tail on
    the side to which they are skewed has a k-hat of one or more, as of numbers that have no mean.
    """
    draws, values = len(values), values.double()
    if draws < FEWEST_DRAWS:
        return not_known(values[0])
    away = values - values.mean(0)
    skewness = _skewness(away)
    scatter = (away.square().mean(0) / (draws - 1)).sqrt()
    allowed = _allowed(away, skewness) * scatter
    return Errors(allowed.hypot(_beyond(away * skewness.sign())), scatter, scatter * 0.0)


def annealed_tail(start_khat: Tensor, num_draws: int, betas: Tensor) -> Tensor:
    """The shape that the tail of annealed chains' weights may have, ``[N]``: at least 1/3, not a number above .7.

    Args:
        start_khat: k-hat of p/s under the path's start, ``[N]``.
        num_draws: Draws of the start that it was found from.
        betas: The inverse temperatures from 0 to 1, ``[T + 1]``.
    """
    shape = _limit(start_khat.double(), num_draws, _LIMIT).clamp(0.0, _LARGEST_SHAPE)
    ahead = torch.cat([betas, betas.new_ones(_STAY)])[_STAY:] - betas
    stays = ahead.unsqueeze(-1) * shape / (1.0 - betas.unsqueeze(-1) * shape.clamp(max=_HEAVIEST))
    tail = stays.amax(0)
    return tail.clamp(min=_UNSEEN).where(tail <= _NO_MEAN_SEEN, math.nan)


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


def _limit(khat: Tensor, draws: int, deviations: float) -> Tensor:
    """The upper limit of k-hat, as it was before it was shrunk, so many standard deviations above it."""
    tail = min(0.2 * draws, 3.0 * math.sqrt(draws))
    shape = khat + (khat - 0.5) * _PRIOR_DRAWS / tail
    return shape + deviations * (1.0 + shape.clamp(min=0.0)) / math.sqrt(tail)


def _seen_tail(khat: Tensor, draws: int, largest: Tensor, deviations: float) -> Tensor:
    """An upper limit of k-hat; no number where that is one or more and the largest draw's share is not small.

    Draws that are nearly all alike, and now and then far above the rest, have a k-hat of two or three, as what lies
    beyond the threshold is mostly next to nothing: .7 is taken there, as a heavier tail has no such small share.
    """
    limit = _limit(khat, draws, deviations).clamp(0.0, _HEAVIEST)
    return limit.where(khat < 1.0, torch.full_like(limit, _NO_MEAN_SEEN).where(largest < _SMALL, math.nan))


def _unseen_tail(log_weights: Tensor, shape: float | Tensor) -> Tensor:
    """That shape, or no number where the spread of log-weights ``[K, N]`` about their median asks for more of them."""
    away = log_weights - log_weights.quantile(0.5, dim=0)
    halves = [half.clamp(min=0.0).square().mean(0) for half in (away, -away)]  # half of each variance
    enough = torch.minimum(*halves) <= math.log(len(log_weights))
    return (shape + torch.zeros_like(halves[0])).where(enough, math.nan)


def _skewness(away: Tensor) -> Tensor:
    """The skewness of numbers ``[K, ...]`` about zero."""
    return (away / away.square().mean(0).sqrt().clamp(min=_TINY)).pow(3).mean(0)


def _allowed(away: Tensor, skewness: Tensor) -> Tensor:
    """How many standard errors of a mean are taken, t + 3/4 |g| / sqrt K: half of (1 + 2 t^2) / 6 at t = 2 is 3/4."""
    count = len(away)
    return _half_t(torch.full_like(skewness, count - 1.0)) + 0.75 * skewness.abs() / math.sqrt(count)


def _beyond(away: Tensor) -> Tensor:
    """What the upper tail of numbers ``[K, N]`` about zero holds beyond their largest, as a part of their average."""
    upper = away.clamp(min=_TINY)
    largest = upper.amax(0)
    tail = _seen_tail(pareto_khat(upper.log().T).to(away), len(away), largest / upper.sum(0), _LIMIT_OF_MEANS)
    return largest / len(away) * tail / (1.0 - tail)


def _half_t(freedom: Tensor) -> Tensor:
    """Half the quantile of Student's t that leaves out as much as two standard deviations of a normal variable do."""
    from scipy.stats import t

    return torch.as_tensor(t.ppf(_TWO_SIGMA, freedom.clamp(min=1.0).cpu().numpy())).to(freedom) / 2
