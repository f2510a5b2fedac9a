"""Simulation-based calibration: the exact guide and HMC pass, guides wrong in a known way fail."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch

from aevb.inference import Pair
from aevb.inference.diagnostics import uniformity
from aevb.inference.diagnostics.calibration import Calibration, HMCSampler, simulation_based_calibration


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
    assert not found.fails
    assert "is calibrated" in found.sentences[0] and "Nor do ranks" in found.sentences[1]
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


def test_the_band_is_kept_exactly_as_often_as_it_says_and_is_that_of_the_p_value():
    torch.manual_seed(0)
    found = Calibration({"z": torch.randint(100, (300, 2000))}, 99)
    plot, p = found.ecdf_difference("z", prob=0.9), found.p_values("z")
    outside = (plot.difference < plot.low[:, None] - 1e-9) | (plot.difference > plot.high[:, None] + 1e-9)
    assert torch.equal(outside.any(0), p <= 0.1)
    for level in (0.02, 0.1, 0.5):
        assert abs(float((p <= level).double().mean()) - level) < 4 * math.sqrt(level * (1 - level) / 2000)


def test_p_values_are_those_of_every_possible_ranking():
    every = torch.cartesian_prod(*[torch.arange(4)] * 5).T  # five ranks among three draws, all 1,024 equally likely
    p = uniformity.p_values(every, 3, num_points=4)
    for value in p.unique():
        assert float((p <= value + 1e-12).double().mean()) == pytest.approx(float(value), abs=1e-6)


def _guide(loc=0.0, scale=(1.0, 1.0), weight=(0.5, 0.5)):
    """The posterior of the model is N(x / 2, 1/2) in each dimension; the prior N(0, 1)."""

    def guide(x):
        with pyro.plate("data", len(x)):
            mean, spread = x * x.new_tensor(weight) + loc, 0.5**0.5 * x.new_tensor(scale)
            pyro.sample("z", dist.Normal(mean, spread.expand(x.shape)).to_event(1))

    return Pair(model64, guide).check(torch.zeros(3, 2, dtype=torch.float64))


def model64(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


REPEATS = 200
QUANTITIES = ["log_joint", "log_guide", "log_weight", "coverage"]


def test_every_p_value_is_uniform_for_an_exact_guide():
    pair = _guide()
    found = [simulation_based_calibration(pair, num_simulations=40, num_draws=9, seed=seed) for seed in range(REPEATS)]
    for name in ("z", *QUANTITIES):
        p = torch.stack([one.p_values(name) for one in found]).flatten()
        for level in (0.1, 0.3, 0.6):
            error = math.sqrt(level * (1 - level) / len(p))
            assert abs(float((p <= level).double().mean()) - level) < 4 * error, (name, level)
    assert sum(one.fails for one in found) < 0.05 * REPEATS + 4 * math.sqrt(0.05 * 0.95 * REPEATS)


PRIOR = {"scale": (2**0.5, 2**0.5), "weight": (0.0, 0.0)}
FAULTS = {
    "narrow": ({"scale": (0.75, 0.75)}, ["z", "log_joint", "log_guide", "log_weight", "coverage"]),
    "wide": ({"scale": (1.4, 1.4)}, ["z", "log_joint", "log_guide", "log_weight", "coverage"]),
    "shifted": ({"loc": 0.4}, ["z", "log_weight"]),
    "equal to the prior": (PRIOR, ["log_joint", "log_weight", "coverage"]),
    "one dimension equal to the prior": (
        {"scale": (1.0, 2**0.5), "weight": (0.5, 0.0)},
        ["log_joint", "log_weight", "coverage"],
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_faults_are_seen_every_time(fault):
    options, seen_by = FAULTS[fault]
    for seed in range(3):
        found = simulation_based_calibration(_guide(**options), num_simulations=300, seed=seed)
        assert found.fails
        assert {name for name in seen_by if bool(found.miscalibrated(name).any())} == set(seen_by), fault
        assert "the inference is not calibrated" in found.sentences[-1]
    if "prior" in fault:  # in each dimension by itself nothing is wrong, and no band was ever left
        assert not bool(found.miscalibrated("z").any()) and "is calibrated" in found.sentences[0]
        assert "too high in log p(x, z) - log q(z|x) (p < 1e-6)" in found.sentences[-1]


def test_without_a_guide_chains_are_ranked_in_what_there_is():
    found = calibrate(None, sampler=HMCSampler(warmup=50, thin=2, num_leapfrog=4), num_simulations=60, num_draws=9)
    assert set(found.joint) == {"log_joint", "coverage"}


def test_a_discrete_latent_has_uniform_ranks_by_random_ties():
    def discrete(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Bernoulli(0.5))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def exact(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Bernoulli(logits=x - 0.5))

    pair = Pair(discrete, exact).check(torch.zeros(3))
    assert not simulation_based_calibration(pair, num_simulations=1000).fails


def test_the_last_digit_of_a_density_may_hang_on_its_place(monkeypatch):
    """Of an exact guide the log-weight is one number, and where in a tensor it is computed all that tells two apart."""
    pair, log_joint = _guide(), Pair.log_joint

    def placed(self, z, data):
        value = log_joint(self, z, data)
        return value + 1e-9 * torch.arange(len(value), dtype=value.dtype).unsqueeze(-1)

    monkeypatch.setattr(Pair, "log_joint", placed)
    found = simulation_based_calibration(pair, num_simulations=200)
    assert not bool(found.miscalibrated("log_weight"))
