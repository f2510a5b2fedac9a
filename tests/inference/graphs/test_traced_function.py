"""A function as a graph: the same numbers and the same draws; what branches on values stays as it is."""

import shutil
import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch

from aevb import guides
from aevb.inference import log_evidence
from aevb.inference.evidence import AnnealedImportanceSampling, ImportanceSampling, importance_sampling
from aevb.inference.graphs import inductor
from aevb.inference.graphs.traced_function import captured
from aevb.inference.pairs.pair import Pair
from aevb.inference.posterior import hmc
from aevb.models import LatentVariableModel, likelihoods, networks, priors


def test_a_function_that_draws_draws_the_same():
    def noisy(x, rows):
        return (x[rows] + torch.randn(3), x.sum(0))

    arguments = torch.rand(4, 3), torch.tensor([2])
    graph = captured(noisy, torch.zeros(4, 3), torch.tensor([1]))
    assert graph is not noisy
    results = []
    for function in (noisy, graph):
        torch.manual_seed(3)
        results.append(function(*arguments))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_a_compiled_graph_gives_the_same_numbers():
    torch.manual_seed(0)
    weight, scale = torch.randn(5, 4), torch.rand(4)

    def density(u):
        return (-(u @ weight).tanh().square().div(scale.exp()).sum(-1), u * 2.0)

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", RuntimeWarning)
        graph = captured(density, torch.zeros(3, 5), compile=True)
    assert graph is not density and not said  # a fallback would say so
    u = torch.randn(3, 5)
    for found, expected in zip(graph(u), density(u), strict=True):
        torch.testing.assert_close(found, expected)


def test_a_failing_compiler_leaves_the_graph(monkeypatch):
    def fail(*_):
        raise inductor.CannotCompileError("no compiler here")

    monkeypatch.setattr(inductor, "compiled", fail)
    with pytest.warns(RuntimeWarning, match="no compiler here"):
        graph = captured(lambda u: (u * 2.0,), torch.zeros(3), compile=True)
    assert torch.equal(graph(torch.ones(3))[0], torch.full((3,), 2.0))


def test_a_rejection_loop_is_left_alone():
    def accepted(x):
        todo, found = torch.arange(len(x)), torch.zeros_like(x)
        while todo.numel():
            proposal = torch.rand(len(todo))
            good = proposal < 0.5
            found[todo[good]] = proposal[good]
            todo = todo[~good]
        return (found + x,)

    with pytest.warns(RuntimeWarning, match="a density runs uncaptured.*the shapes behind aten.*a rejection loop"):
        assert captured(accepted, torch.zeros(50)) is accepted


def test_a_function_that_reads_a_number_is_left_alone():
    def scaled(x):
        return (x * float(x.detach().sum().numpy()),)

    with pytest.warns(RuntimeWarning, match=r"uncaptured.*: numpy\(\) reads a tensor.* at test_traced_function"):
        assert captured(scaled, torch.ones(3)) is scaled


@pytest.mark.parametrize("rows", [50, 64])
def test_captured_weights_are_the_same_weights(rows, monkeypatch):
    torch.manual_seed(0)
    x = torch.bernoulli(torch.rand(23, 12))
    model = LatentVariableModel(priors.StandardNormal(3), networks.MLP(3, 12, hidden=[16]), likelihoods.Bernoulli())
    guide = guides.Normal(latent_dim=3, encoder=networks.MLP(12, hidden=[16]))
    found, calls = [], []
    monkeypatch.setattr(importance_sampling, "captured", lambda f, *x, **o: calls.append(f) or captured(f, *x, **o))
    for worth in (10**9, 1):
        monkeypatch.setattr(importance_sampling, "_WORTH_CAPTURING", worth)
        found.append(log_evidence(model, guide, x, ImportanceSampling(70, rows=rows)))
    assert 1 <= len(calls) <= 4  # one a shape, however many chunks
    torch.testing.assert_close(found[0].log_px, found[1].log_px, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found[0].khat, found[1].khat, rtol=1e-4, atol=1e-4)


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_compiled_weights_are_the_same_weights(monkeypatch):
    torch.manual_seed(0)
    x = torch.bernoulli(torch.rand(20, 12))
    model = LatentVariableModel(priors.StandardNormal(3), networks.MLP(3, 12, hidden=[16]), likelihoods.Bernoulli())
    guide = guides.Normal(latent_dim=3, encoder=networks.MLP(12, hidden=[16]))
    found = []
    for worth in (10**9, 1):
        monkeypatch.setattr(importance_sampling, "_WORTH_CAPTURING", worth)
        monkeypatch.setattr(importance_sampling, "worth_compiling", lambda *_: True)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always", RuntimeWarning)
            found.append(log_evidence(model, guide, x, ImportanceSampling(100, rows=2000)))
        assert not said  # a fallback would say so
    torch.testing.assert_close(found[0].log_px, found[1].log_px, rtol=1e-6, atol=1e-6)


def _branching():
    """A pair whose model branches on its data."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            scale = 1.0 if bool((x.detach() > -9.0).all()) else 2.0
            pyro.sample("x", dist.Normal(z.unsqueeze(-1), scale).expand([*z.shape, 1]).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x.squeeze(-1) / 2, 0.8))

    return Pair(model, guide)


def test_a_pair_that_cannot_be_captured_says_so_once_with_the_reason(monkeypatch):
    monkeypatch.setattr(importance_sampling, "_WORTH_CAPTURING", 1)
    monkeypatch.setattr(hmc, "WORTH_CAPTURING", 1)
    x = torch.tensor([[-1.0], [1.0], [0.5]])
    for _ in range(2):  # of another pair it is said again
        pair = _branching()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for num_samples in (20, 30):
                log_evidence(pair.model, pair.guide, x, ImportanceSampling(num_samples, rows=20))
            short = AnnealedImportanceSampling(2, num_chains=2, num_leapfrog=2, num_tuning=2)
            log_evidence(pair.model, pair.guide, x, short)
            hmc.sample(lambda u: pair.log_joint({"z": u[..., 0]}, x), torch.zeros(1, 3, 1), num_samples=5, warmup=5)  # noqa: B023
        (said,) = [str(w.message) for w in caught if "uncaptured" in str(w.message)]
        assert "__bool__() reads a tensor's values as Python numbers at test_traced_function.py" in said


@pytest.mark.filterwarnings("ignore:a density runs uncaptured")
def test_a_program_that_branches_on_its_data_is_weighed_uncaptured(monkeypatch):
    pair = _branching()
    monkeypatch.setattr(importance_sampling, "_WORTH_CAPTURING", 1)
    x = torch.tensor([[-1.0], [1.0], [0.5]])
    evidence = log_evidence(pair.model, pair.guide, x, ImportanceSampling(4000, rows=100))
    exact = dist.Normal(0.0, 2.0**0.5).log_prob(x).squeeze(-1)
    assert torch.allclose(evidence.log_px.float(), exact, atol=0.1)
