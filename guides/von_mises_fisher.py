r"""The von Mises-Fisher guide on the hypersphere, q(z|x) proportional to exp(kappa(x) <mu(x), z>)."""

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ..models import distributions
from ..models.distributions.sphere import require_sphere_dim
from .amortized import AmortizedGuide, linear_head

__all__ = ["VonMisesFisher", "bounded_concentration"]

_LARGEST = 1e4


class VonMisesFisher(AmortizedGuide):
    r"""The von Mises-Fisher family on the sphere, q(z|x) proportional to exp(kappa <mu, z>).

    Its divergence to the uniform prior is in closed form. Draws are by rejection, with unbiased
    pathwise gradients; `PowerSpherical` draws without it.

    Args:
        latent_dim: Number of coordinates D of the sphere S^{D-1}, at least 2.
        encoder: Network from the data to features; its `out_features` is their number.

    Raises:
        ValueError: If D is below 2.

    References:
        Hyperspherical Variational Auto-Encoders (Davidson et al., 2018), section 3.
        https://arxiv.org/abs/1804.00891
    """

    name = "von-mises-fisher"
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
        return distributions.VonMisesFisher(loc, concentration)


def bounded_concentration(raw: Tensor) -> Tensor:
    """Return softplus(raw) + 1, at most 10^4: where float32 still tells a draw from the mode."""
    return torch.clamp(nn.functional.softplus(raw) + 1, max=_LARGEST)
