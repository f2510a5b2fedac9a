"""A guide of one's own."""

import pyro.distributions as dist
from torch import nn

import aevb
from aevb.guides import AmortizedGuide


@aevb.register("guide")
class LaplaceGuide(AmortizedGuide):
    """A Laplace distribution of each latent."""

    name = "laplace-guide"
    support = "real"

    def __init__(self, latent_dim, encoder):
        super().__init__()
        self.latent_dim, self.encoder = latent_dim, encoder
        self.mean = nn.Linear(encoder.out_features, latent_dim)
        self.log_scale = nn.Linear(encoder.out_features, latent_dim)

    def posterior(self, x):
        features = self.encoder(x)
        return dist.Laplace(self.mean(features), self.log_scale(features).clamp(-5, 5).exp()).to_event(1)
