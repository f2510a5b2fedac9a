r"""Integrals of peaked densities over a cube, row by row, by boxes that are halved where it matters.

    log int exp f(t) dt = log sum_boxes |box| sum_nodes w_node exp f(t_node)

by Gauss's rule in every box. Where log f changes by more than a nat from one node to the next, a box may hide a peak
between its nodes, as high as the slopes to both sides of it lead. Such a box is halved until it is smooth or, even with
that peak, has no say. A smooth box is cut in halves along every dimension, and what that
changes is the error that remains.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

__all__ = ["Integral", "Integrand", "Landmarks", "integrate"]

_NODES = {1: 8, 2: 5, 3: 4}  # of a box, a dimension
_SMOOTH = 4.0  # nats between neighbouring nodes up to which a box is smooth
_CONVERGING = math.log(1e3)  # of the relative change below which the rule is taken to have begun to converge
_TOGETHER = 5.0  # nats of error within which boxes are cut in the same round: a peak that is found spares the rest
_NARROWEST = 1e-13  # of a box: what is narrower has no numbers in it
_POINTS_AT_ONCE = 20_000
_BESIDE = 100  # boxes whose neighbours are looked for at once
_INSIDE = 1e-3  # of a box's width, how far from its face it is asked

Integrand = Callable[[Tensor, Tensor], Tensor]  # rows [M], points of the cube [n, M, D] -> log f [n, M], NaN unknown


class Integral(NamedTuple):
    """Every row's logarithm of its integral, that of the integral's error, and the points it took, ``[R]``."""

    log_value: Tensor
    log_error: Tensor
    points: Tensor


class Landmarks(NamedTuple):
    """Points ``[W, R, D]`` at which log f, ``[W, R]``, is known already; none of them may be overlooked."""

    at: Tensor
    height: Tensor


class _Boxes(NamedTuple):
    """Boxes of all rows: ``row`` ``[M]``, ``low`` corner and ``width`` ``[M, D]``, and what their nodes have shown."""

    row: Tensor
    low: Tensor
    width: Tensor
    log_mass: Tensor  # [M]
    peak: Tensor  # [M], as high as log f may rise inside
    steep: Tensor  # [M, D], the largest change from one node to the next; infinite where it cannot be told
    log_error: Tensor  # [M]
    confirmed: Tensor  # [M], whether the error is what halving has shown

    @property
    def smooth(self) -> Tensor:
        return self.steep.amax(-1) <= _SMOOTH

    @property
    def log_volume(self) -> Tensor:
        return self.width.log().sum(-1)

    def only(self, which: Tensor) -> _Boxes:
        return _Boxes(*(part[which] for part in self))

    def beside(self, others: _Boxes) -> _Boxes:
        return _Boxes(*(torch.cat(parts) for parts in zip(self, others, strict=True)))


def integrate(
    log_f: Integrand, landmarks: Landmarks, *, cells: int, tolerance: float, rounding: float, most: int
) -> Integral:
    """Integrate exp f over the cube from -1 to 1 for every row.

    Args:
        log_f: The logarithm of the integrand.
        landmarks: What is known of it before.
        cells: Boxes a dimension to begin with.
        tolerance: The relative error below which a row is done.
        rounding: The relative error of log f that no smaller box takes away.
        most: Points a row after which it is done in any case.
    """
    search = _Search(log_f, landmarks, tolerance, rounding, most)
    return search.run(cells)


class _Search:
    """The boxes of all rows on their way."""

    def __init__(self, log_f: Integrand, landmarks: Landmarks, tolerance: float, rounding: float, most: int) -> None:
        self.log_f, self.landmarks = log_f, landmarks
        self.log_tolerance, self.rounding, self.most = math.log(tolerance), rounding, most
        self.rows, self.dim = landmarks.at.shape[1:]
        self.device = landmarks.at.device
        known = landmarks.height.isfinite()
        # Below the lowest landmark, far away from all mass, how log f goes on falling tells nothing.
        self.floor = torch.where(known, landmarks.height, torch.inf).amin(0).clamp(max=torch.finfo(torch.float64).max)
        self.nodes, self.log_weights = (part.to(self.device) for part in _gauss(self.dim))
        self.points = torch.zeros(self.rows, dtype=torch.long, device=self.device)

    def run(self, cells: int) -> Integral:
        self.boxes = self._first(cells)
        while bool((cut := self._worth_cutting()).any()) or self._landmark_overlooked():
            if bool(cut.any()):
                self._cut(cut)
        error = torch.logaddexp(self._by_row(self.boxes.log_error), self._log_unknown())
        return Integral(self._total(), error, self.points)

    def _log_unknown(self) -> Tensor:
        """What may lie where log f is unknown: everywhere as much as at the brink of it."""
        unknown = self.boxes.steep.isinf().any(-1)
        brink = self._highest(torch.where(unknown, self.boxes.peak, -torch.inf))
        nothing_seen = unknown & self.boxes.peak.isinf()
        for row in self.boxes.row[nothing_seen].unique().tolist():
            brink[row] = torch.maximum(brink[row], self._beside(row, nothing_seen))
        return brink + self._by_row(torch.where(nothing_seen, self.boxes.log_volume, -torch.inf))

    def _beside(self, row: int, unknown: Tensor) -> Tensor:
        """How high log f is in a row's other boxes where they touch the unknown ones: the brink may lie between two."""
        mine = self.boxes.row == row
        here, there = self.boxes.only(mine & unknown), self.boxes.only(mine & ~unknown)
        highest = torch.full((), -torch.inf, dtype=torch.float64, device=self.device)
        for low, width in zip(here.low.split(_BESIDE), here.width.split(_BESIDE), strict=True):
            middle, reach = (low + width / 2).unsqueeze(1), (width / 2).unsqueeze(1)
            edge = _INSIDE * there.width
            nearest = torch.minimum(torch.maximum(middle, there.low + edge), there.low + there.width - edge)
            touching = nearest[((nearest - middle).abs() <= reach + 2 * edge).all(-1)]
            if len(touching):
                heights = self.log_f(torch.full((len(touching),), row, device=self.device), touching.unsqueeze(0))
                highest = torch.maximum(highest, heights.nan_to_num(-torch.inf).amax())
        return highest

    def _first(self, cells: int) -> _Boxes:
        """Equal boxes; whatever they show is still to be confirmed by smaller ones."""
        edges = torch.linspace(-1.0, 1.0, cells + 1, dtype=torch.float64, device=self.device)[:-1]
        low = torch.cartesian_prod(*[edges] * self.dim).reshape(-1, self.dim).repeat(self.rows, 1)
        row = torch.arange(self.rows, device=self.device).repeat_interleave(cells**self.dim)
        return self._measured(row, low, torch.full_like(low, 2.0 / cells))

    def _measured(self, row: Tensor, low: Tensor, width: Tensor) -> _Boxes:
        at_once = max(1, _POINTS_AT_ONCE // len(self.nodes))
        parts = [self._some(*some) for some in zip(*(part.split(at_once) for part in (row, low, width)), strict=True)]
        self.points.index_add_(0, row, torch.full_like(row, len(self.nodes)))
        return _Boxes(*(torch.cat(pieces) for pieces in zip(*parts, strict=True)))

    def _some(self, row: Tensor, low: Tensor, width: Tensor) -> _Boxes:
        values = self.log_f(row, low + width * self.nodes.unsqueeze(1))  # [n^D, M]
        unknown = values.isnan()
        values = torch.where(unknown, -torch.inf, values)
        log_volume = width.log().sum(-1)
        seen = torch.where(values.isfinite(), torch.maximum(values, self.floor[row]), values)
        steep, hidden = _between_nodes(seen, self.dim)
        peak = values.amax(0) + hidden.sum(-1)
        steep = torch.where(unknown.any(0).unsqueeze(-1), torch.inf, steep)
        log_mass = (values + self.log_weights.unsqueeze(-1)).logsumexp(0) + log_volume
        return _Boxes(
            row, low, width, log_mass, peak, steep, peak + log_volume, torch.zeros_like(row, dtype=torch.bool)
        )

    def _by_row(self, log_values: Tensor) -> Tensor:
        """The logarithm of each row's sum over its boxes."""
        top = self._highest(log_values).clamp(min=torch.finfo(torch.float64).min)
        share = (log_values - top[self.boxes.row]).exp()
        return torch.zeros_like(top).index_add_(0, self.boxes.row, share).log() + top

    def _highest(self, values: Tensor) -> Tensor:
        """The highest of each row's boxes."""
        lowest = torch.full((self.rows,), -torch.inf, dtype=torch.float64, device=self.device)
        return lowest.scatter_reduce(0, self.boxes.row, values, "amax")

    def _total(self) -> Tensor:
        return self._by_row(self.boxes.log_mass)

    def _worth_cutting(self) -> Tensor:
        """The boxes whose errors a row must lose, its largest ones first."""
        row, error = self.boxes.row, self.boxes.log_error
        count = torch.bincount(row, minlength=self.rows).double().log()
        allowed = self._total() + self.log_tolerance - count
        open_ = (error > allowed[row]) & (self.points < self.most)[row] & (self.boxes.width.amin(-1) > _NARROWEST)
        worst = self._highest(torch.where(open_, error, -torch.inf))
        return open_ & (error >= worst[row] - _TOGETHER)

    def _cut(self, which: Tensor) -> None:
        parents, rest = self.boxes.only(which), self.boxes.only(~which)
        smooth = parents.smooth
        everywhere, once = parents.only(smooth), parents.only(~smooth)
        self.boxes = rest.beside(self._confirmed(everywhere)).beside(self._halved(once))

    def _halved(self, parents: _Boxes) -> _Boxes:
        """Two halves of every box, across its steepest dimension; where none can be told, across its widest."""
        if not len(parents.row):
            return parents
        finite = torch.where(parents.steep.isfinite(), parents.steep, parents.width)
        half = parents.width.clone()
        half[torch.arange(len(half)), finite.argmax(-1)] /= 2
        low = torch.cat([parents.low, parents.low + parents.width - half])
        return self._measured(parents.row.repeat(2), low, half.repeat(2, 1))

    def _confirmed(self, parents: _Boxes) -> _Boxes:
        """The halves of smooth boxes along every dimension; where they differ from the whole there is an error."""
        if not len(parents.row):
            return parents
        corners = torch.tensor(list(product((0.0, 0.5), repeat=self.dim)), dtype=torch.float64, device=self.device)
        low = (parents.low + corners.unsqueeze(1) * parents.width).flatten(0, 1)
        count = len(corners)
        children = self._measured(parents.row.repeat(count), low, (parents.width / 2).repeat(count, 1))
        whole = children.log_mass.reshape(count, -1).logsumexp(0)
        apart = _log_difference(whole, parents.log_mass)
        # What rounding alone sets apart no smaller box brings together.
        rounded = (whole - parents.log_mass).abs() <= 4 * self.rounding * (1.0 + parents.peak.abs())
        # Where the rule has begun to converge, the halves are nearer to the truth than to the whole.
        left = apart + ((apart - whole + _CONVERGING) / 2).clamp(max=0.0) - math.log(count)
        left = torch.where(rounded, -torch.inf, left)
        # One small change may be luck: what halving has shown once does not vanish at once.
        shown = torch.where(parents.confirmed, parents.log_error - _CONVERGING - math.log(count), -torch.inf)
        left = torch.maximum(left, shown).repeat(count)
        settled = children.smooth
        return children._replace(log_error=torch.where(settled, left, children.log_error), confirmed=settled)

    def _landmark_overlooked(self) -> bool:
        """Open every box in which a landmark stands out above all that its nodes have shown."""
        total = self._total()
        found = False
        for row in torch.nonzero(self.points < self.most).flatten().tolist():
            at, height = self.landmarks.at[:, row], self.landmarks.height[:, row]
            tall = height - total[row] > self.log_tolerance + 1.0
            if bool(tall.any()):
                found |= self._opened(row, at[tall], height[tall], float(total[row]))
        return found

    def _opened(self, row: int, at: Tensor, height: Tensor, total: float) -> bool:
        mine = torch.nonzero(self.boxes.row == row).flatten()
        low, width = self.boxes.low[mine].unsqueeze(1), self.boxes.width[mine].unsqueeze(1)
        inside = ((at >= low) & (at <= low + width)).all(-1)  # [M, W]
        tallest = torch.where(inside, height, -torch.inf).amax(-1)
        could = tallest + self.boxes.log_volume[mine]
        wide = self.boxes.width[mine].amin(-1) > _NARROWEST
        open_ = (tallest > self.boxes.peak[mine] + _SMOOTH) & (could > total + self.log_tolerance) & wide
        chosen = mine[open_]
        self.boxes.log_error[chosen] = could[open_]
        self.boxes.steep[chosen] = torch.inf
        return bool(open_.any())


def _gauss(dim: int) -> tuple[Tensor, Tensor]:
    """Gauss's nodes in the unit cube, ``[n^D, D]``, and their log-weights, ``[n^D]``."""
    places, weights = (torch.from_numpy(part) for part in np.polynomial.legendre.leggauss(_NODES[dim]))
    nodes = torch.cartesian_prod(*[(places + 1.0) / 2.0] * dim).reshape(-1, dim)
    return nodes, torch.cartesian_prod(*[(weights / 2.0).log()] * dim).reshape(-1, dim).sum(-1)


def _between_nodes(values: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Along each dimension the largest change between neighbours, and how far a peak between them may rise, ``[M, D]``.

    Were log f concave along a line, it could rise no higher in a gap than both lines through the nodes beside it, to
    the left and to the right, would.
    """
    side, top = _NODES[dim], values.amax(0)
    cube = values.reshape(*[side] * dim, -1)
    steep, hidden = [], []
    for d in range(dim):
        line = cube.movedim(d, 0).reshape(side, -1, len(top))  # [side, side^(D-1), M]
        change = line.diff(dim=0).nan_to_num(0.0, posinf=0.0, neginf=0.0)
        steep.append(change.abs().amax((0, 1)))
        gaps = _gaps(dim).to(line).reshape(-1, 1, 1)  # before the first node, between, behind the last
        slope = change / gaps[1:-1]
        from_left = line[1:] + slope * gaps[2:]  # in the gap to the right of each node but the first
        from_right = line[:-1] - slope * gaps[:-2]  # in the gap to the left of each node but the last
        inner = torch.minimum(from_left[:-2], from_right[2:])  # the outermost gaps have nodes beyond on one side only
        highest = torch.cat([from_right[:2], inner, from_left[-2:]]).amax((0, 1))
        hidden.append((highest - top).nan_to_num(0.0).clamp(min=0.0))
    return torch.stack(steep, -1), torch.stack(hidden, -1)


def _gaps(dim: int) -> Tensor:
    """The gaps along a side of the unit cube: to the first node, between nodes, and from the last."""
    places = (np.polynomial.legendre.leggauss(_NODES[dim])[0] + 1.0) / 2.0
    return torch.from_numpy(np.diff(np.concatenate([[0.0], places, [1.0]])))


def _log_difference(a: Tensor, b: Tensor) -> Tensor:
    """Return log |exp a - exp b|."""
    high, low = torch.maximum(a, b), torch.minimum(a, b)
    return torch.where(high == low, -torch.inf, high + (-torch.expm1(low - high)).log())
