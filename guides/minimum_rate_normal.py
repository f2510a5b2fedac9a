r"""The delta-VAE's guide: scales bounded above, so that the divergence has a floor.

KL(N(mu, s^2) || N(0, 1)) >= (s^2 - 1 - log s^2) / 2 >= delta / D   for every s <= s_max.
"""

import math

import pyro.distributions as dist
from torch import Tensor, nn

from .amortized import AmortizedGuide, linear_head

__all__ = ["MinimumRateNormal"]

_LOG_BOUND = 15.0


class MinimumRateNormal(AmortizedGuide):
    r"""A diagonal normal with divergence at least `rate` to the standard normal prior (delta-VAE).

    The scales are s(x) = s_max sigmoid(.), where s_max solves (s^2 - 1 - log s^2) / 2 = rate / D.
    The floor holds against the standard normal prior and no other.

    Args:
        latent_dim: Number of latent dimensions D.
        encoder: Network from the data to features; its `out_features` is their number.
        rate: Least divergence a datapoint, delta, nats.

    Raises:
        ValueError: If the rate is negative.

    References:
        Preventing Posterior Collapse with delta-VAEs (Razavi et al., 2019), section 2.
        https://arxiv.org/abs/1901.03416
    """

    name = "minimum-rate-normal"
    support = "real"

    def __init__(self, latent_dim: int, encoder: nn.Module, rate: float = 1.0) -> None:
        super().__init__()
        if rate < 0:
            raise ValueError(f"rate: expected a number of nats >= 0; got {rate}. Use rate=1.0.")
        self.latent_dim = latent_dim
        self.encoder = encoder
        self.rate = rate
        self.max_scale = _largest_scale(rate / latent_dim)
        self.mean = linear_head(encoder, latent_dim)
        self.scale = linear_head(encoder, latent_dim)

    def posterior(self, x: Tensor) -> dist.TorchDistribution:
        """Return q(z|x), batch `x.shape[:-1]`, event `[D]`."""
        features = self.encoder(x)
        raw = self.scale(features).clamp(-_LOG_BOUND, _LOG_BOUND)
        return dist.Normal(self.mean(features), self.max_scale * raw.sigmoid()).to_event(1)


def _largest_scale(rate: float) -> float:
    """Solve (v - 1 - log v) / 2 = rate for the variance v in (0, 1], and return its root."""
    from scipy.special import lambertw

    if rate == 0:  # the branch point, where rounding would leave the function's domain
        return 1.0
    return math.sqrt(-lambertw(-math.exp(-1 - 2 * rate)).real)
