"""The check of the model: what it sees of a wrong model, and what a poor guide must not make it see."""

import pyro
import pyro.distributions as dist
import pytest
import torch
import worlds

from aevb.inference import Pair, check_model
from aevb.inference.diagnostics import model_check
from aevb.inference.diagnostics.elbo_surgery import Surgery
from aevb.inference.diagnostics.model_check import ModelCheck, energy_test
from aevb.models import ProbabilisticPCA


def _pair(model, x, narrower=1.0):
    def guide(x):
        exact = model.posterior(x)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.MultivariateNormal(exact.mean, exact.covariance_matrix * narrower))

    return Pair(model, guide).check(x[:16])


@pytest.fixture
def model():
    torch.manual_seed(0)
    return ProbabilisticPCA(data_dim=8, latent_dim=3)


@pytest.mark.parametrize("narrower", [1.0, 0.2])
def test_a_right_model_does_not_fail_whatever_its_guide(model, narrower):
    found = check_model(_pair(model, x := model.simulate(200), narrower), x)
    assert not found.fails
    assert found.p_values.shape == found.simulated_p_values.shape == (200,)
    assert found.marginal_kl == pytest.approx(found.simulated_kl, abs=0.3)


def test_noise_that_is_too_small_fails_the_predictive(model):
    x = model.simulate(200)
    noisy = x + 0.7 * model.log_scale.exp() * torch.randn_like(x)
    found = check_model(_pair(model, x), noisy)
    assert found.predictive_fails and found.fails
    assert "worse" in found.sentences[1]
    assert found.p_values.mean() < found.simulated_p_values.mean()


def test_a_prior_elsewhere_fails_the_aggregate(model):
    x = model.simulate(200)
    z = torch.randn(200, 3) * 0.3 + 1.0  # in the plane of the model, but not where its prior is
    moved = (z @ model.weight.T + model.mean + model.log_scale.exp() * torch.randn(200, 8)).detach()
    found = check_model(_pair(model, x), moved)
    assert found.aggregate_fails
    assert "elsewhere" in found.sentences[0]


def test_the_energy_test_keeps_its_level_and_has_power():
    torch.manual_seed(1)
    p_values = torch.tensor(
        [energy_test(torch.randn(40, 2), torch.randn(50, 2), num_permutations=99) for _ in range(200)]
    )
    level = (p_values <= 0.1).double().mean()
    assert abs(level - 0.1) < 4.5 * (0.1 * 0.9 / 200) ** 0.5
    for _ in range(5):
        assert energy_test(torch.randn(200, 2), torch.randn(200, 2) * torch.tensor([1.0, 2.0])) < 0.01


@pytest.mark.parametrize("narrower", [1.0, 0.2])
def test_both_p_values_are_uniform_whatever_the_guide(model, narrower, monkeypatch):
    model.double()
    monkeypatch.setattr(model_check, "elbo_surgery", lambda *arguments, **options: Surgery(*[0.0] * 6))  # of no account
    pair, repeats = _pair(model, model.simulate(16), narrower), 150
    found = [
        check_model(pair, model.simulate(40), num_samples=10, num_permutations=99, seed=seed) for seed in range(repeats)
    ]
    for level in (0.1, 0.3, 0.6):
        error = (level * (1 - level) / repeats) ** 0.5
        for name in ("aggregate_p", "predictive_p"):
            share = sum(getattr(one, name) <= level for one in found) / repeats
            assert abs(share - level) < 4 * error, (name, level)


def test_p_values_apart_in_spread_alone_are_neither_better_nor_worse():
    close, wide = torch.linspace(0.3, 0.7, 200), torch.linspace(0.0, 1.0, 200)
    found = ModelCheck(float("nan"), float("nan"), 0.5, close, wide, energy_test(close[:, None], wide[:, None]))
    assert found.predictive_fails and "predictive otherwise than simulated" in found.sentences[1]
    assert "nan" not in found.sentences[0]


def test_the_energy_test_is_its_definition():
    first, second = torch.randn(7, 2), torch.randn(5, 2) + 3.0
    assert energy_test(first, second, num_permutations=199) == pytest.approx(1 / 200)  # apart: no mixture is as far
    same = torch.ones(6, 1)
    assert energy_test(same, same) == 1.0


@pytest.mark.parametrize("world", ["coin", "sphere"])
def test_latents_that_no_chain_can_move_are_looked_at_as_they_are(world):
    world = worlds.make(world)
    assert not check_model(Pair(world.model, world.guide).check(world.data), world.data).fails
