r"""Over-dispersed counts with extra zeros: p(x|z) = prod_i g_i 1[x_i = 0] + (1 - g_i) NB(x_i)."""

import pyro.distributions as dist
from torch import Tensor

from ..announced import Announced
from .layout import split_parameters
from .negative_binomial import negative_binomial
from .positive import check_floor, positive
from .zero_inflated import ZeroInflated

__all__ = ["ZeroInflatedNegativeBinomial"]


class ZeroInflatedNegativeBinomial(Announced):
    r"""Counts 0, 1, 2, ... under a negative binomial law with extra zeros.

    .. math:: p(x|z) = \prod_i g_i 1[x_i = 0] + (1 - g_i) \mathrm{NB}(x_i | \mu_i, t_i)

    The decoder gives ``[raw mean | raw total count | gate logit]`` ``[..., 3 P]``: ``num_params``
    is 3. Mean mu and total count t of the counts are ``floor + softplus(raw)``, the probability of
    an extra zero g the logistic function of its logit. The mean is (1 - g) mu. The support is the
    non-negative integers.

    Args:
        floor: the smallest mean and total count.

    Raises:
        ValueError: if the floor is negative.

    References:
        Deep generative modeling for single-cell transcriptomics, Lopez, Regier, Cole, Jordan &
        Yosef, 2018, Nature Methods 15, 1053-1058.
    """

    name = "zero-inflated-negative-binomial"
    num_params = 3

    def __init__(self, *, floor: float = 1e-6) -> None:
        super().__init__()
        check_floor("ZeroInflatedNegativeBinomial", "floor", floor)
        self.floor = floor

    def forward(self, h: Tensor) -> dist.Distribution:
        """Return p(x|z) for ``h`` ``[..., 3 * P]``: batch ``[...]``, event ``[P]``."""
        mean, total_count, gate_logits = split_parameters(h, self.num_params, "ZeroInflatedNegativeBinomial")
        counts = negative_binomial(positive(mean, self.floor), positive(total_count, self.floor))
        return ZeroInflated(counts, gate_logits).to_event(1)
