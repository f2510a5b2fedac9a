"""Refinement of the amortized start, on a posterior that is known."""

import math
import sys

import pyro
import pyro.distributions as dist
import pytest
import torch

from aevb.inference import Pair, Run, refine
from aevb.models import ProbabilisticPCA


@pytest.fixture(scope="module")
def known():
    torch.manual_seed(0)
    model = ProbabilisticPCA(6, 2)
    with torch.no_grad():
        model.weight.mul_(2.0)
    x = model.simulate(8)

    def guide_of(shift, width):
        def guide(x):
            exact = model.posterior(x)
            scale = exact.stddev
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(exact.mean + shift * scale, width * scale).to_event(1))

        return guide

    pairs = {
        name: Pair(model, guide_of(*off)).check(x) for name, off in {"narrow": (1, 0.5), "wide": (1.5, 1.3)}.items()
    }
    return model, pairs, x


def distance(model, x, z):
    """How far the draws' means lie from the posterior's, in posterior standard deviations, and their scales' ratio."""
    with torch.no_grad():
        exact = model.posterior(x)
    off = (z.mean(0) - exact.mean).abs() / exact.stddev
    return float(off.mean()), float((z.std(0) / exact.stddev).mean())


@pytest.mark.parametrize(("method", "kind"), [("local", "narrow"), ("hmc", "narrow"), ("resample", "wide")])
def test_every_road_leads_nearer_to_the_posterior(known, method, kind):
    model, pairs, x = known
    found = refine(Run(pairs[kind], None), x, method, num_draws=400)
    assert found.z["z"].shape == (400, 8, 2)
    off, ratio = distance(model, x, found.z["z"])
    assert off < {"local": 0.1, "hmc": 0.15, "resample": 0.35}[method]
    assert 0.85 < ratio < 1.15
    cost = {"local": 500 * 10 + 400, "hmc": (100 + 200) * 4 * 10, "resample": 400 * 20}[method]
    assert found.evaluations >= cost if method == "local" else found.evaluations == cost
    assert f"{found.evaluations} evaluations" in found.sentence
    assert found.seconds > 0 and found.seconds_before > 0
    if method == "hmc":
        assert found.khat is None
        assert float(found.rhat.max()) < 1.15 and float(found.ess.min()) > 30
        assert "no k-hat" in found.sentence
        return
    assert float(found.khat.mean()) < float(found.khat_before.mean()) - 0.2
    exact = model.log_evidence(x).detach().double()
    assert float(found.bound.mean()) > float(found.bound_before.mean()) + 0.5
    assert float(found.bound.mean()) < float(exact.mean()) + 0.02
    assert "the bound rises" in found.sentence


def test_resampling_cannot_make_a_narrow_guide_wide(known):
    model, pairs, x = known
    found = refine(pairs["narrow"], x, "resample", num_draws=400)
    assert distance(model, x, found.z["z"])[1] < 0.8
    assert float((found.khat > 0.7).double().mean()) >= 0.5


def test_weights_of_resampled_draws_average_to_the_evidence(known, monkeypatch):
    model, pairs, x = known
    kept = []
    inner = sys.modules["aevb.inference.diagnostics.refine"]  # the function of that name stands before the module
    worth = inner._worth
    monkeypatch.setattr(inner, "_worth", lambda w: kept.append(w.double()) or worth(w))
    refine(pairs["wide"], x, "resample", num_draws=2000, num_candidates=5)
    log_mean = kept[-1].logsumexp(0) - math.log(2000)
    torch.testing.assert_close(log_mean, model.log_evidence(x).detach().double(), rtol=0, atol=0.1)
    assert kept[-1].var(0).mean() < 0.3 * kept[0].var(0).mean()


def test_words_that_are_wrong_are_named(known):
    _, pairs, x = known
    pair = pairs["wide"]
    with pytest.raises(ValueError, match="local, resample, hmc"):
        refine(pair, x, "pray")
    with pytest.raises(ValueError, match="num_draws=3"):
        refine(pair, x, num_draws=3)
