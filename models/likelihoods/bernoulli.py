r"""Bernoulli pixels: log p(x|z) = sum_i x_i log y_i + (1 - x_i) log(1 - y_i), y = sigmoid(h)."""

import pyro.distributions as dist
from torch import Tensor
from torch.distributions import constraints

from ..announced import Announced

__all__ = ["Bernoulli", "UnitIntervalBernoulli"]


class UnitIntervalBernoulli(dist.Bernoulli):
    """Pyro's Bernoulli, which also scores grey values in [0, 1] by its cross entropy.

    Samples, mean and enumeration are the binary law's; only the support is wider. Over {0, 1} the
    probabilities sum to one; over [0, 1] the cross entropy is not the log of a density.
    """

    support = constraints.unit_interval


class Bernoulli(Announced):
    r"""Bernoulli pixels, binary or grey in [0, 1], from logits.

    .. math:: \log p(x|z) = \sum_i x_i \log y_i + (1 - x_i) \log(1 - y_i), \qquad y = \sigma(h)

    The decoder gives logits ``h`` ``[..., P]``: ``num_params`` is 1. The support is the
    unit interval, because the paper's use scores grey pixels by the cross entropy. That is no
    density over grey values: ``ContinuousBernoulli`` normalises it. Samples are binary.

    Example:
        >>> import torch
        >>> Bernoulli()(torch.zeros(10, 784)).log_prob(torch.ones(10, 784)).shape
        torch.Size([10])

    References:
        Auto-Encoding Variational Bayes, Kingma & Welling, 2014, arXiv 1312.6114, equation 11.
    """

    name = "bernoulli"
    num_params = 1

    # Without it the signature would be nn.Module's (*args, **kwargs), which promises arguments.
    def __init__(self) -> None:
        super().__init__()

    def forward(self, h: Tensor) -> dist.Distribution:
        """Return p(x|z) for logits ``h`` ``[..., P]``: batch ``[...]``, event ``[P]``."""
        return UnitIntervalBernoulli(logits=h).to_event(1)
