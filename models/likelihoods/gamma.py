r"""Gamma data: log p(x|z) = sum_i a_i log b_i - log Gamma(a_i) + (a_i - 1) log x_i - b_i x_i, x > 0."""

import pyro.distributions as dist
from torch import Tensor
from torch.distributions import constraints

from ..announced import Announced
from .layout import split_parameters
from .positive import check_floor, positive

__all__ = ["Gamma", "PositiveGamma"]


class PositiveGamma(dist.Gamma):
    """Pyro's Gamma without zero in its support, where the log-density is infinite unless a = 1."""

    support = constraints.positive  # type: ignore[assignment]


class Gamma(Announced):
    r"""Positive data under a gamma law, with shape and rate from the decoder.

    .. math:: \log p(x|z) = \sum_i a_i \log b_i - \log\Gamma(a_i) + (a_i - 1) \log x_i - b_i x_i

    The decoder gives ``[raw concentration | raw rate]`` ``[..., 2 P]``: ``num_params`` is 2. Both
    parameters are ``floor + softplus(raw)``. The support is x > 0; the mean is a / b.

    Args:
        floor: the smallest concentration and rate.

    Raises:
        ValueError: if the floor is negative.

    References:
        Continuous Univariate Distributions, volume 1, Johnson, Kotz & Balakrishnan, 1994,
        chapter 17.
    """

    name = "gamma"
    num_params = 2

    def __init__(self, *, floor: float = 1e-3) -> None:
        super().__init__()
        check_floor("Gamma", "floor", floor)
        self.floor = floor

    def forward(self, h: Tensor) -> dist.Distribution:
        """Return p(x|z) for ``h`` ``[..., 2 * P]``: batch ``[...]``, event ``[P]``."""
        concentration, rate = split_parameters(h, self.num_params, "Gamma")
        return PositiveGamma(positive(concentration, self.floor), positive(rate, self.floor)).to_event(1)
