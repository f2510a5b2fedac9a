"""Smoothed importance weights: what they leave alone, and what they win where the tail is heavy."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch

from aevb.inference import log_evidence
from aevb.inference.evidence import ImportanceSampling, ParetoSmoothedImportanceSampling


def model(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(4), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


def guide_of(scale):
    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2, scale).to_event(1))

    return guide


def exact(x):
    return dist.Normal(0.0, math.sqrt(2)).log_prob(x).sum(-1).double()


def estimates(scale, num_samples=400, repeats=300):
    x = torch.tensor([[0.3, -1.0, 0.5, 2.0]]).expand(repeats, -1).clone()
    smooth = ParetoSmoothedImportanceSampling(num_samples)
    plain, smoothed = (
        log_evidence(model, guide_of(scale), x, estimator) for estimator in (ImportanceSampling(num_samples), smooth)
    )
    return exact(x), plain, smoothed


def test_light_tails_are_left_nearly_alone():
    truth, plain, smoothed = estimates(0.75)
    assert smoothed.direction == "estimate" and smoothed.method == "psis"
    torch.testing.assert_close(smoothed.log_px, plain.log_px, rtol=0, atol=0.02)
    torch.testing.assert_close(smoothed.log_px, truth, rtol=0, atol=0.1)
    torch.testing.assert_close(smoothed.khat, plain.khat)


def test_heavy_tails_scatter_less():
    truth, plain, smoothed = estimates(0.42)
    assert float((plain.khat > 0.7).double().mean()) > 0.2
    assert (smoothed.log_px - truth).square().mean() < 0.9 * (plain.log_px - truth).square().mean()
    assert float(smoothed.ess.mean()) > float(plain.ess.mean())


def test_both_are_made_of_one_set_of_weights():
    from aevb.inference import Pair
    from aevb.inference.pairs.data import as_rows

    x = torch.randn(30, 4)
    estimator = ParetoSmoothedImportanceSampling(200)
    pair = Pair(model, guide_of(0.6)).check(x)
    with pair.evaluation():
        torch.manual_seed(0)
        plain, smoothed = estimator.both(pair, as_rows(x))
        torch.manual_seed(0)
        again = estimator(pair, as_rows(x))
    torch.testing.assert_close(smoothed.log_px, again.log_px)
    assert plain.method == "importance" and len(plain.khat) == 30
    assert 0 < float((plain.log_px - smoothed.log_px).abs().max()) < 0.3


def test_an_exact_guide_has_nothing_to_smooth_and_few_draws_are_refused():
    x = torch.randn(3, 4)
    found = log_evidence(model, guide_of(0.5**0.5), x, ParetoSmoothedImportanceSampling(50))
    torch.testing.assert_close(found.log_px, exact(x), rtol=0, atol=1e-4)
    torch.testing.assert_close(found.ess, torch.full((3,), 50.0).double(), rtol=1e-3, atol=0)
    with pytest.raises(ValueError, match="at least 25"):
        ParetoSmoothedImportanceSampling(24)
