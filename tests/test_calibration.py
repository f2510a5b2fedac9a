"""Simulation-based calibration: the exact guide and HMC pass, guides wrong in a known way fail."""

import pyro
import pyro.distributions as dist
import pytest
import torch

from aevb.inference import Pair
from aevb.inference.calibration import HMCSampler, simulation_based_calibration


def model(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


def guide_of(shift=0.0, scale=0.5**0.5):
    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2 + shift, torch.full_like(x, scale)).to_event(1))

    return guide


def calibrate(guide, **options):
    return simulation_based_calibration(Pair(model, guide).check(torch.zeros(3, 2)), **options)


def test_the_exact_guide_is_calibrated():
    found = calibrate(guide_of(), num_simulations=1000)
    assert found.ranks["z"].shape == (1000, 2)
    assert found.ranks["z"].min() >= 0
    assert found.ranks["z"].max() <= 99
    assert not bool(found.miscalibrated("z").any())
    assert "is calibrated" in found.sentences[0]
    histogram = found.histogram("z", bins=10)
    assert int(histogram.counts.sum()) == 2000
    assert histogram.low < 100 < histogram.high
    assert bool(((histogram.counts >= histogram.low) & (histogram.counts <= histogram.high)).float().mean() > 0.85)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"scale": 0.4}, "too narrow"),
        ({"scale": 0.3, "shift": 0.1}, "too narrow"),
        ({"scale": 1.2}, "too wide"),
        ({"shift": 0.3}, "shifted"),
    ],
)
def test_a_wrong_guide_is_named(options, word):
    found = calibrate(guide_of(**options), num_simulations=1000)
    assert bool(found.miscalibrated("z").all())
    assert word in found.sentences[0]


def test_hmc_is_calibrated():
    found = calibrate(None, sampler=HMCSampler(warmup=100, thin=3, num_leapfrog=6), num_simulations=400, num_draws=19)
    assert not bool(found.miscalibrated("z", prob=0.99).any())


def test_the_band_holds_a_uniform_ranking_as_often_as_it_says():
    from aevb.inference.calibration import Calibration

    torch.manual_seed(0)
    ranks = torch.randint(100, (300, 400))  # 400 calibrated dimensions: count how many leave their own band
    plot = Calibration({"z": ranks}, 99).ecdf_difference("z", prob=0.9)
    outside = (plot.difference < plot.low[:, None] - 1e-9) | (plot.difference > plot.high[:, None] + 1e-9)
    share = float(outside.any(0).float().mean())
    assert 0.03 < share < 0.16


def test_a_discrete_latent_has_uniform_ranks_by_random_ties():
    def discrete(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Bernoulli(0.5))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def exact(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Bernoulli(logits=x - 0.5))

    pair = Pair(discrete, exact).check(torch.zeros(3))
    assert not bool(simulation_based_calibration(pair, num_simulations=1000).miscalibrated("z").any())
