r"""A normal prior whose mean and scale are learned, p(z) = N(m, diag s^2)."""

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ..announced import Announced

__all__ = ["LearnedNormal"]


class LearnedNormal(Announced):
    r"""The diagonal normal with learned mean m and scale s, p(z) = N(m, diag s^2).

    It starts at the standard normal.

    Args:
        latent_dim: Number of latent dimensions D.

    Example:
        >>> prior = LearnedNormal(2)
        >>> sorted(name for name, _ in prior.named_parameters())
        ['log_scale', 'mean']

    References:
        Auto-Encoding Variational Bayes (Kingma & Welling, 2014), section 2.1, where the prior has
        parameters theta. https://arxiv.org/abs/1312.6114
    """

    name = "learned-normal"
    support = "real"

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        self.mean = nn.Parameter(torch.zeros(latent_dim))
        self.log_scale = nn.Parameter(torch.zeros(latent_dim))

    @property
    def scale(self) -> Tensor:
        """The standard deviations s, `[D]`."""
        return self.log_scale.exp()

    def forward(self) -> dist.TorchDistribution:
        """Return p(z), event shape `[D]`."""
        return dist.Normal(self.mean, self.scale).to_event(1)
