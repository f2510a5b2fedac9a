r"""The uniform prior on the unit hypersphere, p(z) = 1 / |S^{D-1}|."""

import pyro.distributions as dist
import torch
from torch import Tensor

from .. import distributions
from ..announced import Announced
from ..distributions.sphere import require_sphere_dim

__all__ = ["UniformSphere"]


class UniformSphere(Announced):
    r"""The uniform distribution on the unit sphere S^{D-1} in R^D; no parameters.

    It goes with the guides on the sphere, which have a Kullback-Leibler divergence to it in closed
    form. A sphere of D coordinates has D - 1 degrees of freedom.

    Args:
        latent_dim: Number of coordinates D, at least 2.

    Raises:
        ValueError: If D is below 2.

    Example:
        >>> prior = UniformSphere(3)
        >>> round(prior().sample().norm().item(), 5)
        1.0

    References:
        Hyperspherical Variational Auto-Encoders (Davidson et al., 2018), section 3.
        https://arxiv.org/abs/1804.00891
    """

    name = "uniform-sphere"
    support = "sphere"
    zeros: Tensor

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        require_sphere_dim(latent_dim)
        self.latent_dim = latent_dim
        self.register_buffer("zeros", torch.zeros(latent_dim), persistent=False)

    def forward(self) -> dist.TorchDistribution:
        """Return p(z), event shape `[D]`."""
        return distributions.UniformSphere(self.zeros)
