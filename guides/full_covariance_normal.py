r"""The full-covariance normal guide, q(z|x) = N(mu(x), L(x) L(x)^T)."""

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from .amortized import AmortizedGuide, bounded_exp, linear_head

__all__ = ["FullCovarianceNormal"]

_COUPLING_BOUND = 1e3


class FullCovarianceNormal(AmortizedGuide):
    r"""The normal with full covariance, q(z|x) = N(mu(x), L L^T), L = diag(s) (I + C).

    C(x) is strictly lower triangular, so that L is a Cholesky factor relative to the scales s(x).

    Args:
        latent_dim: Number of latent dimensions D; the encoder's head has D (D + 3) / 2 outputs.
        encoder: Network from the data to features; its `out_features` is their number.

    References:
        An Introduction to Variational Autoencoders (Kingma & Welling, 2019), section 2.5.1.
        https://arxiv.org/abs/1906.02691
    """

    name = "full-covariance-normal"
    support = "real"
    rows: Tensor
    columns: Tensor

    def __init__(self, latent_dim: int, encoder: nn.Module) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        self.encoder = encoder
        rows, columns = torch.tril_indices(latent_dim, latent_dim, offset=-1)
        self.register_buffer("rows", rows, persistent=False)
        self.register_buffer("columns", columns, persistent=False)
        self.mean = linear_head(encoder, latent_dim)
        self.log_scale = linear_head(encoder, latent_dim)
        self.coupling = linear_head(encoder, len(rows)) if latent_dim > 1 else None

    def posterior(self, x: Tensor) -> dist.TorchDistribution:
        """Return q(z|x), batch `x.shape[:-1]`, event `[D]`."""
        features = self.encoder(x)
        mean = self.mean(features)
        scale_tril = torch.diag_embed(bounded_exp(self.log_scale(features)))
        if self.coupling is not None:
            couplings = self.coupling(features).clamp(-_COUPLING_BOUND, _COUPLING_BOUND)
            relative = scale_tril.new_zeros(scale_tril.shape)
            relative[..., self.rows, self.columns] = couplings
            scale_tril = scale_tril + scale_tril @ relative
        return dist.MultivariateNormal(mean, scale_tril=scale_tril)
