r"""The marginal likelihood of up to three latent dimensions by adaptive quadrature.

    p(x) = int p(x, u) du = int p(x, u(t)) |du/dt| dt,     u = m + s t / (1 - t^2),     -1 < t < 1,

in unconstrained coordinates u, with m and s the middle and the width of the prior: the whole space is one cube, heavy
tails and data far out among it, which boxes of every size cover (:mod:`cubature`). Draws of the prior and the guide,
and the summits of the joint density and of the likelihood to which a search leads from there, are landmarks that no
box may overlook.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..pairs.data import Rows, chunks
from ..pairs.pair import Pair
from ..pairs.sites import Data
from ..pairs.unconstrained import dimension, flatten, like, unflatten
from .cubature import Integral, Landmarks, integrate
from .evidence import Evidence

__all__ = ["MOST_DIMENSIONS", "Quadrature"]

MOST_DIMENSIONS = 3
_CELLS = {1: 32, 2: 8, 3: 4}  # boxes a dimension to begin with
_PRIOR_POINTS = 20_000  # by which the prior is looked at
_IMPROPER = 0.1  # nats by which it may hold more than one, for all that rounding does
_POINTS = 50  # datapoints of a chunk
_DRAWS = 500  # of the prior, a datapoint and round
_ROUNDS = 10  # by which a part of the prior that holds a thousandth of it is met
_KEPT = 10  # of a round's draws after the first, those with the highest joint density
_GUIDE_DRAWS = 50
_CLIMBERS = 2  # a datapoint and landscape
_CLIMB = 60  # steps
_STRIDE = 0.1  # the first of them
_BRINK = 1e-12  # how near the cube's faces they come
_ROUND_TRIP = 0.02  # by which the way to a latent and back may move a coordinate, of its size
_AIM = 1e-4  # the error in nats below which no box is cut any more
_TOLERANCE = 1e-3  # the error in nats above which a number is no longer called exact
_LISTED = 10  # rows that a note names


@dataclass(frozen=True)
class Quadrature:
    """Integrate the latents out on boxes that adapt to each posterior; it needs no guide, and uses one there is.

    The errors are what the last refinement changed, what unresolved boxes may hold, and the rounding of log p(x, z).
    Where they exceed a thousandth of a nat on any datapoint, the whole is an estimate, and a note names the rows. A
    peak that is far narrower than the boxes, that no draw meets and to which no slope leads cannot be seen.

    Args:
        num_cells: Boxes a dimension to begin with; ``None`` takes 32, 8 and 4 for one, two and three dimensions.
        most_points: Points a datapoint after which no box is cut any more.

    Raises:
        ValueError: The model has more than three (unconstrained) latent dimensions, its prior's density integrates to
            more than one, or a number is below 1.

    References:
        An Adaptive Algorithm for Numerical Integration over an N-dimensional Cube (van Dooren & de Ridder, 1976)
    """

    name = "quadrature"
    num_cells: int | None = None
    most_points: int = 300_000

    def __post_init__(self) -> None:
        if (self.num_cells is not None and self.num_cells < 1) or self.most_points < 1:
            raise ValueError(f"num_cells={self.num_cells} and most_points={self.most_points} must be at least 1.")

    def __call__(self, pair: Pair, data: Rows) -> Evidence:
        """Integrate for every datapoint."""
        dim = dimension(pair)
        if dim > MOST_DIMENSIONS:
            raise ValueError(
                f"quadrature takes up to three latent dimensions, but this model has {dim}; use "
                "importance sampling, or annealed importance sampling, which do not mind."
            )
        _refuse_unless_proper(pair)
        answers = [_Posterior(pair, part).integral(self.num_cells, self.most_points) for part in chunks(data, _POINTS)]
        log_px, log_error, points = (torch.cat(parts).cpu() for parts in zip(*answers, strict=True))
        errors = (log_error - log_px).exp().log1p() + _rounding(pair) * log_px.abs()
        bad = torch.nonzero(~(errors <= _TOLERANCE)).flatten().tolist()
        return Evidence(
            method="quadrature",
            direction="estimate" if bad else "exact",
            log_px=log_px,
            num_samples=int(points.max()),
            notes=(_note(bad, errors),) if bad else (),
            own_errors=errors,
        )


def _refuse_unless_proper(pair: Pair) -> None:
    """Refuse a prior whose density, over the support it names, holds more than one (an angle on the whole line)."""
    prior = _Posterior(pair, pair.blank(1), with_data=False).integral(None, _PRIOR_POINTS)
    if float(prior.log_value) > _IMPROPER:
        supports = {site.name: site.support for site in pair.latents}
        raise ValueError(
            f"the prior's density integrates to {float(prior.log_value.exp()):.3g}, not to one, over the supports that "
            f"it names, {supports}, so no integral over them is p(x); use importance sampling, whose guide draws where "
            "the prior does."
        )


def _note(bad: list[int], errors: Tensor) -> str:
    listed = ", ".join(map(str, bad[:_LISTED])) + (", ..." if len(bad) > _LISTED else "")
    return (
        f"not exact on {len(bad)} of {len(errors)} datapoints, where quadrature is off by up to "
        f"{float(errors[bad].max()):.2g} nats: rows {listed}"
    )


def _rounding(pair: Pair) -> float:
    """The relative error of a log-density."""
    return torch.finfo(like(pair).dtype).eps


class _Posterior:
    """The unnormalised posteriors of a few datapoints on the cube; without data their prior."""

    def __init__(self, pair: Pair, part: Data, with_data: bool = True) -> None:
        self.pair, self.part, self.dtype, self.with_data = pair, part, like(pair).dtype, with_data
        draws = _finite(flatten(pair, pair.sample_prior(part, _DRAWS)).double())  # [S, R, D]
        low, self.middle, high = draws.quantile(torch.tensor([0.16, 0.5, 0.84]).to(draws), dim=0)
        self.width = (high - low).clamp(min=1e-6 * (1.0 + self.middle.abs()))
        if pair.guide is not None and with_data:
            guided = _finite(flatten(pair, pair.sample_guide(part, _GUIDE_DRAWS)).double())
            draws = torch.cat([draws, guided])
        self.draws = self._to_cube(draws)
        self.rows = torch.arange(self.draws.shape[1], device=self.draws.device)

    def integral(self, cells: int | None, most: int) -> Integral:
        rounding = torch.finfo(self.dtype).eps
        cells = cells or _CELLS[self.draws.shape[-1]]
        landmarks = self._landmarks()
        found = integrate(self._joint, landmarks, cells=cells, tolerance=_AIM, rounding=rounding, most=most)
        return found._replace(points=found.points + len(landmarks.at))

    def _joint(self, row: Tensor, t: Tensor) -> Tensor:
        return self._heights(row, t)[0]

    def _heights(self, row: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return log p(x, t) and log p(x|t), ``[n, M]``, not a number where numbers are too short for the latents."""
        u = (self.middle[row] + self.width[row] * t / (1.0 - t.square())).to(self.dtype)
        part = tuple(some[row.to(some.device)] for some in self.part)
        z, log_det = unflatten(self.pair, u)
        log_prior, log_lik = self.pair.log_densities(z, part)
        log_lik = log_lik if self.with_data else torch.zeros_like(log_lik)
        again = flatten(self.pair, z)
        kept = ((again - u).abs() <= _ROUND_TRIP * (1.0 + u.abs())).all(-1)
        stretch = (self.width[row].log() + torch.log1p(t.square()) - 2 * torch.log1p(-t.square())).sum(-1)
        joint = (log_prior + log_lik + log_det).double() + stretch
        known = kept & (joint < torch.inf)
        return torch.where(known, joint, torch.nan), torch.where(known, log_lik.double(), torch.nan)

    def _to_cube(self, u: Tensor) -> Tensor:
        """The inverse of u = m + s t / (1 - t^2)."""
        v = (u - self.middle) / self.width
        return 2 * v / (1.0 + (1.0 + 4.0 * v.square()).sqrt())

    def _far_draws(self) -> Tensor:
        """The highest of more draws of the prior: they meet a far mode of little weight, and are few to keep."""
        draws = self._to_cube(_finite(flatten(self.pair, self.pair.sample_prior(self.part, _DRAWS)).double()))
        return _highest(draws, self._joint(self.rows, draws), _KEPT)

    def _landmarks(self) -> Landmarks:
        every, draws = self.rows, torch.cat([self.draws, *(self._far_draws() for _ in range(1, _ROUNDS))])
        joint, log_lik = self._heights(every, draws)
        # A peak of the likelihood may be lost beside a broad one of the joint density.
        by_joint = _climbed(lambda t: self._heights(every, t)[0], _highest(draws, joint))
        by_likelihood = _climbed(lambda t: self._heights(every, t)[1], _highest(draws, log_lik))
        summits = torch.cat([by_joint, by_likelihood])
        return Landmarks(
            torch.cat([draws, summits]),
            torch.cat([joint, self._heights(every, summits)[0]]).nan_to_num(-torch.inf),
        )


