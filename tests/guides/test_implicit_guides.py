"""Guides without a density: shapes, gradients, moments, and what the pair says of them."""

import json

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from aevb.guides import ConcatenatedNoise, Implicit, ImplicitDistribution, NoiseBasis
from aevb.inference import SGVB, AdversarialVB, ContractError, Pair, fit, load
from aevb.models import LatentVariableModel, likelihoods, networks, priors

GUIDES = {
    "implicit": lambda: Implicit(networks.MLP(6 + 4, 2, hidden=[8]), latent_dim=2, noise_dim=4),
    "concatenated noise": lambda: ConcatenatedNoise(2, networks.MLP(6, hidden=[8]), noise_dim=4, hidden=[8]),
    "noise basis": lambda: NoiseBasis(2, networks.MLP(6, hidden=[8]), num_bases=3, noise_dim=4, basis_hidden=[8]),
}


def _model():
    return LatentVariableModel(priors.StandardNormal(2), networks.MLP(2, 6, hidden=[8]), likelihoods.Bernoulli())


@pytest.fixture(params=GUIDES, ids=str)
def guide(request):
    torch.manual_seed(0)
    return GUIDES[request.param]()


def test_draws_broadcast_and_differ(guide):
    x = torch.rand(5, 6).round()
    pair = Pair(_model(), guide).check(x)
    z = pair.sample_guide(x, 7)["z"]
    assert z.shape == (7, 5, 2)
    assert z.unique().numel() == z.numel()
    assert not pair.has_density


def test_gradients_reach_every_parameter(guide):
    guide(torch.rand(5, 6)).square().sum().backward()
    assert [name for name, p in guide.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_refuses_a_density_in_words(guide):
    x = torch.rand(5, 6).round()
    pair = Pair(_model(), guide).check(x)
    with pytest.raises(ContractError, match="AdversarialVB"):
        pair.cloud(x)
    with pytest.raises(ContractError, match="no density"):
        pair.log_guide(pair.sample_prior(x), x)
    with pytest.raises(NotImplementedError, match="AdversarialVB"):
        guide.posterior(x).log_prob(torch.zeros(5, 2))
    with pytest.raises(ContractError, match="AdversarialVB"):
        fit(_model(), guide, x, objective=SGVB(estimator="A"), steps=1, device="cpu", progress=False)


def test_saves_loads_and_goes_to_arviz(guide, tmp_path):
    x = torch.rand(40, 6).round()
    run = fit(
        _model(),
        guide,
        x,
        objective=AdversarialVB(),
        steps=2,
        batch_size=20,
        validation=x,
        device="cpu",
        progress=False,
    )
    again = load(run.save(tmp_path))
    assert json.loads((tmp_path / "config.json").read_text())["not_rebuildable"] is None
    for (name, ours), theirs in zip(run.pair.state_dict().items(), again.pair.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), name
    assert again.to_arviz(x[:3], num_samples=4).posterior["z"].shape == (1, 4, 3, 2)


def test_noise_basis_knows_its_moments():
    torch.manual_seed(0)
    guide = NoiseBasis(2, nn.Linear(3, 3), num_bases=4, noise_dim=5, basis_hidden=[16], shift=0.0, moment_draws=20_000)
    posterior = guide.posterior(torch.randn(4, 3))
    mean, variance = posterior.expand([2, 4]).moments()
    draws = posterior.sample((20_000,))
    assert mean.shape == variance.shape == (2, 4, 2)
    torch.testing.assert_close(mean[0], draws.mean(0), atol=0.03, rtol=0.0)
    torch.testing.assert_close(variance[0], draws.var(0), atol=0.0, rtol=0.06)


def test_a_plain_program_needs_one_sampler_function():
    network = nn.Linear(3, 1)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([1]).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x):
        pyro.module("network", network)

        def draw(shape):
            return network(torch.cat([x.expand(*shape, 1), torch.randn(*shape, 2)], -1))

        with pyro.plate("data", len(x)):
            pyro.sample("z", ImplicitDistribution(draw, (len(x),), (1,)))

    before = network.weight.detach().clone()
    run = fit(model, guide, torch.randn(30, 1), objective=AdversarialVB(), steps=2, device="cpu", progress=False)
    assert not torch.equal(run.params["network.weight"].reshape(before.shape), before)


def test_wrong_samplers_are_named():
    with pytest.raises(ValueError, match="sampler"):
        ImplicitDistribution(lambda shape: torch.zeros(*shape, 3), (2,), (1,)).rsample()
    with pytest.raises(ValueError, match="noise_dim"):
        Implicit(nn.Linear(3, 2), latent_dim=2, noise_dim=0)
    with pytest.raises(ValueError, match="out_features"):
        NoiseBasis(2, nn.Identity())
