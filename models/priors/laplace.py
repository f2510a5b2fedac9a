r"""The Laplace prior, p(z) = prod_j exp(-|z_j| / b) / (2 b)."""

import pyro.distributions as dist
import torch
from torch import Tensor

from ..announced import Announced

__all__ = ["Laplace"]


class Laplace(Announced):
    r"""Independent Laplace coordinates, p(z) = prod_j exp(-|z_j| / b) / (2 b): sparse codes.

    Args:
        latent_dim: Number of latent dimensions D.
        scale: b; the variance of a coordinate is 2 b^2.

    Raises:
        ValueError: If the scale is not positive.

    References:
        Auto-Encoding Variational Bayes (Kingma & Welling, 2014), section 2.4, where the Laplace is
        of the location-scale family. https://arxiv.org/abs/1312.6114
    """

    name = "laplace"
    support = "real"
    zeros: Tensor

    def __init__(self, latent_dim: int, scale: float = 1.0) -> None:
        super().__init__()
        if scale <= 0:
            raise ValueError(f"scale: expected a positive number; got {scale}. Use scale=1.0.")
        self.latent_dim = latent_dim
        self.scale = scale
        self.register_buffer("zeros", torch.zeros(latent_dim), persistent=False)

    def forward(self) -> dist.TorchDistribution:
        """Return p(z), event shape `[D]`."""
        return dist.Laplace(self.zeros, torch.full_like(self.zeros, self.scale)).to_event(1)
