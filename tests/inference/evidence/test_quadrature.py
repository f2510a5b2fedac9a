"""Quadrature against closed forms and SciPy."""

import math

import pyro
import pyro.distributions as dist
import pytest
import scipy.integrate
import scipy.stats
import torch

from aevb.inference import log_evidence
from aevb.inference.evidence import Exact, Quadrature
from aevb.models import ProbabilisticPCA


@pytest.mark.parametrize("latent_dim", [1, 2, 3])
def test_exact_on_probabilistic_pca(latent_dim):
    torch.manual_seed(latent_dim)
    model = ProbabilisticPCA(6, latent_dim).double()
    with torch.no_grad():
        model.weight.copy_(torch.randn(6, latent_dim) * 2.0)
        model.log_scale.fill_(-0.7)
        x = model.simulate(8).double()
        exact = model.log_evidence(x)
    evidence = log_evidence(model, None, x, Quadrature())
    assert evidence.direction == "exact"
    torch.testing.assert_close(evidence.log_px, exact, rtol=0.0, atol=2e-3)


def test_positive_latent_against_scipy():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Gamma(x.new_tensor(3.0), 2.0))
            pyro.sample("x", dist.Normal(z, 0.5), obs=x)

    x = torch.tensor([0.3, 1.0, 4.0], dtype=torch.float64)
    evidence = log_evidence(model, None, x, Quadrature())
    prior = scipy.stats.gamma(3.0, scale=0.5)
    for value, ours in zip(x.tolist(), evidence.log_px.tolist(), strict=True):
        area, _ = scipy.integrate.quad(lambda z, v=value: prior.pdf(z) * scipy.stats.norm(z, 0.5).pdf(v), 0.0, 30.0)
        assert ours == pytest.approx(math.log(area), abs=1e-4)


def test_two_modes_are_both_counted():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z.square(), 0.2), obs=x)

    x = torch.tensor([1.5], dtype=torch.float64)
    evidence = log_evidence(model, None, x, Quadrature())
    area, _ = scipy.integrate.quad(
        lambda z: scipy.stats.norm.pdf(z) * scipy.stats.norm(z * z, 0.2).pdf(1.5), -6.0, 6.0, points=[-1.22, 1.22]
    )
    assert float(evidence.log_px) == pytest.approx(math.log(area), abs=1e-4)


def latent(prior, likelihood):
    """x ~ likelihood(z), z ~ prior."""

    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", likelihood(pyro.sample("z", prior)), obs=x)

    return model


def held(model, x, exact, estimator=None, guide=None, seed=0):
    """The evidence of ``x``, held to the exact one within the errors it states."""
    found = log_evidence(model, guide, x, estimator or Quadrature(), seed=seed)
    off = (found.log_px - torch.as_tensor(exact, dtype=torch.float64)).abs()
    assert bool((off <= 3 * found.own_errors + 1e-8).all()), (off, found.own_errors)
    return found


double = {"dtype": torch.float64}
standard = dist.Normal(torch.zeros((), **double), 1.0)


def square(x, noise):
    """log p(x) of x ~ N(z^2, noise^2), z ~ N(0, 1), by a fine sum around the positive one of two modes."""
    z = torch.linspace(0.0, 8.0, 1_000_001, **double)
    terms = standard.log_prob(z) + dist.Normal(z.square(), noise).log_prob(x)
    return float(terms.logsumexp(0)) + math.log(2 * 8.0 / 1_000_000)


@pytest.mark.parametrize("seed", range(6))
def test_no_mode_is_lost_whatever_the_seed(seed):
    x = torch.tensor([1.0, 2.0, 4.0, 9.0], **double)
    model = latent(standard, lambda z: dist.Normal(z.square(), 0.05))
    found = log_evidence(model, None, x, Exact(), seed=seed)
    assert found.direction == "exact"
    torch.testing.assert_close(found.log_px, torch.tensor([square(v, 0.05) for v in x], **double), rtol=0, atol=1e-5)


