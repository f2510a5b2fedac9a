r"""The logistic-normal prior: a normal vector squashed onto the simplex by log-ratios."""

import pyro.distributions as dist
import torch
from torch import Tensor

from .. import distributions
from ..announced import Announced

__all__ = ["LogisticNormal"]


class LogisticNormal(Announced):
    r"""The logistic normal on the simplex, z = softmax([y, 0]), y ~ N(0, s^2 I) in R^{D-1}.

    y = 0 goes to the simplex's centre.

    Args:
        latent_dim: Number of coordinates D of the simplex, at least 2.
        scale: s.

    Raises:
        ValueError: If the scale is not positive, or D is below 2.

    References:
        Logistic-normal distributions: some properties and uses (Aitchison & Shen, 1980).
        https://doi.org/10.1093/biomet/67.2.261
    """

    name = "logistic-normal"
    support = "simplex"
    zeros: Tensor

    def __init__(self, latent_dim: int, scale: float = 1.0) -> None:
        super().__init__()
        if scale <= 0:
            raise ValueError(f"scale: expected a positive number; got {scale}. Use scale=1.0.")
        if latent_dim < 2:
            raise ValueError(
                f"latent_dim: expected at least 2 coordinates of a simplex; got {latent_dim}. Use latent_dim >= 2."
            )
        self.latent_dim = latent_dim
        self.scale = scale
        self.register_buffer("zeros", torch.zeros(latent_dim - 1), persistent=False)

    def forward(self) -> dist.TorchDistribution:
        """Return p(z), event shape `[D]`."""
        return distributions.LogisticNormal(self.zeros, torch.full_like(self.zeros, self.scale))
