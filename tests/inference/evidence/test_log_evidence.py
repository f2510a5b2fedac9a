"""Evidence: exact where the guide is, ordered as theory says, bounded in memory, told by its seed alone."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from aevb import guides
from aevb.inference import Pair, log_evidence
from aevb.inference.evidence import ELBO, ImportanceSampling, importance_sampling
from aevb.models import LatentVariableModel, ProbabilisticPCA, likelihoods, networks, priors


@pytest.fixture
def world():
    """PPCA in float64 with a guide that is the posterior, widened on demand."""
    torch.manual_seed(0)
    model = ProbabilisticPCA(5, 2).double()
    with torch.no_grad():
        model.weight.copy_(torch.randn(5, 2))
    x = model.simulate(230).detach()

    def guide(widen):
        def program(x):
            posterior = model.posterior(x)
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.MultivariateNormal(posterior.mean, widen * posterior.covariance_matrix))

        return program

    return model, guide, x


def test_an_exact_guide_leaves_nothing_to_chance(world):
    model, guide, x = world
    exact = model.log_evidence(x).detach()
    evidence = log_evidence(model, guide(1.0), x, ImportanceSampling(50))
    torch.testing.assert_close(evidence.log_px, exact, rtol=0, atol=1e-9)
    torch.testing.assert_close(evidence.ess, torch.full((230,), 50.0, dtype=torch.float64))
    assert evidence.khat_share == 0.0 and evidence.direction == "lower bound"
    bound = log_evidence(model, guide(1.0), x, ELBO(3))
    torch.testing.assert_close(bound.log_px, exact, rtol=0, atol=1e-9)


@pytest.mark.parametrize("num_samples", [100, 250])  # one run of the programs, and two and a half
def test_the_bound_is_the_evidence_less_the_divergence(world, num_samples):
    model, guide, x = world
    bound = log_evidence(model, guide(2.0), x, ELBO(num_samples))
    assert bound.log_px.dtype == torch.float64
    divergence = 0.5 * (2 * 2.0 - 2 - 2 * math.log(2.0))  # KL(N(m, 2S) || N(m, S)) in two dimensions
    gaps = model.log_evidence(x).detach() - bound.log_px
    assert abs(float(gaps.mean()) - divergence) < 4 * float(gaps.std()) / len(x) ** 0.5
    within = float(((gaps - divergence).abs() < 2 * bound.errors).double().mean())
    assert 0.9 < within < 0.99
    # By few draws a part of the error is for what none of them saw.
    told = bound.monte_carlo_error / (float(gaps.std()) / len(x) ** 0.5)
    assert 0.85 < told < (1.3 if num_samples == 100 else 1.15)


def test_importance_sampling_climbs_to_the_evidence_by_its_variance(world):
    model, guide, x = world
    exact = model.log_evidence(x).detach()
    # With q = N(m, cS) the weights are p(x) c e^{-|e|^2 (c - 1) / 2}: their moments are known in closed form.
    c, dims = 2.0, 2
    cv = (c**2 / (2 * c - 1)) ** (dims / 2) - 1
    gaps = []
    for k in (1, 4, 16, 64):
        evidence = log_evidence(model, guide(c), x, ImportanceSampling(k), seed=k)
        gaps.append((exact - evidence.log_px).double())
        assert evidence.khat is None or k >= 25
    means = torch.stack([gap.mean() for gap in gaps])
    assert (means[:-1] > means[1:]).all()
    error = float(gaps[-1].std()) / len(x) ** 0.5
    assert abs(float(means[-1]) - cv / (2 * 64)) < 4 * error + cv**2 / 64**2


def test_the_effective_sample_size_is_what_the_weights_say(world):
    model, guide, x = world
    evidence = log_evidence(model, guide(2.0), x[:20], ImportanceSampling(4000))
    cv = 2.0**2 / 3.0 - 1
    torch.testing.assert_close(evidence.ess / 4000, torch.full((20,), 1 / (1 + cv)).double(), rtol=0.05, atol=0)


def test_few_rows_are_decoded_at_once_whatever_the_samples(monkeypatch):
    monkeypatch.setattr(importance_sampling, "_WORTH_CAPTURING", 10**9)  # a graph would not pass by the spy
    seen = []

    class Spy(nn.Module):
        def forward(self, z):
            seen.append(z[..., 0].numel())
            return z.repeat_interleave(2, -1)

    model = LatentVariableModel(priors.StandardNormal(3), Spy(), likelihoods.Bernoulli())
    guide = guides.Normal(3, networks.MLP(6, hidden=[4]))
    x = torch.rand(7, 6).round()
    for k in (10, 3001):
        seen.clear()
        log_evidence(model, guide, x, ImportanceSampling(k, rows=40))
        log_evidence(model, guide, x, ELBO(k))
        assert max(seen) <= 1000 and sum(seen) >= 2 * 7 * k
    seen.clear()
    log_evidence(model, guide, x, ImportanceSampling(3001, rows=40))
    assert max(seen[3:]) <= 40  # the first runs are the check's


def test_a_seed_gives_the_same_numbers_and_nothing_else_moves(world):
    _, _, x = world
    x = x.float()
    model = LatentVariableModel(priors.StandardNormal(2), networks.MLP(2, 5, hidden=[4]), likelihoods.Normal())
    guide = guides.Normal(2, nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Dropout(0.5)))
    Pair(model, guide).check(x)  # makes the guide's lazy heads
    state, before = torch.get_rng_state(), {k: v.clone() for k, v in guide.state_dict().items()}
    first, again = (log_evidence(model, guide, x, ImportanceSampling(30)) for _ in range(2))
    other = log_evidence(model, guide, x, ImportanceSampling(30), seed=1)
    assert torch.equal(first.log_px, again.log_px) and not torch.equal(first.log_px, other.log_px)
    assert torch.equal(torch.get_rng_state(), state)
    assert guide.training and all(torch.equal(before[k], v) for k, v in guide.state_dict().items())


def test_a_module_that_a_method_announces_is_evaluated_and_left_as_it_was():
    class Tutorial(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))

        def model(self, x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
                pyro.sample("x", dist.Normal(z.unsqueeze(-1), 1.0).expand([*z.shape, 3]).to_event(1), obs=x)

        def guide(self, x):
            pyro.module("encoder", self.encoder)
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(self.encoder(x).squeeze(-1), 0.5))

    vae, x = Tutorial(), torch.randn(20, 3)
    statistics = vae.encoder[1].running_mean.clone()
    log_evidence(vae.model, vae.guide, x, ELBO(2))
    assert torch.equal(vae.encoder[1].running_mean, statistics)
    assert all(module.training for module in vae.modules())


def test_the_record_says_what_was_measured(world):
    model, guide, x = world
    record = log_evidence(model, guide(1.5), x, ImportanceSampling(30)).record("test")
    assert record["num_points"] == 230 and record["num_samples"] == 30 and record["split"] == "test"
    spread = float(model.log_evidence(x).std().detach()) / 230**0.5
    assert record["standard_error"] == pytest.approx(spread, rel=0.1)
    assert math.isnan(log_evidence(model, guide(1.5), x[:1], ELBO(2)).standard_error)


@pytest.mark.parametrize(
    "make", [lambda: ImportanceSampling(0), lambda: ImportanceSampling(5, rows=0), lambda: ELBO(0)]
)
def test_bad_numbers_are_named(make):
    with pytest.raises(ValueError, match="=0"):
        make()


def test_a_pair_without_a_guide_has_no_bound(world):
    model, _, x = world
    with pytest.raises(ValueError, match="no guide"):
        log_evidence(Pair(model).check(x).model, None, x, ELBO(2))
