r"""Poisson counts with extra zeros: p(x|z) = prod_i g_i 1[x_i = 0] + (1 - g_i) Poisson(x_i | r_i)."""

import pyro.distributions as dist
from torch import Tensor

from ..announced import Announced
from .layout import split_parameters
from .positive import check_floor, positive
from .zero_inflated import ZeroInflated

__all__ = ["ZeroInflatedPoisson"]


class ZeroInflatedPoisson(Announced):
    r"""Counts 0, 1, 2, ... under a Poisson law with extra zeros.

    .. math:: p(x|z) = \prod_i g_i 1[x_i = 0] + (1 - g_i) r_i^{x_i} e^{-r_i} / x_i!

    The decoder gives ``[raw rate | gate logit]`` ``[..., 2 P]``: ``num_params`` is 2. The rate is
    ``floor + softplus(raw)``, the probability of an extra zero g the logistic function of its
    logit. The mean is (1 - g) r. The support is the non-negative integers.

    Args:
        floor: the smallest rate.

    Raises:
        ValueError: if the floor is negative.

    References:
        Zero-Inflated Poisson Regression, with an Application to Defects in Manufacturing,
        Lambert, 1992, Technometrics 34, 1-14.
    """

    name = "zero-inflated-poisson"
    num_params = 2

    def __init__(self, *, floor: float = 1e-6) -> None:
        super().__init__()
        check_floor("ZeroInflatedPoisson", "floor", floor)
        self.floor = floor

    def forward(self, h: Tensor) -> dist.Distribution:
        """Return p(x|z) for ``h`` ``[..., 2 * P]``: batch ``[...]``, event ``[P]``."""
        rate, gate_logits = split_parameters(h, self.num_params, "ZeroInflatedPoisson")
        counts = dist.Poisson(positive(rate, self.floor))
        return ZeroInflated(counts, gate_logits).to_event(1)
