"""Annealed importance sampling against the exact evidence of probabilistic PCA."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch

from aevb.inference import log_evidence
from aevb.inference.evidence import AnnealedImportanceSampling, annealing
from aevb.models import ProbabilisticPCA


def _world(latent_dim, points):
    torch.manual_seed(latent_dim)
    model = ProbabilisticPCA(12, latent_dim)
    with torch.no_grad():
        model.weight.copy_(torch.randn(12, latent_dim))
        model.log_scale.fill_(-0.5)

    def guide(x):  # centred on the posterior but half as wide again, and blind to correlations
        posterior = model.posterior(x)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(posterior.mean, 1.5 * posterior.stddev).to_event(1))

    x = model.simulate(points).detach()
    return model, guide, x, model.log_evidence(x).detach().double()


def _error(evidence):
    """The standard error of each log mean weight, by the delta method."""
    return (1 / evidence.ess - 1 / evidence.num_samples).clamp(min=1e-12).sqrt()


@pytest.mark.parametrize("schedule", ["sigmoid", "linear"])
@pytest.mark.parametrize("start", ["prior", "guide"])
@pytest.mark.parametrize("latent_dim", [2, 10])
def test_within_its_error_of_the_exact_evidence(latent_dim, start, schedule):
    model, guide, x, exact = _world(latent_dim, points=20)
    ais = AnnealedImportanceSampling(
        num_temperatures=30 * latent_dim * (3 if start == "prior" else 1),
        num_chains=30,
        start=start,
        schedule=schedule,
        num_tuning=30,
    )
    evidence = log_evidence(model, guide, x, ais)
    within = ((evidence.log_px - exact).abs() < 3 * _error(evidence) + 1e-3).double().mean()
    assert within >= 0.9
    assert abs(evidence.mean - float(exact.mean())) < 0.1


def test_weights_average_to_the_evidence():
    model, guide, x, exact = _world(2, points=1)
    ais = AnnealedImportanceSampling(num_temperatures=5, num_chains=2000, start="prior", num_tuning=20, rows=2000)
    evidence = log_evidence(model, guide, x, ais)
    assert abs(float(evidence.log_px - exact)) < 3 * float(_error(evidence))


def test_one_chain_lies_below_in_expectation():
    model, guide, x, exact = _world(2, points=1)
    ais = AnnealedImportanceSampling(num_temperatures=3, num_chains=1, start="prior", num_tuning=20)
    repeats = log_evidence(model, guide, x.expand(200, -1).clone(), ais).log_px
    error = float(repeats.std() / math.sqrt(200))
    assert float(repeats.mean()) < float(exact) - 2 * error  # so few temperatures leave a visible gap


def _accept_everything(monkeypatch, longer=6.0):
    """Take the accept step out, and lengthen the steps so that it is missed."""
    right = annealing.advance

    def careless(terms, place, weights, step_size, num_leapfrog):
        with monkeypatch.context() as patch:
            patch.setattr(torch, "rand_like", lambda t: torch.full_like(t, -1.0))  # every proposal passes
            return right(terms, place, weights, longer * step_size, num_leapfrog)

    monkeypatch.setattr(annealing, "advance", careless)


def test_transitions_that_accept_everything_are_caught(monkeypatch):
    model, guide, x, exact = _world(2, points=1)
    _accept_everything(monkeypatch)
    ais = AnnealedImportanceSampling(num_temperatures=5, num_chains=2000, start="prior", num_tuning=1, rows=2000)
    evidence = log_evidence(model, guide, x, ais)
    assert not abs(float(evidence.log_px - exact)) < 3 * float(_error(evidence))


@pytest.mark.parametrize(
    ("options", "expected"),
    [({"start": "nowhere"}, "nowhere"), ({"schedule": "odd"}, "odd"), ({"num_chains": 0}, "num_chains=0")],
)
def test_bad_arguments_are_named(options, expected):
    with pytest.raises(ValueError, match=expected):
        AnnealedImportanceSampling(**options)
