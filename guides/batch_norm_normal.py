r"""The BN-VAE's guide: batch normalisation keeps the posterior means from collapsing on the prior.

    mu_j = gamma (h_j - mean h_j) / std h_j + beta_j,    over the batch;

then the batch's average divergence to N(0, I) is at least D/2 gamma^2.
"""

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from .amortized import AmortizedGuide, bounded_exp, linear_head

__all__ = ["BatchNormNormal"]

_FLOOR = 1e-4


class BatchNormNormal(AmortizedGuide):
    r"""A diagonal normal whose means are batch-normalised with a fixed scale gamma (BN-VAE).

    The batch's average divergence to the standard normal prior is then at least D gamma^2 / 2. The
    two-sided variant normalises means and scales without a shift, with learned shares
    gamma_mu^2 + gamma_s^2 = 1 and gamma_mu^2 >= tau, so that the aggregate posterior has the
    prior's first two moments.

    In training mode q(z|x) depends on the batch that x is in; in evaluation mode, on the running
    statistics.

    Args:
        latent_dim: Number of latent dimensions D.
        encoder: Network from the data to features; its `out_features` is their number.
        gamma: Scale of the normalised means, one-sided variant.
        two_sided: Normalise the scales too.
        tau: Least share of the means, two-sided variant.

    Raises:
        ValueError: If gamma is not positive or tau is outside [0, 1].

    References:
        A Batch Normalized Inference Network Keeps the KL Vanishing Away (Zhu et al., 2020).
        https://arxiv.org/abs/2004.12585
        Variational autoencoders, part six: from the angle of batch normalisation (Su, 2020; in
        Chinese), the two-sided variant. https://kexue.fm/archives/7381
    """

    name = "batch-norm-normal"
    support = "real"

    def __init__(
        self,
        latent_dim: int,
        encoder: nn.Module,
        gamma: float = 0.6,
        two_sided: bool = False,
        tau: float = 0.5,
    ) -> None:
        super().__init__()
        if gamma <= 0:
            raise ValueError(f"gamma: expected a positive number; got {gamma}. Use gamma=0.6.")
        if not 0 <= tau <= 1:
            raise ValueError(f"tau: expected a number from 0 to 1; got {tau}. Use tau=0.5.")
        self.latent_dim = latent_dim
        self.encoder = encoder
        self.gamma = gamma
        self.two_sided = two_sided
        self.tau = tau
        # Normalising takes a shift away again: a bias would be moved by the rounding of a gradient that is zero.
        self.mean = linear_head(encoder, latent_dim, bias=False)
        self.log_scale = linear_head(encoder, latent_dim, bias=not two_sided)
        self.mean_norm = nn.BatchNorm1d(latent_dim, eps=1e-8, affine=False)
        if two_sided:
            self.scale_norm = nn.BatchNorm1d(latent_dim, eps=1e-8, affine=False)
            self.share = nn.Parameter(torch.zeros(latent_dim))
        else:
            self.shift = nn.Parameter(torch.zeros(latent_dim))

    def posterior(self, x: Tensor) -> dist.TorchDistribution:
        """Return q(z|x), batch `x.shape[:-1]`, event `[D]`.

        Raises:
            ValueError: In training mode, if x is a single datapoint.
        """
        features = self.encoder(x)
        if self.training and features.shape[:-1].numel() < 2:
            raise ValueError(
                "x: expected at least 2 datapoints to normalise over in training mode; got 1. Use a "
                "larger batch, or guide.eval()."
            )
        mean = _normalize(self.mean_norm, self.mean(features))
        raw_scale = self.log_scale(features)
        if not self.two_sided:
            return dist.Normal(self.gamma * mean + self.shift, bounded_exp(raw_scale)).to_event(1)
        mean_share = (self.tau + (1 - self.tau) * torch.sigmoid(self.share)).sqrt()
        scale_share = ((1 - self.tau) * torch.sigmoid(-self.share)).sqrt()
        # Normalised, the scale has either sign, which N(mu, s^2) does not see, and may be near 0.
        signed = scale_share * _normalize(self.scale_norm, raw_scale)
        return dist.Normal(mean_share * mean, (signed.square() + _FLOOR).sqrt()).to_event(1)


def _normalize(norm: nn.BatchNorm1d, values: Tensor) -> Tensor:
    """Normalise the last dimension's columns over all others."""
    normalized: Tensor = norm(values.reshape(-1, values.shape[-1])).reshape(values.shape)
    return normalized