def test_four_modes_of_two_dimensions_are_counted():
    x = torch.tensor([[1.0, 2.0], [0.5, 0.5]], **double)
    prior = dist.Normal(torch.zeros(2, **double), 1.0).to_event(1)
    exact = [sum(square(v, 0.05) for v in row) for row in x]
    found = held(latent(prior, lambda z: dist.Normal(z.square(), 0.05).to_event(1)), x, exact)
    assert found.direction == "exact"


def test_a_ring_is_followed_all_around():
    x = torch.tensor([1.0, 4.0], **double)
    prior = dist.Normal(torch.zeros(2, **double), 1.0).to_event(1)
    # The squared radius is exponential with mean 2.
    exact = dist.Normal(x, 0.1).cdf(torch.zeros((), **double)).neg().log1p()  # negligible, and exactly so
    exact = exact - math.log(2) - x / 2 + 0.1**2 / 8
    found = held(latent(prior, lambda z: dist.Normal(z.square().sum(-1), 0.1)), x, exact)
    assert found.direction == "exact"


def test_data_far_out_of_a_heavy_tailed_prior_are_found():
    x = torch.tensor([150.0, 1e4, 0.0], **double)
    prior = dist.StudentT(torch.tensor(3.0, **double))
    exact = []
    for value in x:
        z = value + torch.linspace(-12.0, 12.0, 200_001, **double)
        terms = prior.log_prob(z) + dist.Normal(z, 1.0).log_prob(value)
        exact.append(float(terms.logsumexp(0)) + math.log(24.0 / 200_000))
    assert held(latent(prior, lambda z: dist.Normal(z, 1.0)), x, exact).direction == "exact"


def two_widths(loc, narrow):
    """Half N(loc, 1), half N(loc, narrow^2)."""
    loc = loc.unsqueeze(-1).expand(*loc.shape, 2)
    return dist.MixtureSameFamily(
        dist.Categorical(torch.ones_like(loc)), dist.Normal(loc, torch.tensor([1.0, narrow], **double))
    )


def test_a_spike_of_the_likelihood_beside_a_broad_mode_is_climbed():
    x = torch.tensor([1.0, -3.0], **double)
    exact = torch.stack([dist.Normal(0.0, s).log_prob(x) for s in (2**0.5, 1.0)]).logsumexp(0) - math.log(2)
    assert held(latent(standard, lambda z: two_widths(z, 1e-4)), x, exact).direction == "exact"


def test_a_far_mode_that_holds_a_thousandth_of_the_prior_is_met():
    """At x = 80 it holds two thirds of the posterior; without it log p(x) is 1.02 nats too low."""
    weights, loc, scale = torch.tensor([[0.999, 0.001], [0.0, 60.0], [1.0, 0.3]], **double)
    parts = dist.Categorical(weights)
    x = torch.tensor([0.0, 80.0], **double)
    exact = dist.MixtureSameFamily(parts, dist.Normal(loc, (scale.square() + 400.0).sqrt())).log_prob(x)
    model = latent(dist.MixtureSameFamily(parts, dist.Normal(loc, scale)), lambda z: dist.Normal(z, 20.0))
    for seed in range(3):
        found = log_evidence(model, None, x, Quadrature(), seed=seed)
        torch.testing.assert_close(found.log_px, exact, rtol=0.0, atol=1e-3)


def test_a_spike_of_the_prior_is_met_by_its_draws():
    x = torch.tensor([1.0], **double)
    exact = torch.stack([dist.Normal(2.0, s).log_prob(x) for s in (10**0.5, 9**0.5)]).logsumexp(0) - math.log(2)
    prior = two_widths(torch.tensor(2.0, **double), 1e-4)
    assert held(latent(prior, lambda z: dist.Normal(z, 3.0)), x, exact).direction == "exact"


@pytest.mark.parametrize("shape", [3.0, 0.1])
def test_a_gamma_latent_has_its_conjugate_answer(shape):
    x = torch.tensor([0.0, 3.0, 40.0], **double)
    prior = dist.Gamma(torch.tensor(shape, **double), 0.5)
    exact = (
        torch.lgamma(shape + x) - math.lgamma(shape) - torch.lgamma(x + 1) + shape * math.log(1 / 3) - x * math.log(1.5)
    )
    assert held(latent(prior, dist.Poisson), x, exact).direction == "exact"


