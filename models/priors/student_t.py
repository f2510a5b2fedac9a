r"""Student's t prior: independent coordinates with heavy tails, p(z) = prod_j t_nu(z_j)."""

import pyro.distributions as dist
import torch
from torch import Tensor

from ..announced import Announced

__all__ = ["StudentT"]


class StudentT(Announced):
    r"""Independent Student's t coordinates, p(z) = prod_j t_nu(z_j): heavy tails.

    Args:
        latent_dim: Number of latent dimensions D.
        df: Degrees of freedom nu; 1 is the Cauchy distribution, infinity the normal.

    Raises:
        ValueError: If the degrees of freedom are not positive.

    References:
        Auto-Encoding Variational Bayes (Kingma & Welling, 2014), section 2.4, where Student's t is
        of the location-scale family. https://arxiv.org/abs/1312.6114
    """

    name = "student-t"
    support = "real"
    zeros: Tensor

    def __init__(self, latent_dim: int, df: float = 3.0) -> None:
        super().__init__()
        if df <= 0:
            raise ValueError(f"df: expected a positive number; got {df}. Use df=3.0.")
        self.latent_dim = latent_dim
        self.df = df
        self.register_buffer("zeros", torch.zeros(latent_dim), persistent=False)

    def forward(self) -> dist.TorchDistribution:
        """Return p(z), event shape `[D]`."""
        ones = torch.ones_like(self.zeros)
        return dist.StudentT(self.df * ones, self.zeros, ones).to_event(1)
