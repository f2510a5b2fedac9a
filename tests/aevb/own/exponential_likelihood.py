"""A likelihood of one's own."""

import pyro.distributions as dist
from torch import nn
from torch.distributions import constraints

import aevb


class PositiveExponential(dist.Exponential):
    """The exponential law without zero, which no draw is."""

    support = constraints.positive


@aevb.register("likelihood")
class ExponentialLikelihood(nn.Module):
    """Waiting times."""

    name = "exponential"
    num_params = 1

    def __init__(self):
        super().__init__()

    def forward(self, h):
        return PositiveExponential(nn.functional.softplus(h) + 1e-3).to_event(1)
