"""A prior of one's own."""

import pyro.distributions as dist
import torch
from torch import nn

import aevb


@aevb.register("prior")
class CauchyPrior(nn.Module):
    """Independent Cauchy coordinates.

    References:
        A Toy for Tests (Nobody, 2026).
    """

    name = "cauchy"
    support = "real"

    def __init__(self, latent_dim, scale=1.0):
        super().__init__()
        self.latent_dim, self.scale = latent_dim, scale
        self.register_buffer("zeros", torch.zeros(latent_dim), persistent=False)

    def forward(self):
        return dist.Cauchy(self.zeros, torch.full_like(self.zeros, self.scale)).to_event(1)
