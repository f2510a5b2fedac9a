"""A pair that breaks the contract is told so in one sentence: the site, its shape, the mend."""

import pyro
import pyro.distributions as dist
import pytest
import torch

from aevb import guides
from aevb.inference import ContractError, Pair, fit, log_evidence
from aevb.inference.evidence import ELBO
from aevb.models import LatentVariableModel, likelihoods, networks, priors

X = torch.rand(6, 4)


def _model(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z.sum(-1, keepdim=True).expand(*z.shape[:-1], 4), 1.0).to_event(1), obs=x)


def _guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x[:, :2], 1.0).to_event(1))


def _no_plate(x):
    z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 2), 1.0).to_event(2))
    pyro.sample("x", dist.Normal(z.sum(-1, keepdim=True).expand(*z.shape[:-1], 4), 1.0).to_event(2), obs=x)


def _global_latent(x):
    w = pyro.sample("w", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
        loc = (w * z.sum(-1, keepdim=True)).expand(*z.shape[:-1], 4)
        pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)


def _guide_with_w(x):
    pyro.sample("w", dist.Normal(0.0, 1.0))
    _guide(x)


def _pixels_not_an_event(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z.sum(-1, keepdim=True).expand(*z.shape[:-1], 4), 1.0), obs=x)


def _square_not_an_event(x):
    # As many latent columns as rows: the shapes fit by accident, and only the count of numbers tells.
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), len(x)), 1.0))
        pyro.sample("x", dist.Normal(z.sum(-1, keepdim=True).expand(*z.shape[:-1], 4), 1.0).to_event(1), obs=x)


def _nothing_observed(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(x.new_zeros(4), 1.0).to_event(1))


def _nothing_latent(x):
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(x.new_zeros(4), 1.0).to_event(1), obs=x)


def _whole_data_plate(x):
    with pyro.plate("data", 1000, subsample=torch.arange(len(x))):
        z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z.sum(-1, keepdim=True).expand(*z.shape[:-1], 4), 1.0).to_event(1), obs=x)


def _other_name(x):
    with pyro.plate("data", len(x)):
        pyro.sample("latent", dist.Normal(x[:, :2], 1.0).to_event(1))


def _positive(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Gamma(2.0, x.new_ones(2)).to_event(1))
        pyro.sample("x", dist.Normal(z.sum(-1, keepdim=True).expand(*z.shape[:-1], 4), 1.0).to_event(1), obs=x)


def _bernoulli(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
        logits = z.sum(-1, keepdim=True).expand(*z.shape[:-1], 4)
        pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)


def _indexes_from_the_left(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
        loc = (z[:, 0] + z[:, 1]).reshape(len(x), 1).expand(len(x), 4)
        pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)


def _zero_scale(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
        loc = z.sum(-1, keepdim=True).expand(*z.shape[:-1], 4)
        pyro.sample("x", dist.Normal(loc, 1e-30).to_event(1), obs=x)


CASES = {
    "no plate": (_no_plate, None, X, ["'z'", "(6, 2)", "outside a plate", 'pyro.plate("data", len(x))']),
    "a latent outside": (_global_latent, _guide_with_w, X, ["'w'", "outside a plate", "parameter"]),
    "pixels not an event": (_pixels_not_an_event, _guide, X, ["site x", "to_event"]),
    "one number a datapoint": (_square_not_an_event, None, X, ["'z'", "(6, 6)", "(6,)", "to_event"]),
    "nothing observed": (_nothing_observed, _guide, X, ["['x', 'z']", "obs=x"]),
    "nothing latent": (_nothing_latent, None, X, ["no latent site"]),
    "a plate of all data": (_whole_data_plate, _guide, X, ["'z'", "'data'", "len(x)"]),
    "other names": (_model, _other_name, X, ["['z']", "['latent']", "same names"]),
    "outside the prior": (_positive, _guide, X - 5.0, ["'z'", "GreaterThan", "choose a guide family"]),
    "bytes under a Bernoulli": (_bernoulli, _guide, X * 255.0, ["'x'", "(6, 4)", "Boolean", "binarise"]),
    "NaN in the data": (_model, _guide, X.clone().fill_(torch.nan), ["NaN", "mask"]),
    "no sample dimension": (_indexes_from_the_left, _guide, X, ["z[..., 0]"]),
    "not finite": (_zero_scale, _guide, X, ["log-likelihood", "not finite", "scale"]),
    "no rows": (_model, _guide, X[:0], ["non-zero number of rows"]),
}


@pytest.mark.parametrize("name", CASES)
def test_broken_pairs_are_told_the_mend(name):
    model, guide, x, expected = CASES[name]
    with pytest.raises(ContractError) as caught:
        Pair(model, guide).check(x)
    said = str(caught.value)
    assert all(word in said for word in expected), said


def test_a_sound_pair_passes():
    pair = Pair(_model, _guide).check(X)
    assert [site.name for site in pair.latents] == ["z"]
    assert pair.observed == {"x": 0}


def test_fit_checks_before_it_trains():
    with pytest.raises(ContractError, match="outside a plate"):
        fit(_no_plate, _guide, X, steps=1, progress=False)


def test_arguments_of_different_lengths_are_refused():
    with pytest.raises(ContractError, match=r"\[6, 3\] rows"):
        Pair(_model, _guide).check((X, X[:3]))


@pytest.mark.parametrize(
    ("model", "bad", "said"),
    [(_bernoulli, 255.0, r"\[0, 255\].*binarise"), (_model, torch.nan, "'x' .* holds NaN")],
)
def test_a_bad_row_far_down_is_found(model, bad, said):
    x = torch.zeros(40, 4)
    x[30, 2] = bad
    with pytest.raises(ContractError, match=said):
        fit(model, _guide, x, steps=1, progress=False)
    with pytest.raises(ContractError, match=said):
        fit(model, _guide, x[:20], validation=x, steps=1, progress=False)
    with pytest.raises(ContractError, match=said):
        log_evidence(model, _guide, x, ELBO(1))


def test_missing_entries_far_down_are_no_fault_of_a_model_that_masks_them():
    x = torch.randn(40, 4)
    x[30, 2] = torch.nan
    model = LatentVariableModel(
        priors.StandardNormal(2), networks.MLP(2, 4, hidden=[5]), likelihoods.Normal(), missing=True
    )
    guide = guides.MaskedNormal(2, networks.MLP(8, hidden=[5]))
    run = fit(model, guide, x, steps=2, progress=False)
    assert torch.isfinite(log_evidence(run.model, run.guide, x, ELBO(2)).log_px).all()


@pytest.mark.parametrize(("x", "kind"), [((X * 255).byte(), "uint8"), (X.double(), "float64")])
def test_numbers_of_another_type_are_told(x, kind):
    guide = guides.Normal(2, networks.MLP(4, hidden=[5]))
    with pytest.raises(ContractError, match=rf"the data are {kind}: cast them"):
        Pair(_model, guide).check(x)


def test_tables_of_different_lengths_are_refused_whole():
    with pytest.raises(ValueError, match=r"\[40, 60\]"):
        fit(_model, _guide, (torch.zeros(40, 4), torch.zeros(60, 4)), steps=1, progress=False)
    with pytest.raises(ValueError, match="single number"):
        fit(_model, _guide, torch.tensor(3.0), steps=1, progress=False)