def _highest(points: Tensor, heights: Tensor, count: int = _CLIMBERS) -> Tensor:
    """The highest of each datapoint's points ``[W, R, D]``, ``[C, R, D]``."""
    index = heights.nan_to_num(-torch.inf).topk(count, 0).indices
    return points.gather(0, index.unsqueeze(-1).expand(-1, -1, points.shape[-1]))


def _climbed(height: Callable[[Tensor], Tensor], t: Tensor) -> Tensor:
    """Where compass search leads from ``[C, R, D]``: along the best of all axes, by half a step where none leads up."""
    climbers, rows, dim = t.shape
    compass = torch.cat([torch.eye(dim), -torch.eye(dim)]).to(t).reshape(-1, 1, 1, dim)
    step, best = torch.full_like(t[..., :1], _STRIDE), height(t)
    for _ in range(_CLIMB):
        tried = (t + step * compass).clamp(-1.0 + _BRINK, 1.0 - _BRINK)  # [2 D, C, R, D]
        heights = height(tried.flatten(0, 1)).reshape(-1, climbers, rows).nan_to_num(-torch.inf)
        top, index = heights.max(0)
        up = (top > best).unsqueeze(-1)
        there = tried.gather(0, index.reshape(1, climbers, rows, 1).expand(-1, -1, -1, dim)).squeeze(0)
        t, best, step = torch.where(up, there, t), torch.maximum(top, best), torch.where(up, step, step / 2)
    return t


def _finite(u: Tensor) -> Tensor:
    return u.nan_to_num(0.0, posinf=1e30, neginf=-1e30)
