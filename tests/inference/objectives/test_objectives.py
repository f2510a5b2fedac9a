"""Objectives: who moves in which phase, eq. (8)'s scale, eq. (10)'s divergence, and a step that is Pyro's own."""

from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO, TraceMeanField_ELBO
from torch import nn

from aevb import guides, registry
from aevb.inference import MAP, MCEM, SGVB, Fit, Pair, PyroELBO, WakeSleep, fit
from aevb.inference.objectives import Batch
from aevb.models import LatentVariableModel, ProbabilisticPCA, likelihoods, networks, priors
from aevb.testing import check_objective

X = torch.rand(12, 6, generator=torch.Generator().manual_seed(0)).round()


def _pair():
    torch.manual_seed(7)
    model = LatentVariableModel(priors.StandardNormal(2), networks.MLP(2, 6, hidden=[8]), likelihoods.Bernoulli())
    return Pair(model, guides.Normal(2, networks.MLP(6, hidden=[8]))).check(X)


def _batch(x=X, size=None, rows=None):
    return Batch((x,), torch.arange(len(x)) if rows is None else rows, size or len(x), torch.tensor(0))


def _model(x):
    noise = pyro.param("noise", torch.tensor(0.7), constraint=dist.constraints.positive)
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
        pyro.sample("x", dist.Normal(z.unsqueeze(-1), noise).expand([*z.shape, 6]).to_event(1), obs=x)


def _guide(x):
    slope = pyro.param("slope", torch.tensor(0.3))
    scale = pyro.param("scale", torch.tensor(0.8), constraint=dist.constraints.positive)
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(slope * x.sum(-1), scale))


@pytest.mark.parametrize(("estimator", "elbo"), [("A", Trace_ELBO), ("B", TraceMeanField_ELBO)])
@pytest.mark.parametrize("compile_level", ["never", "graph"])
def test_steps_of_fit_are_steps_of_svi(estimator, elbo, compile_level):
    sgd = partial(torch.optim.SGD, lr=0.1)
    objective = SGVB(estimator=estimator)
    loop = Fit(_model, _guide, X, objective=objective, optimizer=sgd, steps=5, progress=False, compile=compile_level)
    with loop.random:
        state = torch.get_rng_state()
    for _ in loop:
        pass

    pyro.clear_param_store()
    # A loss here is one of nats per datapoint; Pyro's is the batch's, so its rate is the batch size smaller.
    svi = SVI(_model, _guide, pyro.optim.SGD({"lr": 0.1 / len(X)}), loss=elbo())
    with torch.random.fork_rng():
        torch.set_rng_state(state)
        for epoch in range(5):
            svi.step(X[loop.random.permutation(len(X), epoch=epoch)])
    expected = {name: value.detach() for name, value in pyro.get_param_store().items()}
    assert expected.keys() == loop.run.params.keys()
    for name, value in expected.items():
        torch.testing.assert_close(loop.run.params[name], value, rtol=1e-4, atol=1e-5)
    assert abs(float(expected["slope"]) - 0.3) > 0.05  # it has moved


def test_a_name_that_model_and_guide_share_is_one_parameter_as_in_svi():
    def model(x):
        level = pyro.param("level", torch.tensor(0.5))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(level, 1.0))
            pyro.sample("x", dist.Normal(z.unsqueeze(-1), 1.0).expand([*z.shape, 6]).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(pyro.param("level", torch.tensor(0.5)), 0.5).expand([len(x)]))

    loop = Fit(model, guide, X, optimizer=partial(torch.optim.SGD, lr=0.1), steps=3, progress=False)
    assert len({id(p) for p in loop.pair.parameters()}) == 1
    with loop.random:
        state = torch.get_rng_state()
    for _ in loop:
        pass
    pyro.clear_param_store()
    svi = SVI(model, guide, pyro.optim.SGD({"lr": 0.1 / len(X)}), loss=TraceMeanField_ELBO())
    with torch.random.fork_rng():
        torch.set_rng_state(state)
        for epoch in range(3):
            svi.step(X[loop.random.permutation(len(X), epoch=epoch)])
    assert float(loop.run.params["level"]) == pytest.approx(float(pyro.param("level").detach()), rel=1e-4)


def test_the_divergence_of_eq_10_is_in_b_and_its_mean_in_a():
    pair = _pair()
    q = pair.guide.fn.posterior(X).base_dist
    kl = -0.5 * (1 + 2 * q.stddev.log() - q.mean.square() - q.stddev.square()).sum(-1)  # eq. (10)
    standard = dist.Normal(torch.zeros_like(q.mean), 1.0)
    torch.testing.assert_close(kl, torch.distributions.kl_divergence(q, standard).sum(-1))
    torch.manual_seed(0)
    (b,) = SGVB(estimator="B")(pair, _batch(), nn.Module())
    torch.manual_seed(0)
    cloud = pair.cloud(X)
    torch.testing.assert_close(b.losses["model"], (kl - cloud.log_lik[0]).mean())
    torch.manual_seed(0)
    (a,) = SGVB(estimator="A")(pair, _batch(), nn.Module())
    torch.testing.assert_close(a.losses["model"], -cloud.log_weight.mean())
    cloud = pair.cloud(X, 20_000)
    gap = (cloud.log_q - cloud.log_prior).mean(-1).detach()  # [K], of mean KL
    assert abs(float(gap.mean() - kl.detach().mean())) < 4 * float(gap.std()) / 20_000**0.5


