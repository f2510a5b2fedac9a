"""Full variational Bayes against the exact posterior of Bayesian linear regression."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from aevb.inference import Fit, Pair
from aevb.inference.objectives import FullVB

_NOISE = 0.5


class Regression(nn.Module):
    """y = x w + noise; the latent is a bystander, since a pair has one, and its guide is exact."""

    def __init__(self, num_features):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(num_features))

    def forward(self, x, y):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("y", dist.Normal((x * self.weight).sum(-1), _NOISE), obs=y)


def guide(x, y):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))


def functional_regression(x, y):
    weight = pyro.param("weight", torch.zeros(3))
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal((x * weight).sum(-1), _NOISE), obs=y)


def module_regression():
    net = nn.Linear(3, 1, bias=False)

    def model(x, y):
        pyro.module("net", net)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("y", dist.Normal(net(x).squeeze(-1), _NOISE), obs=y)

    return model


@pytest.fixture
def data():
    """Orthogonal features of different lengths: the exact posterior factorises, with three different scales."""
    torch.manual_seed(0)
    x = torch.linalg.qr(torch.randn(60, 3))[0] * torch.tensor([3.0, 1.5, 0.7])
    return x, x @ torch.tensor([1.0, -0.8, 1.5]) + _NOISE * torch.randn(60)


def settle(loop, first):
    """Let the learning rate fall, so that the last steps average the draws away."""
    rate = first * max(1e-3, 1.0 - loop.step / loop.length.steps) ** 2
    for optimizer in loop.players.optimizers.values():
        for group in optimizer.param_groups:
            group["lr"] = rate


def posterior(model, data, *, steps=1000, num_samples=4, prior_scale=1.0, batch_size=60):
    loop = Fit(
        model,
        guide,
        data,
        objective=FullVB(num_samples=num_samples, prior_scale=prior_scale, init_scale=0.2),
        optimizer=lambda parameters: torch.optim.Adam(parameters, lr=0.03),
        steps=steps,
        batch_size=batch_size,
        progress=False,
        device="cpu",
    )
    for _ in loop:
        settle(loop, 0.03)
    return FullVB.posterior(loop.memory), loop.pair


def test_the_posterior_of_linear_regression_to_two_percent(data):
    x, y = data
    precision = x.square().sum(0) / _NOISE**2 + 1.0
    mean, scale = (x * y[:, None]).sum(0) / _NOISE**2 / precision, precision**-0.5
    found, pair = posterior(Regression(3), data, steps=1500, num_samples=8)
    q = found["fn.weight"]
    assert bool(((q.loc - mean).abs() < 0.02 * mean.abs()).all()), (q.loc, mean)
    assert bool(((q.scale - scale).abs() < 0.02 * scale).all()), (q.scale, scale)
    torch.testing.assert_close(pair.model.fn.weight.detach(), q.loc.detach())


def test_the_prior_counts_once_a_pass_whatever_the_batch(data):
    whole, _ = posterior(Regression(3), data, steps=400)
    parts, _ = posterior(Regression(3), data, steps=400, batch_size=20)
    torch.testing.assert_close(whole["fn.weight"].scale, parts["fn.weight"].scale, rtol=0.1, atol=0.0)


@pytest.mark.parametrize("model", [functional_regression, module_regression()])
def test_plain_functions_have_their_weights_drawn_too(model, data):
    found, pair = posterior(model, data, steps=400)
    (q,) = found.values()
    x, y = data
    precision = x.square().sum(0) / _NOISE**2 + 1.0
    exact = (x * y[:, None]).sum(0) / _NOISE**2 / precision
    torch.testing.assert_close(q.loc.detach().flatten(), exact, rtol=0.1, atol=0.1)
    assert len(list(pair.model.parameters())) == 1


def test_arguments_out_of_range_are_named():
    with pytest.raises(ValueError, match="prior_scale"):
        FullVB(prior_scale=0.0)
    assert Pair(Regression(3), guide) is not None
