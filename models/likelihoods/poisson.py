r"""Poisson counts: log p(x|z) = sum_i x_i log r_i - r_i - log x_i!"""

import pyro.distributions as dist
from torch import Tensor

from ..announced import Announced
from .positive import check_floor, positive

__all__ = ["Poisson"]


class Poisson(Announced):
    r"""Counts 0, 1, 2, ... under a Poisson law.

    .. math:: \log p(x|z) = \sum_i x_i \log r_i - r_i - \log x_i!

    The decoder gives raw rates ``[..., P]``: ``num_params`` is 1, and the rate, which is also the
    mean, is ``floor + softplus(raw)``. The support is the non-negative integers.

    Args:
        floor: the smallest rate.

    Raises:
        ValueError: if the floor is negative.

    Example:
        >>> import torch
        >>> Poisson()(torch.zeros(3)).support.check(torch.tensor([0.0, 1.0, 2.5]))
        tensor(False)

    References:
        Univariate Discrete Distributions, Johnson, Kemp & Kotz, 2005, chapter 4.
    """

    name = "poisson"
    num_params = 1

    def __init__(self, *, floor: float = 1e-6) -> None:
        super().__init__()
        check_floor("Poisson", "floor", floor)
        self.floor = floor

    def forward(self, h: Tensor) -> dist.Distribution:
        """Return p(x|z) for ``h`` ``[..., P]``: batch ``[...]``, event ``[P]``."""
        return dist.Poisson(positive(h, self.floor)).to_event(1)
