r"""Whether ranks are uniform, by their ECDF at once at every point of a grid; level and p-value are exact.

    T = min_i 2 min{ P(B_i <= C_i), P(B_i >= C_i) },    C_i = #{ranks up to point t_i},    B_i ~ Binomial(S, t_i)

A band of level gamma holds the counts whose own two-sided tail is above gamma. Of uniform ranks the counts are a Markov
chain, C_i - C_{i-1} ~ Binomial(S - C_{i-1}, (t_i - t_{i-1}) / (1 - t_{i-1})), so that the probability of never leaving
a band is a product of matrices: nothing is simulated.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

__all__ = ["band", "counts", "grid", "p_values"]

_CANDIDATES = 32  # levels that are tried at once, twice or thrice
_NEVER = 1e-20  # counts with a smaller tail are taken for impossible: what leaves by them has a p-value below it


def grid(num_draws: int, num_points: int) -> Tensor:
    """Fractions that ranks among ``num_draws`` attain, about ``num_points`` of them, evenly spaced: ``[G]``."""
    even = torch.linspace(0.0, 1.0, num_points + 1, dtype=torch.float64)[1:-1]
    # A rank r of L draws stands for the fraction (r + 1)/(L + 1); the grid is moved onto attained fractions.
    attained = (torch.floor(even * (num_draws + 1) + 1e-9) / (num_draws + 1)).unique()
    return attained[attained > 0]


def counts(ranks: Tensor, num_draws: int, points: Tensor) -> Tensor:
    """Count the ranks ``[S, D]`` that lie up to each point ``[G]`` of the grid: ``[G, D]``."""
    fraction = (ranks.double() + 1.0) / (num_draws + 1)
    return torch.stack([(fraction <= point + 1e-9).sum(0) for point in points])


def p_values(ranks: Tensor, num_draws: int, num_points: int = 50) -> Tensor:
    """The p-value that ranks ``[S, D]`` in 0..num_draws are uniform, one a column: ``[D]``.

    References:
        Graphical Test for Discrete Uniformity (Sailynoja, Burkner & Vehtari, 2022), https://arxiv.org/abs/2103.10522
    """
    points, simulations = grid(num_draws, num_points), len(ranks)
    seen = counts(ranks, num_draws, points)
    tails = _tails(simulations, num_draws, num_points)
    return _leaves(simulations, num_draws, num_points, tails.gather(1, seen).amin(0))


@lru_cache(maxsize=64)
def band(simulations: int, num_draws: int, num_points: int, prob: float) -> tuple[Tensor, Tensor]:
    """The least and the greatest counts ``[G]`` of the narrowest band that uniform ranks keep with ``prob`` or more."""
    tails = _tails(simulations, num_draws, num_points)
    known = tails.unique()  # the levels at which anything changes, in order
    low, high = -1, len(known) - 1  # the last level that is left seldom enough, the first that is left too often
    while high - low > 1:
        tried = torch.linspace(low, high, _CANDIDATES + 2).round().long().unique()[1:-1]
        seldom = int((_leaves(simulations, num_draws, num_points, known[tried]) <= 1.0 - prob).sum())
        low = int(tried[seldom - 1]) if seldom else low
        high = int(tried[seldom]) if seldom < len(tried) else high
    inside = tails > (known[low] if low >= 0 else -1.0)
    return inside.long().argmax(1), simulations - inside.flip(1).long().argmax(1)


@lru_cache(maxsize=16)
def _tails(simulations: int, num_draws: int, num_points: int) -> Tensor:
    """The two-sided binomial tail of every count at every point, ``[G, S + 1]``."""
    from scipy.stats import binom

    where = grid(num_draws, num_points).unsqueeze(-1).numpy()
    count = torch.arange(simulations + 1).numpy()
    below = torch.as_tensor(binom.cdf(count, simulations, where))
    above = torch.as_tensor(binom.sf(count - 1, simulations, where))
    return (2.0 * torch.minimum(below, above)).clamp(max=1.0)


def _leaves(simulations: int, num_draws: int, num_points: int, levels: Tensor) -> Tensor:
    """The probability that the counts of uniform ranks have, at some point, a tail of at most the level: ``[M]``."""
    left = torch.zeros(len(levels), dtype=torch.float64)  # summed by itself: one less the rest would round to zero
    states, before = torch.zeros(1, dtype=torch.long), 0.0
    at = torch.ones(len(levels), 1, dtype=torch.float64)
    points = grid(num_draws, num_points).tolist()
    for tail, point in zip(_tails(simulations, num_draws, num_points), points, strict=True):
        reached = torch.nonzero(tail > _NEVER).squeeze(-1)
        at = at @ _transitions(states, reached, simulations, (point - before) / (1.0 - before))
        out = tail[reached] <= levels.unsqueeze(-1)
        left += (at * out).sum(-1)
        at = at.masked_fill(out, 0.0)
        states, before = reached, point
    return left.clamp(max=1.0)


def _transitions(states: Tensor, reached: Tensor, simulations: int, share: float) -> Tensor:
    """P(count c becomes c' when each of the S - c others arrives with probability ``share``), ``[c, c']``."""
    log_factorial = torch.lgamma(torch.arange(simulations + 1, dtype=torch.float64) + 1.0)
    rest = (simulations - states).unsqueeze(-1)
    more = reached - states.unsqueeze(-1)
    possible = (more >= 0) & (more <= rest)
    more = torch.where(possible, more, 0)
    log_p = log_factorial[rest] - log_factorial[more] - log_factorial[rest - more]
    log_p = log_p + more * math.log(share) + (rest - more) * math.log1p(-share)
    return log_p.exp() * possible
