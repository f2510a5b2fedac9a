r"""The symmetric Dirichlet prior on the simplex, p(z) proportional to prod_j z_j^{a - 1}."""

import pyro.distributions as dist
import torch
from torch import Tensor

from ..announced import Announced

__all__ = ["Dirichlet"]


class Dirichlet(Announced):
    r"""The symmetric Dirichlet distribution, p(z) proportional to prod_j z_j^{a - 1}.

    Args:
        latent_dim: Number of coordinates D of the simplex, at least 2.
        concentration: a; 1 is uniform, below 1 sparse.

    Raises:
        ValueError: If the concentration is not positive, or D is below 2.

    References:
        Auto-Encoding Variational Bayes (Kingma & Welling, 2014), section 2.4, where the Dirichlet
        is of the composition family. https://arxiv.org/abs/1312.6114
    """

    name = "dirichlet"
    support = "simplex"
    zeros: Tensor

    def __init__(self, latent_dim: int, concentration: float = 1.0) -> None:
        super().__init__()
        if concentration <= 0:
            raise ValueError(f"concentration: expected a positive number; got {concentration}. Use 1.0.")
        if latent_dim < 2:
            raise ValueError(
                f"latent_dim: expected at least 2 coordinates of a simplex; got {latent_dim}. Use latent_dim >= 2."
            )
        self.latent_dim = latent_dim
        self.concentration = concentration
        self.register_buffer("zeros", torch.zeros(latent_dim), persistent=False)

    def forward(self) -> dist.TorchDistribution:
        """Return p(z), event shape `[D]`."""
        return dist.Dirichlet(torch.full_like(self.zeros, self.concentration))
