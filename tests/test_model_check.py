"""The check of the model: what it sees of a wrong model, and what a poor guide must not make it see."""

import pyro
import pyro.distributions as dist
import pytest
import torch

from aevb.inference import Pair, check_model
from aevb.inference.model_check import energy_test
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
    assert energy_test(torch.randn(100, 2), torch.randn(100, 2) * torch.tensor([1.0, 2.0])) < 0.01
