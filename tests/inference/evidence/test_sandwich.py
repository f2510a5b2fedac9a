"""Bidirectional Monte Carlo: what it asks for, what it says, and that a broken chain shows."""

from dataclasses import replace

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

from aevb.inference import Pair, log_evidence
from aevb.inference.evidence import AnnealedImportanceSampling, BidirectionalMonteCarlo, annealing, sandwich
from aevb.inference.posterior import hmc
from aevb.models import ProbabilisticPCA

SHORT = AnnealedImportanceSampling(20, num_chains=10, start="prior", num_tuning=10, num_leapfrog=4, rows=200)


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = ProbabilisticPCA(6, 2)
    with torch.no_grad():
        model.weight.copy_(torch.randn(6, 2))
    return model


def test_a_checked_pair_needs_a_number_alone(model):
    pair = Pair(model).check(torch.zeros(2, 6))
    found = sandwich(pair, None, 30, SHORT)
    assert found.data[0].shape == (30, 6) and found.gaps.shape == (30,)
    assert f"{found.gap:.3f}" in str(found) and "30 datapoints" in str(found)
    with pytest.raises(ValueError, match="like=30.*has seen none"):
        sandwich(model, None, 30, SHORT)


def test_a_seed_tells_everything(model):
    x, state = torch.zeros(12, 6), torch.get_rng_state()
    first, again = (sandwich(model, None, x, SHORT, seed=3) for _ in range(2))
    other = sandwich(model, None, x, SHORT, seed=4)
    assert torch.equal(first.gaps, again.gaps) and not torch.equal(first.gaps, other.gaps)
    assert torch.equal(torch.get_rng_state(), state)


def test_what_is_finished_is_not_run_again(model, tmp_path, monkeypatch):
    x, kept = torch.zeros(30, 6), replace(SHORT, checkpoint=str(tmp_path / "bdmc.safetensors"))
    first = sandwich(model, None, x, kept)
    monkeypatch.setattr(annealing.Annealing, "backward", None)
    again = sandwich(model, None, x, kept)
    assert torch.equal(first.gaps, again.gaps)


def test_what_the_model_is_conditioned_on_is_kept():
    def model(x, label):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(label, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    label = torch.arange(20.0) * 10
    found = sandwich(model, None, (torch.zeros(20), label), replace(SHORT, num_temperatures=100, num_chains=20))
    assert torch.equal(found.data[1], label)
    assert ((found.data[0] - label).abs() < 6).all()
    exact = dist.Normal(label, 2**0.5).log_prob(found.data[0]).double()
    assert abs(found.upper.mean - float(exact.mean())) < 3 * found.upper.monte_carlo_error


def _holed(x, y, seen):
    """Three kinds of holes: NaN under a mask of the distribution, -1 and a mask argument under a handler's."""
    there = ~x.isnan()
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
        pixels = dist.Normal(z.unsqueeze(-1), 0.5).expand([*z.shape, 2]).mask(there).to_event(1)
        pyro.sample("x", pixels, obs=x.nan_to_num())
        with poutine.mask(mask=(y != -1.0) & seen):
            pyro.sample("y", dist.Normal(z, 0.5), obs=y)


def test_simulated_data_have_the_holes_of_the_data():
    x, y, seen = torch.zeros(40, 2), torch.zeros(40), torch.arange(40) % 4 > 0
    x[::2, 0], x[::3], y[::5] = torch.nan, torch.nan, -1.0
    pair = Pair(_holed).check((x, y, seen))
    z, (simulated, labels, mask) = pair.simulate((x, y, seen))
    assert torch.equal(simulated.isnan(), x.isnan()) and torch.equal(mask, seen)
    there = (y != -1.0) & seen
    assert torch.equal(labels[~there], y[~there]) and (labels[there] != y[there]).all()
    near = (simulated - z["z"][0].unsqueeze(-1))[~x.isnan()]
    assert 0.3 < float(near.std()) < 0.7  # what is seen comes from these latents

    found = sandwich(pair, None, (x, y, seen), replace(SHORT, num_temperatures=60, num_chains=20))
    assert torch.equal(found.data[0].isnan(), x.isnan())
    assert abs(found.gap) < 3 * found.gap_error + 0.05
    nothing = x.isnan().all(1) & ~there  # log p of nothing is zero, on either side
    assert nothing.sum() >= 3 and found.lower.log_px[nothing].abs().max() < 1e-5
    assert (found.upper.log_px[~nothing].abs() > 1e-3).all()


def test_data_that_cannot_be_simulated_are_refused():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("left", dist.Normal(z, 1.0), obs=x[:, 0] + 1.0)
            pyro.sample("right", dist.Normal(z, 1.0), obs=x[:, 1] * 2.0)

    with pytest.raises(ValueError, match="observe an argument itself"):
        sandwich(model, None, torch.randn(5, 2), SHORT)


def test_the_estimator_says_that_its_data_are_simulated(model):
    options = {"num_temperatures": 20, "num_chains": 10, "start": "prior", "num_tuning": 10, "num_leapfrog": 4}
    evidence = log_evidence(model, None, torch.full((9, 6), 50.0), BidirectionalMonteCarlo(**options))
    assert evidence.method == "bdmc" and len(evidence.log_px) == 9
    assert "simulated from the model" in evidence.notes[0]
    assert evidence.mean > -30  # the data given are far out


@pytest.mark.parametrize("broken", [False, True])
def test_backward_chains_that_accept_everything_are_caught(model, monkeypatch, broken):
    if broken:
        right = annealing.advance

        def careless(terms, place, weights, step_size, num_leapfrog):
            with monkeypatch.context() as patch:
                patch.setattr(hmc, "_choose", lambda accepted, new, old: new)  # every proposal passes
                return right(terms, place, weights, 2.0 * step_size, num_leapfrog)

        monkeypatch.setattr(annealing, "advance", careless)
    long = AnnealedImportanceSampling(100, num_chains=20, start="prior", num_tuning=20, num_leapfrog=4, rows=4000)
    found = sandwich(model, None, torch.zeros(100, 6), long)
    away = found.upper.log_px - model.log_evidence(found.data[0]).detach()
    assert (abs(float(away.mean())) < 3 * float(away.std()) / 10) is not broken
