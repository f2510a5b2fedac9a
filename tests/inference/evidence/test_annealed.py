"""Annealed importance sampling against the exact evidence of probabilistic PCA."""

import math
from dataclasses import replace
from unittest.mock import Mock

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from aevb import guides
from aevb.inference import Pair, log_evidence
from aevb.inference.evidence import AnnealedImportanceSampling, Quadrature, annealing
from aevb.inference.evidence.annealing_path import path_from
from aevb.inference.graphs.traced_function import captured
from aevb.inference.posterior import hmc
from aevb.inference.posterior.hmc import WORTH_CAPTURING
from aevb.models import ProbabilisticPCA


def _world(latent_dim, points):
    torch.manual_seed(latent_dim)
    model = ProbabilisticPCA(12, latent_dim)
    with torch.no_grad():
        model.weight.copy_(torch.randn(12, latent_dim))
        model.log_scale.fill_(-0.5)

    def guide(x):  # centred on the posterior but half as wide again, and blind to correlations
        posterior = model.posterior(x)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(posterior.mean, 1.5 * posterior.stddev).to_event(1))

    x = model.simulate(points).detach()
    return model, guide, x, model.log_evidence(x).detach().double()


@pytest.mark.parametrize("schedule", ["sigmoid", "linear"])
@pytest.mark.parametrize("start", ["prior", "guide", "moments"])
def test_within_its_error_of_the_exact_evidence(start, schedule):
    model, guide, x, exact = _world(10, points=12)
    ais = AnnealedImportanceSampling(
        num_temperatures=600 if start == "prior" else 200,
        num_chains=30,
        start=start,
        schedule=schedule,
        num_tuning=30,
        num_leapfrog=5,
    )
    evidence = log_evidence(model, guide, x, ais)
    within = ((evidence.log_px - exact).abs() < 3 * evidence.errors + 1e-3).double().mean()
    assert within >= 0.9
    assert abs(evidence.mean - float(exact.mean())) < 3 * evidence.monte_carlo_error


def test_weights_average_to_the_evidence():
    model, guide, x, exact = _world(2, points=1)
    ais = AnnealedImportanceSampling(num_temperatures=20, num_chains=2000, start="prior", num_tuning=20, rows=2000)
    evidence = log_evidence(model, guide, x, ais)
    assert abs(float(evidence.log_px - exact)) < 3 * float(evidence.errors)


def test_one_chain_lies_below_in_expectation():
    model, guide, x, exact = _world(2, points=1)
    ais = AnnealedImportanceSampling(num_temperatures=3, num_chains=1, start="prior", num_tuning=20)
    repeats = log_evidence(model, guide, x.expand(200, -1).clone(), ais).log_px
    error = float(repeats.std() / math.sqrt(200))
    assert float(repeats.mean()) < float(exact) - 2 * error  # so few temperatures leave a visible gap


def _accept_everything(monkeypatch, longer=6.0):
    """Take the accept step out, and lengthen the steps so that it is missed."""
    right = annealing.advance

    def careless(terms, place, weights, step_size, num_leapfrog):
        with monkeypatch.context() as patch:
            patch.setattr(hmc, "_choose", lambda accepted, new, old: new)  # every proposal passes
            return right(terms, place, weights, longer * step_size, num_leapfrog)

    monkeypatch.setattr(annealing, "advance", careless)


def test_transitions_that_accept_everything_are_caught(monkeypatch):
    model, guide, x, exact = _world(2, points=1)
    _accept_everything(monkeypatch)
    ais = AnnealedImportanceSampling(num_temperatures=20, num_chains=2000, start="prior", num_tuning=1, rows=2000)
    evidence = log_evidence(model, guide, x, ais)
    assert not abs(float(evidence.log_px - exact)) < 3 * float(evidence.errors)


def _bent(x):
    """Two latents whose posterior is a thin curved wedge: no one step size suits all of it."""
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z[..., 1] * torch.exp(1.5 * z[..., 0]), 0.1), obs=x)


