"""The standard normal prior, p(z) = N(0, I)."""

import pyro.distributions as dist
import torch
from torch import Tensor

from ..announced import Announced

__all__ = ["StandardNormal"]


class StandardNormal(Announced):
    r"""The centred isotropic normal, p(z) = N(0, I); no parameters.

    Args:
        latent_dim: Number of latent dimensions D.

    Example:
        >>> prior = StandardNormal(2)
        >>> prior().event_shape
        torch.Size([2])

    References:
        Auto-Encoding Variational Bayes (Kingma & Welling, 2014), section 3.
        https://arxiv.org/abs/1312.6114
    """

    name = "standard-normal"
    support = "real"
    zeros: Tensor

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        self.register_buffer("zeros", torch.zeros(latent_dim), persistent=False)

    def forward(self) -> dist.TorchDistribution:
        """Return p(z), event shape `[D]`."""
        return dist.Normal(self.zeros, torch.ones_like(self.zeros)).to_event(1)
