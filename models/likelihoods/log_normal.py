r"""Log-normal data: log p(x|z) = sum_i log N(log x_i | m_i, s_i^2) - log x_i, x > 0."""

from typing import Literal

import pyro.distributions as dist
from torch import Tensor

from ..announced import Announced
from .layout import split_parameters
from .location_scale import Scale, check_location_scale

__all__ = ["LogNormal"]


class LogNormal(Announced):
    r"""Positive data whose logarithm is Gaussian, with a fixed, learned or per-pixel scale.

    .. math:: \log p(x|z) = \sum_i -\log x_i - \tfrac12 \log 2\pi s_i^2 - (\log x_i - m_i)^2 / 2 s_i^2

    With ``scale="per-pixel"`` the decoder gives ``[location | raw scale]`` ``[..., 2 P]`` and
    ``num_params`` is 2; otherwise the location ``[..., P]`` and 1. A learned or per-pixel scale is
    ``min_scale + softplus(raw)``. The support is x > 0; the mean is exp(m + s^2 / 2).

    Args:
        scale: a positive number s, the standard deviation of log x; "learned" (one for all
            pixels), or "per-pixel".
        min_scale: the floor of a learned or per-pixel scale; it keeps the likelihood bounded.

    Raises:
        ValueError: if an argument is none of these.

    References:
        Continuous Univariate Distributions, volume 1, Johnson, Kotz & Balakrishnan, 1994,
        chapter 14.
    """

    name = "log-normal"

    def __init__(
        self,
        scale: float | Literal["learned", "per-pixel"] = 1.0,
        *,
        min_scale: float = 1e-4,
    ) -> None:
        super().__init__()
        check_location_scale("LogNormal", scale, "identity", min_scale)
        self.scale = scale
        self.min_scale = min_scale
        self.spread = Scale(scale, min_scale)
        self.num_params = 1 + self.spread.num_params

    def forward(self, h: Tensor) -> dist.Distribution:
        """Return p(x|z) for ``h`` ``[..., num_params * P]``: batch ``[...]``, event ``[P]``."""
        loc, *raw = split_parameters(h, self.num_params, "LogNormal")
        return dist.LogNormal(loc, self.spread(loc, tuple(raw))).to_event(1)
