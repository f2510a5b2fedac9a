"""Every block is a Pyro program anywhere: Pyro's own inference finds its parameters, and the densities that we find."""

import itertools
import pickle

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import MCMC, NUTS, SVI, Predictive, Trace_ELBO
from pyro.infer.autoguide import AutoNormal
from pyro.infer.inspect import get_model_relations

from aevb import registry
from aevb.build import Recipe, build_pair, dress
from aevb.data import Dataset
from aevb.inference import Pair, fit
from aevb.models import LatentVariableModel, likelihoods, networks, priors

OPTIONS = {
    "mixture-of-gaussians": {"num_components": 3},
    "vamp-prior": {"num_pseudo_inputs": 3},
    "flow": {"hidden_features": [8]},
}
NO_DENSITY = ("implicit", "noise-basis")
PARTS = [0, 1] * 4
X = torch.tensor([[1.0, 0.0, 1.0, 1.0]] * 4 + [[0.0, 1.0, 0.0, 1.0]] * 4)


def _built(prior, guide):
    recipe = Recipe(
        latent_dim=3,
        prior=prior,
        prior_args=OPTIONS.get(prior, {}),
        guide=guide,
        guide_args=OPTIONS.get(guide, {}),
        hidden=(6,),
    )
    labels = torch.tensor(PARTS)
    data = Dataset("made", None, X, X, X, labels, labels, labels)
    rows = dress(data, recipe).train[torch.arange(len(X))]
    model, encoder = build_pair(recipe, data)
    return model, encoder, rows if isinstance(rows, tuple) else (rows,)


def _first_partners():
    """Every prior and every guide once, with the first partner that the builder lets it have."""
    seen, found = set(), []
    for prior, guide in itertools.product(registry.PRIORS, registry.GUIDES):
        if {("p", prior), ("g", guide)} <= seen or guide in NO_DENSITY:
            continue
        try:
            _built(prior, guide)
        except ValueError:
            continue
        seen |= {("p", prior), ("g", guide)}
        found.append((prior, guide))
    return found


BUILT = _first_partners()


@pytest.fixture(autouse=True)
def _store():
    pyro.clear_param_store()
    yield
    pyro.clear_param_store()


def test_the_table_is_complete():
    assert {prior for prior, _ in BUILT} == set(registry.PRIORS)
    assert {guide for _, guide in BUILT} == set(registry.GUIDES) - set(NO_DENSITY)


def _moved(modules, before):
    return {
        name
        for number, module in enumerate(modules)
        for name, value in module.named_parameters()
        if not torch.equal(value, before[number][name])
    }


@pytest.mark.parametrize(("prior", "guide"), BUILT)
def test_pyros_svi_moves_every_parameter_and_scores_as_we_do(prior, guide):
    model, encoder, data = _built(prior, guide)
    pair = Pair(model, encoder).check(data)  # which lets lazy layers find their sizes
    before = [{n: v.detach().clone() for n, v in module.named_parameters()} for module in (model, encoder)]
    loss = SVI(model, encoder, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO()).step
    assert all(torch.isfinite(torch.tensor(loss(*data))) for _ in range(4))
    wanted = {n for module in (model, encoder) for n, v in module.named_parameters() if v.requires_grad}
    assert _moved((model, encoder), before) == wanted
    assert {name.split("$$$")[0] for name in pyro.get_param_store()} <= {type(model).__name__, type(encoder).__name__}

    with torch.no_grad(), pyro.validation_enabled(False):
        cloud = pair.cloud(data)
        there = {name: value[0] for name, value in cloud.z.items()}
        trace = poutine.trace(poutine.condition(model, data=there)).get_trace(*data)
        torch.testing.assert_close(trace.log_prob_sum(), cloud.log_joint.sum(), rtol=1e-5, atol=1e-4)


