r"""Laplace pixels: log p(x|z) = sum_i -log 2 b_i - |x_i - m_i| / b_i, the absolute error."""

from typing import Literal

import pyro.distributions as dist
from torch import Tensor

from ..announced import Announced
from .layout import split_parameters
from .location_scale import Scale, check_location_scale, link_mean

__all__ = ["Laplace"]


class Laplace(Announced):
    r"""Laplace pixels, whose log-density is the absolute error, with a fixed, learned or per-pixel scale.

    .. math:: \log p(x|z) = \sum_i -\log 2 b_i - |x_i - m_i| / b_i

    With ``scale="per-pixel"`` the decoder gives ``[location | raw scale]`` ``[..., 2 P]`` and
    ``num_params`` is 2; otherwise the location ``[..., P]`` and 1. A learned or per-pixel scale is
    ``min_scale + softplus(raw)``. The support is the real line; the location is the mean.

    Args:
        scale: a positive number b, "learned" (one for all pixels), or "per-pixel".
        mean: "identity", or "sigmoid" for means in (0, 1).
        min_scale: the floor of a learned or per-pixel scale; it keeps the likelihood bounded.

    Raises:
        ValueError: if an argument is none of these.

    Example:
        >>> import torch
        >>> Laplace(scale=0.5)(torch.zeros(10, 64)).log_prob(torch.zeros(10, 64)).shape
        torch.Size([10])

    References:
        Variational Mixture-of-Experts Autoencoders for Multi-Modal Deep Generative Models,
        Shi, Siddharth, Paige & Torr, 2019, arXiv 1911.03393 (Laplace decoders).
    """

    name = "laplace"

    def __init__(
        self,
        scale: float | Literal["learned", "per-pixel"] = 1.0,
        mean: Literal["identity", "sigmoid"] = "identity",
        *,
        min_scale: float = 1e-4,
    ) -> None:
        super().__init__()
        check_location_scale("Laplace", scale, mean, min_scale)
        self.scale = scale
        self.mean = mean
        self.min_scale = min_scale
        self.spread = Scale(scale, min_scale)
        self.num_params = 1 + self.spread.num_params

    def forward(self, h: Tensor) -> dist.Distribution:
        """Return p(x|z) for ``h`` ``[..., num_params * P]``: batch ``[...]``, event ``[P]``."""
        loc, *raw = split_parameters(h, self.num_params, "Laplace")
        scale = self.spread(loc, tuple(raw))
        return dist.Laplace(link_mean(loc, self.mean), scale).to_event(1)
