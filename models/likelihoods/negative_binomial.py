r"""Over-dispersed counts: x ~ NB(mean mu, total count t), with variance mu + mu^2 / t."""

import pyro.distributions as dist
from torch import Tensor

from ..announced import Announced
from .layout import split_parameters
from .positive import check_floor, positive

__all__ = ["NegativeBinomial", "negative_binomial"]


def negative_binomial(mean: Tensor, total_count: Tensor) -> dist.NegativeBinomial:
    """Return the law with the given mean and variance ``mean + mean**2 / total_count``.

    Args:
        mean: positive, any shape.
        total_count: positive, broadcasts against ``mean``; the inverse dispersion.
    """
    return dist.NegativeBinomial(total_count, logits=mean.log() - total_count.log())


class NegativeBinomial(Announced):
    r"""Counts 0, 1, 2, ... with more variance than Poisson's.

    .. math:: \log p(x|z) = \sum_i \log\frac{\Gamma(x_i + t_i)}{x_i!\,\Gamma(t_i)}
        + t_i \log\frac{t_i}{t_i + \mu_i} + x_i \log\frac{\mu_i}{t_i + \mu_i}

    The decoder gives ``[raw mean | raw total count]`` ``[..., 2 P]``: ``num_params`` is 2. Both
    parameters are ``floor + softplus(raw)``. The variance is mu + mu^2 / t, so the law tends to
    Poisson's as t grows. The support is the non-negative integers.

    Args:
        floor: the smallest mean and total count.

    Raises:
        ValueError: if the floor is negative.

    References:
        Deep generative modeling for single-cell transcriptomics, Lopez, Regier, Cole, Jordan &
        Yosef, 2018, Nature Methods 15, 1053-1058.
    """

    name = "negative-binomial"
    num_params = 2

    def __init__(self, *, floor: float = 1e-6) -> None:
        super().__init__()
        check_floor("NegativeBinomial", "floor", floor)
        self.floor = floor

    def forward(self, h: Tensor) -> dist.Distribution:
        """Return p(x|z) for ``h`` ``[..., 2 * P]``: batch ``[...]``, event ``[P]``."""
        mean, total_count = split_parameters(h, self.num_params, "NegativeBinomial")
        return negative_binomial(positive(mean, self.floor), positive(total_count, self.floor)).to_event(1)
