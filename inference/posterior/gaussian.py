r"""The exact posterior of a model that is jointly Gaussian in latents and data, from its own density.

    log p(x, u) = f(0) + g^T u - 1/2 u^T P u
    p(u|x) = N(P^-1 g, P^-1),      log p(x) = f(0) + 1/2 g^T P^-1 g + D/2 log 2 pi - 1/2 log |P|

The gradient of a quadratic is linear, so P is a difference of gradients at unit vectors, exactly: D + 1 points, one
backward pass. That log p(x, u) is a quadratic at all is checked at further points.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..pairs.pair import Pair
from ..pairs.sites import Data
from ..pairs.unconstrained import dimension, like, log_density

__all__ = ["LOOKED_AT", "GaussianPosterior", "gaussian_posterior", "misfit", "refuse_unless_gaussian"]

LOOKED_AT = 50  # datapoints whose log p(x, z) is looked at


class GaussianPosterior(NamedTuple):
    """Mean ``[B, D]``, ``spread`` S ``[B, D, D]`` with S S^T the covariance, and log p(x) ``[B]`` in nats."""

    mean: Tensor
    spread: Tensor
    log_px: Tensor

    def points(self) -> Tensor:
        """The points mean +- sqrt(D) S_d, ``[2 D, B, D]``: a quadratic's mean over them is its expectation."""
        offsets = math.sqrt(self.mean.shape[-1]) * self.spread.movedim(-1, 0)
        return torch.cat([self.mean + offsets, self.mean - offsets])


def gaussian_posterior(pair: Pair, data: Data) -> GaussianPosterior:
    """Work out p(u|x) of every datapoint, on unconstrained coordinates, provided that it is Gaussian."""
    return _posterior(*_expansion(pair, data))


def misfit(pair: Pair, data: Data, far: Tensor | None = None) -> tuple[float, float]:
    """Measure how far log p(x, u) is from a quadratic at points of its posterior, and what rounding may add, in nats.

    Args:
        pair: A checked pair.
        data: Some rows, of which the first few are looked at.
        far: Points ``[K, B, D]`` out of the posterior; a quadratic is one there as well, or off by infinity.

    Raises:
        ValueError: A latent has no gradient.
    """
    data = tuple(part[:LOOKED_AT] for part in data)
    height, slope, precision = _expansion(pair, data)
    if not bool(precision.isfinite().all()) or bool((torch.linalg.eigvalsh(precision) <= 0).any()):
        return math.inf, 0.0
    found = _posterior(height, slope, precision)
    aslant = found.spread @ torch.arange(1.0, slope.shape[-1] + 1).cos().to(slope)  # along no axis
    u = torch.cat([found.points(), torch.stack([found.mean + 2.0 * aslant, found.mean - 3.0 * aslant])])
    relative = math.sqrt(torch.finfo(height.dtype).eps)

    def away(u: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            values = log_density(pair, data)(u)
        curve = torch.einsum("kbi,bij,kbj->kb", u, precision, u) / 2
        off = (values - (height + (u * slope).sum(-1) - curve)).abs().nan_to_num(nan=math.inf)
        return off, torch.maximum(torch.maximum(values.abs(), curve.abs()), height.abs())

    off, size = away(u)
    if far is not None:
        off_there, size_there = away(far[:, :LOOKED_AT])
        if bool((off_there > relative * (1.0 + size_there)).any()):
            return math.inf, 0.0
    return float(off.amax()), relative * (1.0 + float(size.amax()))


def refuse_unless_gaussian(pair: Pair, data: Data, what: str) -> None:
    """Refuse a model whose log p(x, z) is not a quadratic with one maximum in z.

    Args:
        pair: A checked pair.
        data: Some rows.
        what: Who asks, for the message.

    Raises:
        ValueError: It is none; the message says by how much it is off and what takes such a model.
    """
    names = [site.name for site in pair.latents]
    mend = (
        "use MCEM, which takes any differentiable model; PyroELBO(TraceEnum_ELBO()) sums discrete latents out; or give "
        "the model the methods summarize and from_summaries"
    )
    try:
        off, tolerance = misfit(pair, data)
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"{what} needs latents with a gradient, but {names} have none ({error}); {mend}.") from error
    if not off <= tolerance:
        raise ValueError(
            f"{what} needs a posterior in closed form, but log p(x, z) of this model is not quadratic in its latents "
            f"{names} (off by {off:.2g} nats), so the posterior is not Gaussian; {mend}."
        )


def _expansion(pair: Pair, data: Data) -> tuple[Tensor, Tensor, Tensor]:
    """f(0) ``[B]``, g ``[B, D]`` and P ``[B, D, D]``."""
    dim, batch = dimension(pair), len(data[0])
    unit = torch.eye(dim).to(like(pair))
    u = torch.cat([torch.zeros_like(unit[:1]), unit]).unsqueeze(1).repeat(1, batch, 1)
    with torch.enable_grad():
        u.requires_grad_(True)
        values = log_density(pair, data)(u)
        (slopes,) = torch.autograd.grad(values.sum(), u)
    precision = (slopes[:1] - slopes[1:]).movedim(0, 1)
    return values[0].detach(), slopes[0], (precision + precision.mT) / 2


def _posterior(height: Tensor, slope: Tensor, precision: Tensor) -> GaussianPosterior:
    factor = torch.linalg.cholesky(precision)
    mean = torch.cholesky_solve(slope.unsqueeze(-1), factor).squeeze(-1)
    identity = torch.eye(mean.shape[-1], dtype=mean.dtype, device=mean.device).expand_as(factor)
    spread = torch.linalg.solve_triangular(factor.mT, identity, upper=True)
    half_log_det = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    log_px = height + (slope * mean).sum(-1) / 2 + mean.shape[-1] / 2 * math.log(2 * math.pi) - half_log_det
    return GaussianPosterior(mean, spread, log_px)
