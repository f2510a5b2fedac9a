r"""The low-rank normal guide, q(z|x) = N(mu(x), S (I + V V^T) S), S = diag s(x)."""

import pyro.distributions as dist
from torch import Tensor, nn

from .amortized import AmortizedGuide, bounded_exp, linear_head, through

__all__ = ["LowRankNormal"]

_FACTOR_BOUND = 30.0


class LowRankNormal(AmortizedGuide):
    r"""The normal with a low-rank covariance, q(z|x) = N(mu(x), S (I + V V^T) S), S = diag s(x).

    Correlations at a cost linear in D.

    Args:
        latent_dim: Number of latent dimensions D.
        encoder: Network from the data to features; its `out_features` is their number.
        rank: Number of columns R of V(x).

    Raises:
        ValueError: If the rank is not positive.

    References:
        Gaussian Variational Approximation with a Factor Covariance Structure
        (Ong, Nott & Smith, 2018). https://arxiv.org/abs/1701.03208
    """

    name = "low-rank-normal"
    support = "real"

    def __init__(self, latent_dim: int, encoder: nn.Module, rank: int = 2) -> None:
        super().__init__()
        if rank < 1:
            raise ValueError(f"rank: expected at least 1; got {rank}. Use rank=2, or Normal.")
        self.latent_dim = latent_dim
        self.encoder = encoder
        self.rank = rank
        self.mean = linear_head(encoder, latent_dim)
        self.log_scale = linear_head(encoder, latent_dim)
        self.factor = linear_head(encoder, latent_dim * rank)

    def posterior(self, x: Tensor) -> dist.TorchDistribution:
        """Return q(z|x), batch `x.shape[:-1]`, event `[D]`."""
        features = self.encoder(x)
        mean, log_scale, factor = through(features, self.mean, self.log_scale, self.factor)
        scale = bounded_exp(log_scale)
        relative = factor.unflatten(-1, (self.latent_dim, self.rank))
        factor = scale.unsqueeze(-1) * relative.clamp(-_FACTOR_BOUND, _FACTOR_BOUND)
        return dist.LowRankMultivariateNormal(mean, factor, scale.square())
