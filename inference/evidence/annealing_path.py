r"""The path that an annealed chain walks: from a density that can be drawn from to the posterior.

    log f_b(u) = log s(u) + b [log p(x, u) - log s(u)],     0 = b_0 < b_1 < ... < b_T = 1,

in unconstrained coordinates u. The start s is the prior, the guide, or the normal with the moments of the guide's
draws, which asks nothing of the guide but draws.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ..arviz_compat import pareto_khat
from ..graphs.traced_function import worth_compiling
from ..pairs.pair import Pair
from ..pairs.sites import Data
from ..pairs.unconstrained import flatten, unflatten
from ..posterior.hmc import WORTH_CAPTURING, Terms, with_gradients

__all__ = ["SCHEDULES", "STARTS", "START_DRAWS", "Path", "ladder", "path_from"]

STARTS = ("prior", "guide", "moments")
SCHEDULES = ("sigmoid", "linear")

START_DRAWS = 2000  # of the start, to see the tail of its weights
_DRAWS = 500  # of the guide, to learn its moments or scales from: at least so many
_RIDGE = 0.1  # of the prior's scale: a guide may be far too narrow, and a chain widens worse than it narrows


class Path(NamedTuple):
    """A path of densities for a few datapoints.

    ``draw(count)`` gives starting points ``[count, batch, D]``; ``terms`` has two terms, log s and log p(x, u) - log s,
    and ``densities`` the same without their gradients; ``scale`` ``[batch, D]`` says how far one reaches in each
    coordinate.
    """

    draw: Callable[[int], Tensor]
    terms: Terms
    densities: Callable[[Tensor], tuple[Tensor, Tensor]]
    scale: Tensor

    def start_khat(self, at_once: int) -> Tensor:
        """k-hat of the weights p(x, u) / s(u) of draws of the start, so many at once: ``[batch]`` in float64."""
        counts = [min(at_once, START_DRAWS - first) for first in range(0, START_DRAWS, at_once)]
        return pareto_khat(torch.cat([self.densities(self.draw(count))[1].cpu() for count in counts]).T)


def ladder(count: int, schedule: str) -> Tensor:
    """Inverse temperatures from 0 to 1, ``[count + 1]``: evenly spaced, or crowded at both ends by a sigmoid."""
    even = torch.linspace(0.0, 1.0, count + 1, dtype=torch.float64)
    if schedule == "linear":
        return even
    curve = torch.sigmoid(4.0 * (2.0 * even - 1.0))
    return (curve - curve[0]) / (curve[-1] - curve[0])


def path_from(pair: Pair, part: Data, start: str, num_chains: int, *, evaluations: int) -> Path:
    """The path of a few datapoints.

    Args:
        pair: A checked pair.
        part: The datapoints.
        start: ``"prior"``, ``"guide"`` or ``"moments"``.
        num_chains: Chains a datapoint that walk it.
        evaluations: How long the walk is: both terms and their gradients become one graph where that pays.

    Raises:
        ValueError: The path starts at a guide whose density cannot be had.
    """
    # A dream costs memory for its observations as well, so a few blank datapoints stand for the prior of all.
    prior_scale = _spread(flatten(pair, pair.sample_prior(pair.blank(2), _DRAWS)).flatten(0, 1))
    prior_scale = prior_scale.expand(len(part[0]), -1)
    if start == "prior":
        scale, (draw, densities) = prior_scale, _from_prior(pair, part)
    else:
        draws = flatten(pair, pair.sample_guide(part, max(_DRAWS, 10 * prior_scale.shape[-1])))
        ridge = _RIDGE * prior_scale
        scale = (draws.var(0) + ridge.square()).sqrt()
        draw, densities = _from_guide(pair, part) if start == "guide" else _from_moments(pair, part, draws, ridge)
    example = draw(num_chains) if evaluations >= WORTH_CAPTURING else None
    compile = worth_compiling(evaluations, num_chains * len(part[0]))
    return Path(draw, with_gradients(densities, example, compile=compile), densities, scale)


def _spread(draws: Tensor) -> Tensor:
    """A standard deviation that a heavy tail does not rule, of draws ``[K, D]``."""
    low, high = draws.quantile(torch.tensor([0.16, 0.84], dtype=draws.dtype, device=draws.device), dim=0)
    return (0.5 * (high - low)).clamp(min=1e-6)


Start = tuple[Callable[[int], Tensor], Callable[[Tensor], tuple[Tensor, Tensor]]]


def _from_prior(pair: Pair, part: Data) -> Start:
    def draw(count: int) -> Tensor:
        return flatten(pair, pair.sample_prior(part, count))

    def densities(u: Tensor) -> tuple[Tensor, Tensor]:
        z, log_det = unflatten(pair, u)
        log_prior, log_lik = pair.log_densities(z, part)
        return log_prior + log_det, log_lik

    return draw, densities


def _from_guide(pair: Pair, part: Data) -> Start:
    if pair.guide is None:
        raise ValueError("start='guide' needs a guide and this pair has none; use start='prior'.")
    pair.insist_on_density()

    def draw(count: int) -> Tensor:
        return flatten(pair, pair.sample_guide(part, count))

    def densities(u: Tensor) -> tuple[Tensor, Tensor]:
        z, log_det = unflatten(pair, u)
        log_guide = pair.log_guide(z, part)
        return log_guide + log_det, pair.log_joint(z, part) - log_guide

    return draw, densities


def _from_moments(pair: Pair, part: Data, draws: Tensor, ridge: Tensor) -> Start:
    """The normal with the mean and the covariance of a guide's draws ``[K, batch, D]``, widened by a ridge."""
    mean = draws.mean(0)
    centred = (draws - mean).movedim(0, 1)  # [batch, K, D]
    covariance = centred.mT @ centred / (draws.shape[0] - 1)
    factor = torch.linalg.cholesky(covariance + torch.diag_embed(ridge.square()))
    identity = torch.eye(draws.shape[-1], dtype=draws.dtype, device=draws.device)
    whiten = torch.linalg.solve_triangular(factor, identity, upper=False)
    log_norm = whiten.diagonal(dim1=-2, dim2=-1).log().sum(-1) - 0.5 * draws.shape[-1] * math.log(2.0 * math.pi)

    def draw(count: int) -> Tensor:
        noise = torch.randn(count, *mean.shape, dtype=mean.dtype, device=mean.device)
        return mean + (factor @ noise.unsqueeze(-1)).squeeze(-1)

    def densities(u: Tensor) -> tuple[Tensor, Tensor]:
        z, log_det = unflatten(pair, u)
        noise = (u - mean).movedim(0, -2) @ whiten.mT  # [batch, K, D]
        log_start = (log_norm.unsqueeze(-1) - 0.5 * noise.square().sum(-1)).mT
        return log_start, pair.log_joint(z, part) + log_det - log_start

    return draw, densities
