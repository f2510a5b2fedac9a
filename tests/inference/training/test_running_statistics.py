"""Running statistics move in training steps alone, and a chain sees one datapoint whatever the batch normalises."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from aevb import guides
from aevb.inference import EM, MCEM, SGVB, AdversarialVB, Fit, Pair, WakeSleep, fit, log_evidence
from aevb.inference.evidence import ELBO
from aevb.inference.objectives import Batch
from aevb.models import LatentVariableModel, likelihoods, networks, priors

X = torch.randn(12, 3, generator=torch.Generator().manual_seed(0))


class Decoder(nn.Module):
    """A decoder that normalises by the batch and drops units out while it trains."""

    out_features = 3

    def __init__(self, dropout=0.0):
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(2, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)
        self.dropout = nn.Dropout(dropout)

    def forward(self, z):
        hidden = self.norm(self.first(z).reshape(-1, 8)).reshape(*z.shape[:-1], 8)
        return self.last(self.dropout(torch.tanh(hidden)))


class Encoder(nn.Module):
    out_features = 3

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(3)

    def forward(self, x):
        return self.norm(x.reshape(-1, 3)).reshape(x.shape)


def _modules(dropout=0.0):
    torch.manual_seed(1)
    return LatentVariableModel(priors.StandardNormal(2), Decoder(dropout), likelihoods.Normal()), guides.Normal(
        2, Encoder()
    )


def _functions():
    torch.manual_seed(1)
    decoder, encoder, head = Decoder(), Encoder(), nn.Linear(3, 2)

    def model(x):
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(decoder(z), 1.0).to_event(1), obs=x)

    def guide(x):
        pyro.module("encoder", encoder)
        pyro.module("head", head)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(head(encoder(x)), 1.0).to_event(1))

    return model, guide


def _counts(pair):
    return [int(value) for name, value in pair.state_dict().items() if name.endswith("num_batches_tracked")]


@pytest.mark.parametrize("make", [_modules, _functions])
@pytest.mark.parametrize("objective", [SGVB(), WakeSleep(), MCEM(), AdversarialVB()], ids=lambda o: type(o).__name__)
def test_nothing_moves_before_the_first_step(make, objective):
    model, guide = make()
    loop = Fit(model, guide, X, objective=objective, steps=1, validation=X, progress=False)
    assert _counts(loop.pair) == [0, 0]
    assert all(module.training for module in loop.pair.modules())


@pytest.mark.parametrize("make", [_modules, _functions])
def test_nothing_moves_where_nothing_is_trained(make):
    model, guide = make()
    pair = Pair(model, guide)
    log_evidence(pair.model, pair.guide, X, ELBO(2))
    pair.check(X)
    assert _counts(pair) == [0, 0]
    assert all(module.training for module in pair.modules())


@pytest.mark.parametrize("level", ["never", "graph"])
def test_the_chains_of_a_step_move_no_statistics_its_updates_do(level):
    model, _ = _modules()
    run = fit(model, None, X, objective=MCEM(num_leapfrog=7, num_updates=3), steps=2, progress=False, compile=level)
    assert _counts(run.pair) == [2 * 3]


def _moved(model, x):
    pair = Pair(model).check(x)
    objective = MCEM(num_leapfrog=5, num_updates=1, step_size=0.3)
    torch.manual_seed(3)
    memory = objective.start(pair, x)
    assert pair.training
    start = memory.positions.clone()
    next(objective(pair, Batch((x,), torch.arange(len(x)), len(x), torch.tensor(0)), memory))
    return start, memory.positions


def test_a_chain_does_not_see_the_other_datapoints():
    other = X.clone()
    other[1:] += 3.0
    (start, first), (_, second) = _moved(_modules()[0], X), _moved(_modules()[0], other)
    assert torch.equal(first[0], second[0])
    assert not torch.equal(first[1:], second[1:]) and not torch.equal(first[0], start[0])


def test_a_chain_moves_in_a_density_that_does_not_change_under_it():
    (_, first), (_, second) = (_moved(_modules(dropout)[0], X) for dropout in (0.0, 0.5))
    torch.testing.assert_close(first, second)


def test_the_exact_posterior_of_a_model_with_dropout_is_that_of_evaluation():
    def make(rate):
        torch.manual_seed(1)
        decoder = nn.Sequential(nn.Linear(2, 3), nn.Dropout(rate)).double()
        prior, likelihood = priors.StandardNormal(2), likelihoods.Normal()
        decoder.out_features = 3
        return LatentVariableModel(prior, decoder, likelihood).double()

    bounds = []
    for rate in (0.0, 0.9):
        loop = Fit(make(rate), None, X.double(), objective=EM(), steps=1, progress=False, compile="never")
        bounds.append(float(next(iter(loop))["bound"]))
    assert bounds[0] == pytest.approx(bounds[1], abs=1e-9)


def test_the_check_leaves_networks_as_they_came():
    encoder = networks.MLP(3, hidden=[4])
    model, _ = _modules()
    encoder.eval()
    guide = guides.Normal(2, encoder)
    pair = Pair(model, guide).check(X)
    assert not encoder.training and pair.model.training