def test_map_weighs_its_prior_by_the_data_set_not_the_batch():
    pair = _pair()
    for size in (12, 1200):
        torch.manual_seed(0)
        (plain,) = SGVB()(pair, _batch(size=size), nn.Module())
        torch.manual_seed(0)
        (phase,) = MAP(SGVB(), scale=2.0)(pair, _batch(size=size), nn.Module())
        norm = sum(p.square().sum() for p in pair.players()["model"])
        torch.testing.assert_close(phase.losses["model"] - plain.losses["model"], norm / (2 * 4.0 * size))
        guide = pair.players()["guide"]  # its loss may carry the prior of the model along, its gradient may not
        gradients = [torch.autograd.grad(p.losses["guide"], guide) for p in (phase, plain)]
        torch.testing.assert_close(*gradients)
        torch.testing.assert_close(phase.report["bound"], plain.report["bound"])


def test_map_pulls_towards_nothing():
    x = ProbabilisticPCA(6, 2).simulate(12).detach()
    options = {"optimizer": partial(torch.optim.Adam, lr=0.01), "steps": 400, "progress": False}
    runs = [
        fit(ProbabilisticPCA(6, 2), guides.Normal(2, nn.Identity()), x, objective=objective, **options)
        for objective in (SGVB(), MAP(SGVB(), scale=0.05))
    ]
    norms = [sum(float(p.detach().square().sum()) for p in run.pair.players()["model"]) for run in runs]
    assert norms[1] < 0.8 * norms[0]


def test_wake_moves_the_model_and_sleep_the_guide():
    pair = _pair()
    wake, sleep = WakeSleep()(pair, _batch(), nn.Module())
    assert set(wake.losses) == {"model"} and set(sleep.losses) == {"guide"}
    for phase, still in ((wake, "guide"), (sleep, "model")):
        (loss,) = phase.losses.values()
        parameters = pair.players()[still]
        assert all(g is None for g in torch.autograd.grad(loss, parameters, allow_unused=True, retain_graph=True))


def test_sleep_minimises_the_divergence_from_the_model_to_the_guide():
    torch.manual_seed(0)
    model = ProbabilisticPCA(6, 1)
    x = model.simulate(4000).detach()
    guide = guides.Normal(1, nn.Linear(6, 6))
    still = {"model": partial(torch.optim.SGD, lr=0.0), "guide": partial(torch.optim.Adam, lr=1e-2)}
    fit(model, guide, x, objective=WakeSleep(), optimizer=still, steps=1500, batch_size=500, progress=False)
    exact, q = model.posterior(x[:50]), guide.posterior(x[:50])
    torch.testing.assert_close(q.mean, exact.mean, rtol=0, atol=0.1)
    torch.testing.assert_close(q.stddev, exact.stddev, rtol=0.1, atol=0)


def test_mcem_keeps_a_chain_a_datapoint_and_updates_five_times_on_each_sample():
    pair = _pair()
    torch.manual_seed(0)
    memory = MCEM().start(pair, X)
    before = memory.positions.clone()
    assert before.shape == (12, 2)
    rows = torch.tensor([1, 5, 6])
    phases = []
    for phase in MCEM()(pair, _batch(X[rows], size=12, rows=rows), memory):
        phases.append(phase)
        moved = (memory.positions != before).any(-1)
        assert not moved[[i for i in range(12) if i not in rows]].any()
    losses = [float(phase.losses["model"].detach()) for phase in phases]
    assert len(losses) == 5 and len(set(losses)) == 1  # nobody moved the model in between: one sample, one value
    z = {"z": memory.positions[rows].unsqueeze(0)}
    assert losses[0] == pytest.approx(-float(pair.log_joint(z, X[rows]).mean().detach()), rel=1e-5)
    assert moved[rows].any()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: SGVB(estimator="C"), "estimator='C'"),
        (lambda: SGVB(num_samples=0), "num_samples=0"),
        (lambda: WakeSleep(num_samples=0), "num_samples=0"),
        (lambda: MCEM(num_leapfrog=0), "num_leapfrog=0"),
        (lambda: MCEM(target_accept=1.0), "target_accept=1.0"),
        (lambda: MCEM(step_size=0.0), "step_size=0.0"),
        (lambda: MAP(SGVB(), scale=0.0), "scale=0.0"),
        (lambda: PyroELBO(pyro.infer.RenyiELBO()), "RenyiELBO has no differentiable_loss"),
    ],
)
def test_bad_settings_are_named(make, said):
    with pytest.raises(ValueError, match=said):
        make()


def test_estimator_b_refuses_a_latent_without_a_pathwise_gradient():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Bernoulli(x.new_tensor(0.5)))
            loc = pyro.param("loc", torch.tensor(1.0)) * z
            pyro.sample("x", dist.Normal(loc.unsqueeze(-1), 1.0).expand([*z.shape, 6]).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Bernoulli(logits=pyro.param("slope", torch.tensor(0.1)) * x.sum(-1)))

    with pytest.raises(ValueError, match=r"\['z'\] have no rsample.*estimator=\"A\""):
        fit(model, guide, X, steps=1, progress=False)
    run = fit(model, guide, X, objective=SGVB(estimator="A"), steps=3, progress=False)
    assert float(run.params["slope"]) != pytest.approx(0.1)


@pytest.mark.parametrize("name", sorted(registry.own("objectives")))
def test_objective_holds_what_every_objective_holds(name):
    check_objective(registry.find("objectives", name), steps=300 if name == "avb" else 60)  # its critic learns first