@pytest.mark.parametrize("broken", [False, True])
def test_step_sizes_that_are_tuned_during_the_run_are_caught(monkeypatch, broken):
    def move(self, place, t):
        steps = getattr(self, "tuned", torch.full(place.u.shape[:2], math.log(0.3)))
        sizes = steps.exp().unsqueeze(-1) * self.path.scale
        place, accept_prob = annealing.advance(self.path.terms, place, (1.0, self.betas[t]), sizes, self.num_leapfrog)
        self.tuned = steps + accept_prob - 0.65
        return place

    if broken:
        monkeypatch.setattr(annealing.Annealing, "move", move)
    x = torch.ones(50)
    exact = float(log_evidence(_bent, None, x[:1], Quadrature()).log_px)
    ais = AnnealedImportanceSampling(50, num_chains=200, start="prior", num_tuning=20, rows=20_000)
    ratio = (log_evidence(_bent, None, x, ais).log_px - exact).exp()
    away = (float(ratio.mean()) - 1.0) / float(ratio.std() / 50**0.5)
    assert (abs(away) < 3) is not broken


def test_an_implicit_guide_starts_the_chains_by_its_moments():
    model, _, x, exact = _world(2, points=10)

    class Bent(nn.Module):
        def forward(self, inputs):
            x, noise = inputs[..., :12], inputs[..., 12:]
            posterior = model.posterior(x[0] if x.dim() == 3 else x)
            return posterior.mean + 1.3 * noise[..., :2] * posterior.stddev + 0.1 * noise[..., 2:].square()

    guide = guides.Implicit(Bent(), latent_dim=2, noise_dim=4)
    ais = AnnealedImportanceSampling(100, num_chains=20, start="moments", num_tuning=20, num_leapfrog=4)
    evidence = log_evidence(model, guide, x, ais)
    assert abs(evidence.mean - float(exact.mean())) < 3 * evidence.monte_carlo_error
    with pytest.raises(ValueError, match="start='moments'"):
        log_evidence(model, guide, x, AnnealedImportanceSampling(start="guide"))


def test_a_guide_that_draws_more_than_the_latents_starts_the_chains_by_its_moments():
    model, _, x, _ = _world(2, points=3)

    def guide(x):
        with pyro.plate("data", len(x)):
            scale = pyro.sample("scale", dist.Gamma(x.new_tensor(2.0), 2.0), infer={"is_auxiliary": True})
            pyro.sample("z", dist.Normal(model.posterior(x).mean, scale.unsqueeze(-1)).to_event(1))

    with pytest.raises(ValueError, match=r"draws \['scale'\] and the model does not.*from moments"):
        log_evidence(model, guide, x, AnnealedImportanceSampling(start="guide"))
    ais = AnnealedImportanceSampling(20, num_chains=4, start="moments", num_tuning=5)
    assert torch.isfinite(log_evidence(model, guide, x, ais).log_px).all()


def test_moments_carry_the_guides_correlations():
    model = _world(2, points=1)[0]
    with torch.no_grad():  # two latents that the data hardly tell apart
        model.weight[:, 1] = model.weight[:, 0] + 0.2 * model.weight[:, 1]
    x = model.simulate(5)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", model.posterior(x))

    ais = AnnealedImportanceSampling(3, num_chains=300, start="moments", num_tuning=5, num_leapfrog=2, rows=1500)
    evidence = log_evidence(model, guide, x, ais)
    assert (evidence.ess > 250).all()  # the start is all but the posterior
    exact = float(model.log_evidence(x).mean().detach())
    assert abs(evidence.mean - exact) < 3 * evidence.monte_carlo_error


def test_chunks_draw_numbers_of_their_own():
    model, guide, x, _ = _world(2, points=1)
    ais = AnnealedImportanceSampling(3, num_chains=4, num_tuning=2, num_leapfrog=1, rows=4)  # one point a chunk
    assert len(log_evidence(model, guide, x.expand(6, -1).clone(), ais).log_px.unique()) == 6


