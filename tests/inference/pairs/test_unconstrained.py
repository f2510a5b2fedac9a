"""Chains move on the real line: densities there integrate to the evidence, and draws come back on the support."""

import math
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch

from aevb.inference import MCEM, Pair, fit, hmc_draws
from aevb.inference.pairs.unconstrained import flatten, log_density, unflatten
from aevb.inference.posterior.hmc import sample

COUNTS = torch.tensor([0.0, 3.0, 11.0], dtype=torch.float64)


def _gamma_poisson(x):
    with pyro.plate("data", len(x)):
        rate = pyro.sample("rate", dist.Gamma(x.new_tensor(2.0), x.new_tensor(0.5)))
        pyro.sample("x", dist.Poisson(rate), obs=x)


def _beta_bernoulli(x):
    with pyro.plate("data", len(x)):
        share = pyro.sample("share", dist.Dirichlet(x.new_tensor([1.5, 0.7])))
        pyro.sample("x", dist.Bernoulli(share[..., 0]), obs=x)


def _both(x):
    with pyro.plate("data", len(x)):
        share = pyro.sample("share", dist.Dirichlet(x.new_tensor([1.0, 2.0, 3.0])))
        rate = pyro.sample("rate", dist.Gamma(x.new_full((2, 2), 2.0), 1.0).to_event(2))
        pyro.sample("x", dist.Normal(share.sum(-1) + rate.sum((-1, -2)), 1.0), obs=x)


def _integral(pair, x):
    """The density over the real line, summed on a grid that leaves nothing out: ``[batch]``."""
    grid = torch.linspace(-40, 40, 80_001, dtype=torch.float64)
    density = log_density(pair, (x,))(grid.reshape(-1, 1, 1).expand(-1, len(x), 1))
    return density.logsumexp(0) + math.log(float(grid[1] - grid[0]))


def test_the_density_on_the_line_integrates_to_the_evidence():
    exact = dist.NegativeBinomial(torch.tensor(2.0, dtype=torch.float64), probs=1 / 1.5).log_prob(COUNTS)
    torch.testing.assert_close(_integral(Pair(_gamma_poisson).check(COUNTS), COUNTS), exact, rtol=0, atol=1e-6)

    x = torch.tensor([0.0, 1.0], dtype=torch.float64)
    exact = torch.tensor([0.7 / 2.2, 1.5 / 2.2], dtype=torch.float64).log()
    torch.testing.assert_close(_integral(Pair(_beta_bernoulli).check(x), x), exact, rtol=0, atol=1e-6)


def test_several_sites_go_there_and_back():
    pair = Pair(_both).check(COUNTS)
    z = pair.sample_prior((COUNTS,), 5)
    u = flatten(pair, z)
    assert u.shape == (5, 3, 2 + 4)  # a simplex of three has two free coordinates
    back, _ = unflatten(pair, u)
    torch.testing.assert_close(back, z)


def test_chains_find_the_conjugate_posterior_of_a_positive_latent():
    pair = Pair(_gamma_poisson).check(COUNTS)
    torch.manual_seed(0)
    start = flatten(pair, pair.sample_prior((COUNTS,), 300))
    chains = sample(log_density(pair, (COUNTS,)), start, num_samples=30, warmup=100, step_size=0.3)
    rate = torch.stack([unflatten(pair, u)[0]["rate"] for u in chains.u]).mean(0)  # [chains, batch]
    exact = (2.0 + COUNTS) / 1.5  # Gamma(2 + x, 0.5 + 1)
    assert ((rate.mean(0) - exact).abs() < 4 * rate.std(0) / 300**0.5).all()


def test_monte_carlo_em_trains_under_a_positive_latent():
    def model(x):
        scale = pyro.param("scale", x.new_tensor(1.0), constraint=dist.constraints.positive)
        with pyro.plate("data", len(x)):
            rate = pyro.sample("rate", dist.Gamma(x.new_tensor(2.0), x.new_tensor(2.0)))
            pyro.sample("x", dist.Poisson(scale * rate), obs=x)

    torch.manual_seed(0)
    x = torch.poisson(5.0 * torch.distributions.Gamma(2.0, 2.0).sample((400,)))
    adam = partial(torch.optim.Adam, lr=0.05)
    run = fit(model, None, x, objective=MCEM(), optimizer=adam, steps=300, progress=False)
    # A negative binomial's maximum likelihood for the mean is the sample mean.
    assert float(run.params["scale"]) == pytest.approx(float(x.mean()), rel=0.05)


def test_a_discrete_latent_is_refused_with_the_way_out():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Bernoulli(x.new_tensor(0.5)))
            pyro.sample("x", dist.Normal(z, pyro.param("scale", torch.tensor(1.0))), obs=x)

    pair = Pair(model).check(COUNTS)
    with pytest.raises(ValueError, match=r"'z' .* Boolean.*sum a discrete latent out"):
        hmc_draws(pair, COUNTS, num_samples=2, warmup=2)
    with pytest.raises(ValueError, match="'z'"):
        fit(model, None, COUNTS, objective=MCEM(), steps=1, progress=False)
