r"""The logistic-normal guide on the simplex, z = softmax([y, 0]), y ~ N(mu(x), diag s(x)^2)."""

import pyro.distributions as dist
from torch import Tensor, nn

from ..models import distributions
from .amortized import AmortizedGuide, linear_head

__all__ = ["LogisticNormal"]

_LOC_BOUND = 10.0
_LEAST_LOG_SCALE, _LARGEST_LOG_SCALE = -8.0, 2.0


class LogisticNormal(AmortizedGuide):
    r"""The logistic normal on the simplex, z = softmax([y, 0]), y ~ N(mu(x), diag s(x)^2).

    |mu| <= 10 and e^-8 <= s <= e^2 keep draws off the boundary in float32. Against a logistic-normal
    prior the divergence is in closed form.

    Args:
        latent_dim: Number of coordinates D of the simplex, at least 2.
        encoder: Network from the data to features; its `out_features` is their number.

    Raises:
        ValueError: If D is below 2.

    References:
        Autoencoding Variational Inference For Topic Models (Srivastava & Sutton, 2017).
        https://arxiv.org/abs/1703.01488
    """

    name = "logistic-normal"
    support = "simplex"

    def __init__(self, latent_dim: int, encoder: nn.Module) -> None:
        super().__init__()
        if latent_dim < 2:
            raise ValueError(
                f"latent_dim: expected at least 2 coordinates of a simplex; got {latent_dim}. Use latent_dim >= 2."
            )
        self.latent_dim = latent_dim
        self.encoder = encoder
        self.loc = linear_head(encoder, latent_dim - 1)
        self.log_scale = linear_head(encoder, latent_dim - 1)

    def posterior(self, x: Tensor) -> dist.TorchDistribution:
        """Return q(z|x), batch `x.shape[:-1]`, event `[D]`."""
        features = self.encoder(x)
        loc = self.loc(features).clamp(-_LOC_BOUND, _LOC_BOUND)
        log_scale = self.log_scale(features).clamp(_LEAST_LOG_SCALE, _LARGEST_LOG_SCALE)
        return distributions.LogisticNormal(loc, log_scale.exp())
