r"""Beta pixels: log p(x|z) = sum_i (a_i - 1) log x_i + (b_i - 1) log(1 - x_i) - log B(a_i, b_i)."""

import pyro.distributions as dist
from torch import Tensor

from ..announced import Announced
from .constraints import open_unit_interval
from .layout import split_parameters
from .positive import check_floor, positive

__all__ = ["Beta", "OpenBeta"]


class OpenBeta(dist.Beta):
    """Pyro's Beta on the open interval: at 0 and 1 the log-density is infinite unless a or b is 1."""

    support = open_unit_interval


class Beta(Announced):
    r"""Grey pixels in (0, 1), the ends excluded, under a beta law.

    .. math:: \log p(x|z) = \sum_i (a_i - 1) \log x_i + (b_i - 1) \log(1 - x_i) - \log B(a_i, b_i)

    The decoder gives ``[raw a | raw b]`` ``[..., 2 P]``: ``num_params`` is 2. Both parameters are
    ``floor + softplus(raw)``. The mean is a / (a + b). The support excludes 0 and 1, where the
    density is zero or infinite: move 8-bit pixels inside, for instance by (k + 0.5) / 256.

    Args:
        floor: the smallest a and b.

    Raises:
        ValueError: if the floor is negative.

    References:
        The continuous Bernoulli: fixing a pervasive error in variational autoencoders,
        Loaiza-Ganem & Cunningham, 2019, arXiv 1907.06845 (beta decoders, for comparison).
    """

    name = "beta"
    num_params = 2

    def __init__(self, *, floor: float = 1e-3) -> None:
        super().__init__()
        check_floor("Beta", "floor", floor)
        self.floor = floor

    def forward(self, h: Tensor) -> dist.Distribution:
        """Return p(x|z) for ``h`` ``[..., 2 * P]``: batch ``[...]``, event ``[P]``."""
        a, b = split_parameters(h, self.num_params, "Beta")
        return OpenBeta(positive(a, self.floor), positive(b, self.floor)).to_event(1)
