"""Runs on disk: what is saved comes back, by itself or with the pair's help; what is broken is told."""

import json

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

from aevb import guides
from aevb.inference import Pair, Run, fit, load
from aevb.inference.training.description import DescriptionError, describe, rebuild
from aevb.models import LatentVariableModel, likelihoods, networks, priors

X = torch.rand(30, 6, generator=torch.Generator().manual_seed(0)).round()


def plain_model(x):
    """A function that can be imported again by its name."""
    weight = pyro.param("weight", torch.full((6,), 0.1))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
        pyro.sample("x", dist.Normal(z.unsqueeze(-1) * weight, 1.0).to_event(1), obs=x)


def plain_guide(x):
    """Its guide."""
    slope = pyro.param("slope", torch.tensor(0.2))
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(slope * x.sum(-1), 1.0))


def _blocks(prior=None):
    guide = guides.Normal(2, networks.MLP(6, hidden=[8]))
    prior = priors.StandardNormal(2) if prior is None else prior(guide)
    return LatentVariableModel(prior, networks.MLP(2, 6, hidden=[8]), likelihoods.Bernoulli()), guide


def _same(a, b):
    torch.manual_seed(1)
    first = a.pair.cloud(X, 3).log_weight
    torch.manual_seed(1)
    return torch.equal(first, b.pair.cloud(X, 3).log_weight)


def test_blocks_come_back_by_themselves(tmp_path):
    run = fit(*_blocks(), X, epochs=2, progress=False)
    run.save(tmp_path)
    again = load(tmp_path)
    assert _same(run, again)
    assert list(again.history.columns) == list(run.history.columns)
    assert again.settings["seed"] == 0


def test_a_shared_block_stays_shared(tmp_path):
    run = fit(
        *_blocks(lambda guide: priors.VampPrior(guide.posterior, 6, num_pseudo_inputs=3)), X, epochs=1, progress=False
    )
    run.save(tmp_path)
    again = load(tmp_path)
    assert _same(run, again)
    assert again.pair.model.fn.prior.posterior.__self__ is again.pair.guide.fn


def test_importable_functions_come_back_and_local_ones_with_help(tmp_path, monkeypatch):
    run = fit(plain_model, plain_guide, X, epochs=2, progress=False)
    run.save(tmp_path / "a")
    with pytest.raises(ValueError, match=r"load\(folder, model=..., guide=...\)"):
        fit(lambda x: plain_model(x), plain_guide, X, epochs=1, progress=False).save(tmp_path / "b")
        load(tmp_path / "b")
    assert _same(run, load(tmp_path / "a", plain_model, plain_guide))


def test_a_model_without_a_guide(tmp_path):
    Run(Pair(_blocks()[0]).check(X), None).save(tmp_path)
    assert load(tmp_path).guide is None


def test_broken_folders_are_told(tmp_path):
    with pytest.raises(ValueError, match=r"no run folder.*config\.json"):
        load(tmp_path)
    fit(*_blocks(), X, epochs=1, progress=False).save(tmp_path)
    with pytest.raises(ValueError, match="another pair"):
        load(tmp_path, plain_model, plain_guide)
    (tmp_path / "model.safetensors").write_bytes(b"not tensors")
    with pytest.raises(ValueError, match="cannot be read"):
        load(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="not JSON"):
        load(tmp_path)


def test_descriptions_are_json_and_say_what_is_missing():
    model, guide = _blocks()
    text = json.dumps(describe([model, guide]))
    rebuilt = rebuild(json.loads(text))
    assert type(rebuilt[0]) is type(model) and json.dumps(describe(rebuilt)) == text

    class Forgetful(torch.nn.Module):
        def __init__(self, width):
            super().__init__()
            self.layer = torch.nn.Linear(width, 1)

    with pytest.raises(DescriptionError, match=r"\['width'\]"):
        describe(Forgetful(3))


class Holder(torch.nn.Module):
    """A block that keeps whatever it is given."""

    def __init__(self, held):
        super().__init__()
        self.held = held


@pytest.mark.parametrize(
    "held",
    [torch.ones(2), {"a": 1}, np.ones(2), np.int64(3), torch.nn.Sequential(torch.nn.Tanh()), torch.nn.ModuleList()],
)
def test_what_would_come_back_empty_is_not_described(held):
    with pytest.raises(DescriptionError, match="so a run folder cannot say how to build it again"):
        describe(Holder(held))


def test_a_guide_alone_is_no_help(tmp_path):
    fit(*_blocks(), X, epochs=1, progress=False).save(tmp_path)
    with pytest.raises(ValueError, match="needs model="):
        load(tmp_path, guide=plain_guide)