def _pair():
    model = LatentVariableModel(priors.LearnedNormal(2), networks.MLP(2, 4, hidden=[5]), likelihoods.Bernoulli())
    return model, _built("standard-normal", "normal")[1]


def test_a_prior_of_ours_in_a_plain_function_is_trained_by_pyro():
    prior = priors.LearnedNormal(1)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", prior())
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x, 0.7).to_event(1))

    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO())
    for _ in range(100):
        svi.step(torch.full((8, 1), 2.0))
    assert float(prior.mean.detach()) == pytest.approx(2.0, abs=0.3)


def _observed(prior):
    pyro.sample("z", prior(), obs=torch.full((2,), 2.0))


def test_of_two_blocks_of_one_class_each_is_trained_as_itself():
    first, second = priors.LearnedNormal(2), priors.LearnedNormal(2)
    for prior in (first, second, first):
        before = {name: value.clone() for name, value in prior.named_parameters()}
        SVI(_observed, lambda prior: None, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO()).step(prior)
        assert _moved([prior], [before]) == set(before)
    names = {name.split("$$$")[0] for name in pyro.get_param_store()}
    assert names == {"LearnedNormal", "LearnedNormal_2"}


def test_stored_values_are_taken_when_they_are_asked_for():
    first, later = priors.LearnedNormal(2), priors.LearnedNormal(2)
    poutine.trace(_observed).get_trace(first)
    with torch.no_grad():
        first.mean.fill_(3.0)
    pyro.module("LearnedNormal", later, update_module_params=True)
    poutine.trace(_observed).get_trace(later)
    assert float(later.mean[0].detach()) == 3.0 and "LearnedNormal_2$$$mean" not in pyro.get_param_store()


def test_a_block_that_is_only_looked_at_leaves_the_store_alone():
    priors.LearnedNormal(2)().sample()
    assert not list(pyro.get_param_store())


def test_every_door_of_pyro_is_open():
    (model, _), x = _pair(), X
    assert Predictive(model, num_samples=3)(x)["z"].shape == (3, 8, 2)
    loss = Trace_ELBO()(model, AutoNormal(model))
    loss(x).backward()
    assert all(p.grad is not None for p in model.parameters())
    drawn = MCMC(NUTS(model, max_tree_depth=3), num_samples=5, warmup_steps=5, disable_progbar=True)
    drawn.run(x)
    assert drawn.get_samples()["z"].shape == (5, 8, 2)
    assert set(get_model_relations(model, (x,))["sample_sample"]) == {"z", "x"}  # what render_model draws


def test_what_was_fitted_here_goes_on_under_pyro():
    """The programs of a run, plain functions and blocks: SVI hears of every parameter, the store of none."""

    def model(x):
        loc = pyro.param("loc", torch.tensor(0.0))
        noise = pyro.param("noise", torch.tensor(1.0), constraint=dist.constraints.positive)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(loc, 1.0))
            pyro.sample("x", dist.Normal(z, noise), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2, pyro.param("scale", torch.tensor(0.5))))

    x = torch.linspace(0.0, 2.0, 20)
    model_, encoder, data = _built("mixture-of-gaussians", "normal")
    for run, rows in ((fit(model, guide, x, epochs=2, progress=False), (x,)), (_fitted(model_, encoder, data), data)):
        before = {name: value.clone() for name, value in run.params.items()}
        svi = SVI(run.model, run.guide, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO())
        for _ in range(3):
            svi.step(*rows)
        assert all(not torch.equal(before[name], value) for name, value in run.params.items())
        assert not list(pyro.get_param_store())
        assert pickle.loads(pickle.dumps(run.pair.state_dict()))


def _fitted(model, guide, data):
    return fit(model, guide, data, epochs=2, progress=False, compile="never")


def test_fitting_here_leaves_pyros_store_alone():
    model, encoder, data = _built("learned-normal", "normal") if "learned-normal" in registry.PRIORS else _pair()
    _fitted(model, encoder, data)
    assert not list(pyro.get_param_store())
