r"""The power spherical guide on the hypersphere, q(z|x) prop. to (1 + <mu(x), z>)^kappa(x)."""

import pyro.distributions as dist
from torch import Tensor, nn

from ..models import distributions
from ..models.distributions.sphere import require_sphere_dim
from .amortized import AmortizedGuide, linear_head
from .von_mises_fisher import bounded_concentration

__all__ = ["PowerSpherical"]


class PowerSpherical(AmortizedGuide):
    r"""The power spherical family on the sphere, q(z|x) proportional to (1 + <mu, z>)^kappa.

    Close to the von Mises-Fisher family, and drawn without rejection.

    Args:
        latent_dim: Number of coordinates D of the sphere S^{D-1}, at least 2.
        encoder: Network from the data to features; its `out_features` is their number.

    Raises:
        ValueError: If D is below 2.

    References:
        The Power Spherical Distribution (De Cao & Aziz, 2020).
        https://arxiv.org/abs/2006.04437
    """

    name = "power-spherical"
    support = "sphere"

    def __init__(self, latent_dim: int, encoder: nn.Module) -> None:
        super().__init__()
        require_sphere_dim(latent_dim)
        self.latent_dim = latent_dim
        self.encoder = encoder
        self.loc = linear_head(encoder, latent_dim)
        self.concentration = linear_head(encoder, 1)

    def posterior(self, x: Tensor) -> dist.TorchDistribution:
        """Return q(z|x), batch `x.shape[:-1]`, event `[D]`."""
        features = self.encoder(x)
        loc = nn.functional.normalize(self.loc(features), dim=-1)
        concentration = bounded_concentration(self.concentration(features).squeeze(-1))
        return distributions.PowerSpherical(loc, concentration)
