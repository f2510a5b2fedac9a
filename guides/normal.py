r"""The diagonal normal guide, q(z|x) = N(mu(x), diag s(x)^2)."""

import pyro.distributions as dist
from torch import Tensor, nn

from .amortized import AmortizedGuide, bounded_exp, linear_head, through

__all__ = ["Normal"]


class Normal(AmortizedGuide):
    r"""The normal with diagonal covariance, q(z|x) = N(mu(x), diag s(x)^2).

    Args:
        latent_dim: Number of latent dimensions D.
        encoder: Network from the data to features; its `out_features` is their number.

    Example:
        >>> import torch
        >>> guide = Normal(latent_dim=2, encoder=nn.Linear(6, 4))
        >>> guide.posterior(torch.zeros(3, 6)).event_shape
        torch.Size([2])

    References:
        Auto-Encoding Variational Bayes (Kingma & Welling, 2014), eq. 9 and appendix C.2.
        https://arxiv.org/abs/1312.6114
    """

    name = "normal"
    support = "real"

    def __init__(self, latent_dim: int, encoder: nn.Module) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        self.encoder = encoder
        self.mean = linear_head(encoder, latent_dim)
        self.log_scale = linear_head(encoder, latent_dim)

    def posterior(self, x: Tensor) -> dist.TorchDistribution:
        """Return q(z|x), batch `x.shape[:-1]`, event `[D]`."""
        features = self.encoder(x)
        mean, log_scale = through(features, self.mean, self.log_scale)
        return dist.Normal(mean, bounded_exp(log_scale)).to_event(1)
