r"""Eight schools: the textbook's hierarchical model, all of whose latents are global.

mu, tau, eta_j ~ N(0, 1),    theta_j = mu + tau eta_j,    y_j ~ N(theta_j, sigma_j^2).
"""

import pyro
import pyro.distributions as dist
from torch import Tensor

__all__ = ["eight_schools"]


def eight_schools(y: Tensor, sigma: Tensor) -> Tensor:
    r"""Run the hierarchical model of eight schools' effects, a plain Pyro program.

    The whole table of schools is one datapoint, since mu and tau belong to all of it. tau is not constrained to be
    positive: (tau, eta) and (-tau, -eta) have the same density, and the posterior has two modes.

    Args:
        y: Measured effects `[1, schools]`.
        sigma: Their standard errors `[1, schools]`.

    Returns:
        The schools' true effects theta, `[..., 1, schools]`.

    Example:
        >>> import torch
        >>> eight_schools(torch.zeros(1, 8), torch.ones(1, 8)).shape
        torch.Size([1, 8])

    References:
        Estimation in parallel randomized experiments (Rubin, 1981).
        Adversarial Variational Bayes (Mescheder, Nowozin & Geiger, 2017), Figures 3 and 4, the authors' notebook.
        https://arxiv.org/abs/1701.04722
    """
    zeros = y.new_zeros(y.shape[-1])
    with pyro.plate("data", len(y), dim=-1):
        mu = pyro.sample("mu", dist.Normal(y.new_zeros(()), y.new_ones(())))
        tau = pyro.sample("tau", dist.Normal(y.new_zeros(()), y.new_ones(())))
        eta = pyro.sample("eta", dist.Normal(zeros, zeros + 1).to_event(1))
        theta: Tensor = mu.unsqueeze(-1) + tau.unsqueeze(-1) * eta
        pyro.sample("y", dist.Normal(theta, sigma).to_event(1), obs=y)
    return theta