@pytest.mark.parametrize("seed", [0, 4, 6, 9])
def test_where_numbers_are_too_short_for_a_latent_it_is_an_estimate(seed):
    """By some seeds the brink of what is known lies between two boxes, and in none."""
    x = torch.tensor([10.0, 20.0], **double)  # of 20: the second posterior lies within 1e-16 of one
    prior = dist.Beta(torch.tensor(0.1, **double), 0.1)
    exact = [float(scipy.stats.betabinom(20, 0.1, 0.1).logpmf(k)) for k in (10, 20)]
    found = held(latent(prior, lambda z: dist.Binomial(20, z)), x, exact, seed=seed)
    assert found.direction == "estimate" and "1 of 2 datapoints" in found.notes[0] and "rows 1" in found.notes[0]
    assert float(found.own_errors[0]) < 1e-4 < 1e-3 < float(found.own_errors[1])


@pytest.mark.parametrize(("dtype", "direction"), [(torch.float64, "exact"), (torch.float32, "estimate")])
def test_the_rounding_of_a_large_number_is_in_its_error(dtype, direction):
    x = torch.tensor([1.0, -2.0], dtype=dtype)
    prior = dist.Normal(torch.zeros((), dtype=dtype), 1.0)
    exact = dist.Normal(torch.tensor(1414.0, **double), 2**0.5).log_prob(x.double())
    assert held(latent(prior, lambda z: dist.Normal(z + 1414.0, 1.0)), x, exact).direction == direction


def test_what_a_small_budget_leaves_open_is_said():
    x = torch.tensor([1.0, 2.0], **double)
    prior = dist.Normal(torch.zeros(2, **double), 1.0).to_event(1)
    exact = dist.Normal(x, 0.01).cdf(torch.zeros((), **double)).neg().log1p() - math.log(2) - x / 2 + 0.01**2 / 8
    model = latent(prior, lambda z: dist.Normal(z.square().sum(-1), 0.01))
    found = held(model, x, exact, Quadrature(most_points=3000))
    assert found.direction == "estimate" and "rows 0, 1" in found.notes[0]
    assert found.monte_carlo_error > 1e-3


def test_a_row_has_its_number_in_a_batch_and_alone():
    x = torch.tensor([0.5, 30.0, -4.0], **double)
    model = latent(dist.StudentT(torch.tensor(3.0, **double)), lambda z: dist.Normal(z.square(), 0.2))
    together = log_evidence(model, None, x, Quadrature()).log_px
    alone = torch.cat([log_evidence(model, None, x[row : row + 1], Quadrature()).log_px for row in range(3)])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)


def test_memory_does_not_grow_with_points():
    seen = []

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2, **double), 1.0).to_event(1))
            seen.append(z[..., 0].numel())
            pyro.sample("x", dist.Normal(z.square().sum(-1), 0.05), obs=x)

    found = log_evidence(model, None, torch.ones(30, **double), Quadrature())
    assert found.num_samples > 50_000 and max(seen) <= 30_000


class Doubled(dist.Normal):
    """A density that holds two."""

    def log_prob(self, value):
        return super().log_prob(value) + math.log(2)


def test_a_prior_that_holds_more_than_one_is_refused():
    model = latent(Doubled(torch.zeros((), **double), 1.0), lambda z: dist.Normal(z, 1.0))
    with pytest.raises(ValueError, match=r"integrates to 2, not to one.*Real\(\).*importance sampling"):
        log_evidence(model, None, torch.zeros(2, **double), Quadrature())


def test_too_many_latents_are_refused_with_a_way_out():
    model = ProbabilisticPCA(6, 4)
    with pytest.raises(ValueError, match=r"up to three.*has 4.*importance"):
        log_evidence(model, None, torch.zeros(2, 6), Quadrature())
    with pytest.raises(ValueError, match="num_cells=0"):
        Quadrature(0)
