r"""The Dirichlet guide on the simplex, q(z|x) = Dirichlet(a(x))."""

import pyro.distributions as dist
from torch import Tensor, nn

from .amortized import AmortizedGuide, linear_head

__all__ = ["Dirichlet"]

_LEAST, _LARGEST = 0.1, 1e4


class Dirichlet(AmortizedGuide):
    r"""The Dirichlet family on the simplex, q(z|x) = Dirichlet(a(x)), 0.1 <= a <= 10^4.

    Draws have implicit pathwise gradients. Below the least concentration draws underflow to the
    boundary, where no density is finite.

    Args:
        latent_dim: Number of coordinates D of the simplex, at least 2.
        encoder: Network from the data to features; its `out_features` is their number.

    Raises:
        ValueError: If D is below 2.

    References:
        Implicit Reparameterization Gradients (Figurnov et al., 2018).
        https://arxiv.org/abs/1805.08498
        Dirichlet Variational Autoencoder (Joo et al., 2019). https://arxiv.org/abs/1901.02739
    """

    name = "dirichlet"
    support = "simplex"

    def __init__(self, latent_dim: int, encoder: nn.Module) -> None:
        super().__init__()
        if latent_dim < 2:
            raise ValueError(
                f"latent_dim: expected at least 2 coordinates of a simplex; got {latent_dim}. Use latent_dim >= 2."
            )
        self.latent_dim = latent_dim
        self.encoder = encoder
        self.concentration = linear_head(encoder, latent_dim)

    def posterior(self, x: Tensor) -> dist.TorchDistribution:
        """Return q(z|x), batch `x.shape[:-1]`, event `[D]`."""
        raw = self.concentration(self.encoder(x))
        return dist.Dirichlet((nn.functional.softplus(raw) + _LEAST).clamp(max=_LARGEST))
