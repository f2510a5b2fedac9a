r"""The diagonal normal guide for data with missing entries, q(z | x_observed)."""

import pyro.distributions as dist
import torch
from torch import Tensor

from .normal import Normal

__all__ = ["MaskedNormal"]


class MaskedNormal(Normal):
    r"""The diagonal normal for data whose NaN entries are missing, q(z|x) = N(mu, diag s^2).

    The encoder sees x with zeros for what is missing, and beside it the mask of what is there: its
    input has 2 P columns. It goes with `LatentVariableModel(..., missing=True)`.

    Args:
        latent_dim: Number of latent dimensions D.
        encoder: Network from `[..., 2 P]` to features; its `out_features` is their number.

    Example:
        >>> from torch import nn
        >>> guide = MaskedNormal(latent_dim=2, encoder=nn.Linear(12, 4))
        >>> guide.posterior(torch.full((3, 6), torch.nan)).mean.isfinite().all()
        tensor(True)

    References:
        Handling Incomplete Heterogeneous Data using VAEs (Nazabal et al., 2020).
        https://arxiv.org/abs/1807.03653
    """

    name = "masked-normal"
    needs = frozenset({"holes"})
    extra_inputs = ("mask",)  # of the encoder, beside the data

    def posterior(self, x: Tensor) -> dist.TorchDistribution:
        """Return q(z|x), batch `x.shape[:-1]`, event `[D]`."""
        observed = ~x.isnan()
        filled = torch.where(observed, x, 0.0)
        return super().posterior(torch.cat([filled, observed.to(x.dtype)], -1))