class _Stop(Exception):
    pass


def test_a_run_that_is_broken_off_goes_on_with_the_same_numbers(tmp_path, monkeypatch):
    model, guide, x, _ = _world(2, points=10)
    ais = AnnealedImportanceSampling(10, num_chains=4, num_tuning=5, num_leapfrog=2, rows=12)  # chunks of 3, 3, 3, 1
    whole = log_evidence(model, guide, x, ais)
    kept = replace(ais, checkpoint=str(tmp_path / "runs" / "ais.safetensors"))
    runs, right = [], annealing.Annealing.forward

    def forward(self):
        if len(runs) == 2:
            raise _Stop
        runs.append(1)
        return right(self)

    monkeypatch.setattr(annealing.Annealing, "forward", forward)
    with pytest.raises(_Stop):
        log_evidence(model, guide, x, kept)
    runs.clear()
    assert torch.equal(log_evidence(model, guide, x, kept).log_px, whole.log_px) and len(runs) == 2
    assert torch.equal(log_evidence(model, guide, x, kept).log_px, whole.log_px) and len(runs) == 2


def test_a_checkpoint_of_something_else_is_refused(tmp_path):
    model, guide, x, _ = _world(2, points=4)
    path = tmp_path / "ais.safetensors"
    ais = AnnealedImportanceSampling(10, num_chains=4, num_tuning=5, num_leapfrog=2, checkpoint=str(path))
    log_evidence(model, guide, x, ais)
    with pytest.raises(ValueError, match="num_temperatures 10 there, 11 here"):
        log_evidence(model, guide, x, replace(ais, num_temperatures=11))
    with pytest.raises(ValueError, match="random_stream"):
        log_evidence(model, guide, x, ais, seed=1)
    with pytest.raises(ValueError, match="other data"):
        log_evidence(model, guide, x + 1.0, ais)
    with torch.no_grad():
        model.mean.add_(1.0)
    with pytest.raises(ValueError, match="parameters"):
        log_evidence(model, guide, x, ais)
    path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match="is no checkpoint"):
        log_evidence(model, guide, x, ais)


def test_captured_paths_give_the_numbers_of_the_handlers():
    model, guide, x, _ = _world(2, points=5)
    pair = Pair(model, guide).check(x)
    with pair.evaluation():
        for start in ("prior", "guide", "moments"):
            places = []
            for evaluations in (0, WORTH_CAPTURING):
                torch.manual_seed(3)
                path = path_from(pair, (x,), start, 6, evaluations=evaluations)
                torch.manual_seed(4)
                places.append(path.terms(path.draw(6)))
            for plain, graph in zip(*places, strict=True):
                torch.testing.assert_close(graph, plain, rtol=1e-4, atol=1e-4)


def test_what_does_not_depend_on_the_argument_is_worked_out_once():
    encoder, x = Mock(side_effect=lambda x: x @ torch.ones(12, 2)), torch.randn(5, 12)
    function = captured(lambda u: ((u * encoder(x)).sum(-1),), torch.zeros(5, 2))
    before = encoder.call_count
    u = torch.randn(5, 2)
    torch.testing.assert_close(function(u)[0], (u * encoder(x)).sum(-1))
    assert encoder.call_count == before + 1


def test_what_branches_on_values_is_not_captured():
    def function(u):
        return (u * 2 if float(u.sum()) > 0 else u,)

    with pytest.warns(RuntimeWarning, match="a density runs uncaptured"):
        assert captured(function, torch.ones(3)) is function


@pytest.mark.parametrize(
    ("options", "expected"),
    [({"start": "nowhere"}, "nowhere"), ({"schedule": "odd"}, "odd"), ({"num_chains": 0}, "num_chains=0")],
)
def test_bad_arguments_are_named(options, expected):
    with pytest.raises(ValueError, match=expected):
        AnnealedImportanceSampling(**options)
