"""A pair that breaks the contract is told so in one sentence: the site, its shape, the mend."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import AutoDelta, AutoDiagonalNormal, AutoIAFNormal, AutoMultivariateNormal, AutoNormal

from aevb import guides
from aevb.inference import (
    IWAE,
    MAP,
    SGVB,
    AdversarialVB,
    ContractError,
    DReG,
    FreeBits,
    FullVB,
    KLAnnealing,
    Pair,
    PyroELBO,
    Renyi,
    ReweightedWakeSleep,
    StickingTheLanding,
    TailAdaptive,
    WakeSleep,
    elbo_surgery,
    fit,
    latent_usage,
    log_evidence,
)
from aevb.inference.evidence import ELBO, AnnealedImportanceSampling, ImportanceSampling
from aevb.inference.objectives import Batch
from aevb.inference.pairs.unconstrained import unflatten
from aevb.models import LatentVariableModel, likelihoods, networks, priors

X = torch.rand(6, 4, generator=torch.Generator().manual_seed(0))


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
    "one number per datapoint": (_square_not_an_event, None, X, ["'z'", "(6, 6)", "(6,)", "to_event"]),
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


# ------------------------------------------------------------------------------------ what only the guide draws


def _guide_with_a_scale_of_its_own(x):
    with pyro.plate("data", len(x)):
        scale = pyro.sample("s", dist.LogNormal(x.new_tensor(-0.2), 0.3), infer={"is_auxiliary": True})
        mean = x.sum(-1, keepdim=True).expand(-1, 2) / 9  # the posterior's
        pyro.sample("z", dist.Normal(mean, scale.unsqueeze(-1)).to_event(1))


def _model_that_knows_the_scale(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
        pyro.sample("s", dist.LogNormal(0.1 * z.sum(-1) - 0.2, 0.4))
        pyro.sample("x", dist.Normal(z.sum(-1, keepdim=True).expand(*z.shape[:-1], 4), 1.0).to_event(1), obs=x)


OF_A_DENSITY = [
    SGVB(),
    SGVB(estimator="A"),
    PyroELBO(Trace_ELBO()),
    MAP(SGVB()),
    KLAnnealing(),
    FreeBits(),
    FullVB(),
    StickingTheLanding(),
    IWAE(),
    DReG(),
    Renyi(),
    TailAdaptive(),
    WakeSleep(),
    ReweightedWakeSleep(),
]


def test_a_guide_that_draws_more_than_the_model_has_no_density_and_every_bound_says_so():
    pair = Pair(_model, _guide_with_a_scale_of_its_own).check(X)
    assert pair.auxiliary == ("s",) and not pair.has_density
    for objective in OF_A_DENSITY:
        with pytest.raises(ContractError, match=r"draws \['s'\] and the model does not.*pyro.sample\('s', r\)"):
            objective.start(pair, X)
    for read in (lambda: pair.cloud(X), lambda: pair.log_guide(pair.sample_guide(X), X), lambda: pair.divergences(X)):
        with pytest.raises(ContractError, match="an integral over"):
            read()
    for measure in (latent_usage, elbo_surgery):
        with pytest.raises(ContractError, match="an integral over"):
            measure(pair, X)
    for estimator in (ELBO(2), ImportanceSampling(30)):
        with pytest.raises(ContractError, match="an integral over"):
            log_evidence(_model, _guide_with_a_scale_of_its_own, X, estimator)


def test_what_needs_draws_alone_takes_such_a_guide():
    chains = AnnealedImportanceSampling(20, num_chains=4, start="moments", num_tuning=5)
    assert torch.isfinite(log_evidence(_model, _guide_with_a_scale_of_its_own, X, chains).log_px).all()

    def trained(x):
        shift = pyro.param("shift", torch.tensor(0.3))
        with pyro.plate("data", len(x)):
            scale = pyro.sample("s", dist.LogNormal(x.new_zeros(()), 0.5), infer={"is_auxiliary": True})
            pyro.sample("z", dist.Normal(x[:, :2] + shift, scale.unsqueeze(-1)).to_event(1))

    run = fit(_model, trained, X, objective=AdversarialVB(), steps=2, progress=False)
    assert float(run.params["shift"]) != pytest.approx(0.3)


def test_the_mend_works_once_the_model_draws_it_too_there_is_a_bound_below_the_evidence():
    model, guide = _model_that_knows_the_scale, _guide_with_a_scale_of_its_own
    x = torch.linspace(-1.0, 1.5, 12).reshape(3, 4)
    exact = torch.distributions.MultivariateNormal(torch.zeros(4), torch.eye(4) + 2.0).log_prob(x)
    weighed = log_evidence(model, guide, x, ImportanceSampling(3000))
    torch.testing.assert_close(weighed.log_px.float(), exact, atol=0.1, rtol=0)
    bound = log_evidence(model, guide, x, ELBO(300))
    assert (bound.log_px < exact).all()
    pair = Pair(model, guide).check(x)
    cloud = pair.cloud(x, 5)
    torch.testing.assert_close(pair.log_guide(cloud.z, x), cloud.log_q)  # at given values nothing is drawn again


def test_a_site_that_only_the_guide_has_and_does_not_mark_is_told_the_same_mend():
    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("s", dist.LogNormal(x.new_zeros(()), 0.5).expand([len(x)]))
            pyro.sample("z", dist.Normal(x[:, :2], 1.0).to_event(1))

    with pytest.raises(ContractError, match=r"the model does not sample \['s'\].*let the model draw as well"):
        Pair(_model, guide).check(X)


# ------------------------------------------------------------------------------------------------------- scales


def _scaled_site(x):
    with pyro.plate("data", len(x)):
        with poutine.scale(scale=0.3):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z.sum(-1, keepdim=True).expand(*z.shape[:-1], 4), 1.0).to_event(1), obs=x)


def _subsampled_pixels(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
        with pyro.plate("pixels", 4, subsample_size=2, dim=-2) as index:
            pyro.sample("x", dist.Normal(z, 1.0), obs=x.T[index])


def _scalar_guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x[:, 0], 1.0))


@pytest.mark.parametrize(
    ("model", "guide", "site"),
    [
        (poutine.scale(_model, 10.0), _guide, "'z'"),
        (_model, poutine.scale(_guide, 0.5), "'z'"),
        (poutine.scale(_model, torch.tensor(0.5)), _guide, "'z'"),
        (_scaled_site, _guide, "'z'"),
        (_subsampled_pixels, _scalar_guide, "'x'"),
    ],
)
def test_a_scale_has_no_meaning_that_all_objectives_share_and_is_refused(model, guide, site):
    for attempt in (
        lambda: fit(model, guide, X, steps=1, progress=False),
        lambda: log_evidence(model, guide, X, ELBO(2)),
        lambda: Pair(model, None).check(X) and Pair(model, guide).check(X),
    ):
        with pytest.raises(ContractError, match=rf"site {site} carries a scale.*KLAnnealing"):
            attempt()


def test_a_scale_that_appears_later_is_refused_by_every_density():
    weight = {"now": 1.0}

    def model(x):
        with poutine.scale(scale=weight["now"]):
            _model(x)

    pair = Pair(model, _guide).check(X)
    weight["now"] = 0.5
    with pytest.raises(ContractError, match="carries a scale"):
        pair.cloud(X)


# ------------------------------------------------------------------------------------------------- supports of latents


def _interval_pair(low, high):
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Uniform(low(x), high(x)))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    return model


def test_bounds_that_all_datapoints_share_are_taken_once():
    x = torch.tensor([0.3, 0.4])
    pair = Pair(_interval_pair(lambda x: 0 * x, lambda x: 0 * x + 2.0)).check(x)
    assert pair.latents[0].support.upper_bound == 2.0
    wide = torch.linspace(0.1, 1.9, 7)
    z, log_det = unflatten(pair, torch.zeros(3, 7, 1))  # other rows than the ones that were checked
    torch.testing.assert_close(z["z"], torch.ones(3, 7))
    torch.testing.assert_close(log_det, torch.full((3, 7), math.log(2.0 / 4)))
    assert pair.log_joint(z, wide).shape == (3, 7)


def test_a_support_that_differs_between_datapoints_is_refused_and_the_mend_works():
    x = torch.tensor([0.3, 0.4])
    with pytest.raises(ContractError, match=r"'z'.*differs from datapoint to datapoint.*between 0\.3 and 0\.4"):
        Pair(_interval_pair(lambda x: 0 * x, lambda x: x)).check(x)

    def mended(x):
        with pyro.plate("data", len(x)):
            u = pyro.sample("z", dist.Uniform(0.0, 1.0))
            pyro.sample("x", dist.Normal(x * u, 1.0), obs=x)

    assert Pair(mended).check(x).latents[0].support.upper_bound == 1.0


def test_an_angle_lies_on_the_circle_and_a_guide_on_the_line_is_refused():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.VonMises(torch.zeros(len(x)), 1.0))
            pyro.sample("x", dist.VonMises(z, 4.0), obs=x)

    def on_the_line(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x, 3.0))

    x = torch.linspace(-3.0, 3.0, 16)
    assert Pair(model).check(x).latents[0].support.upper_bound == pytest.approx(math.pi)
    with pytest.raises(ContractError, match="outside the prior's support"):
        Pair(model, on_the_line).check(x)


# ----------------------------------------------------------------------------------- dreams of what looks at the data


def _knowing(given):
    """A model of z, x and an auxiliary a ~ r(a|z, x), the x of the argument or the one that its statement returns."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            drawn = pyro.sample("x", dist.Normal(z, 0.5), obs=x)
            pyro.sample("a", dist.Normal(z + 2.0 * (x if given == "argument" else drawn), 0.3))

    def guide(x):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Normal(x, 1.0))
            pyro.sample("z", dist.Normal(a / 3, 1.0))

    return model, guide


def test_a_latent_drawn_given_the_argument_cannot_be_dreamt_and_given_the_returned_value_it_can():
    x = torch.tensor([-1.0, 0.5, 40.0])
    pair = Pair(*_knowing("argument")).check(x)
    assert pair.reads_data == ("a",)
    torch.testing.assert_close(pair.sample_prior(x, 4000)["a"].mean(0), 2.0 * x, atol=0.1, rtol=0)  # the contrast's
    batch = Batch((x,), torch.arange(3), 3, torch.tensor(0))
    for dream in (lambda: pair.dream(x), lambda: list(WakeSleep()(pair, batch, torch.nn.Module()))):
        with pytest.raises(ContractError, match=r"draws \['a'\] given the argument.*given what that statement returns"):
            dream()
    mended = Pair(*_knowing("returned value")).check(x)
    assert mended.reads_data == ()
    z, observed = mended.dream(x, 4000)
    left = z["a"] - z["z"] - 2.0 * observed["x"]
    assert abs(float(left.mean())) < 0.02 and float(left.std()) == pytest.approx(0.3, abs=0.02)


def test_an_argument_that_is_not_observed_may_be_looked_at():
    def model(x, label):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(label, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    data = (torch.randn(5), torch.arange(5.0))
    pair = Pair(model).check(data)
    assert pair.reads_data == ()
    assert pair.dream(data)[1]["x"].shape == (1, 5)


@pytest.mark.parametrize("kind", [AutoNormal, AutoDiagonalNormal, AutoDelta, AutoMultivariateNormal, AutoIAFNormal])
def test_an_automatic_guide_of_rows_is_refused_by_what_it_is(kind):
    """It has no q(z|x) of rows that it was not built on; every mend that the message names works."""
    with pytest.raises(ContractError, match=rf"the guide is an {kind.__name__}.*guides.Normal.*guides.MeanField.*SVI"):
        Pair(_model, kind(_model)).check(X)


def test_the_mends_of_an_automatic_guide():
    assert Pair(_model, guides.Normal(2, networks.MLP(4, 8, hidden=[8]))).check(X).has_density
    table = guides.MeanField(len(X), 2)
    run = fit(lambda x, row: _model(x), table, (X, torch.arange(len(X))), epochs=2, progress=False)
    assert run.pair.has_density
    pyro.clear_param_store()
    automatic = AutoNormal(_model)
    SVI(_model, automatic, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO()).step(X)
    assert all(torch.isfinite(value).all() for value in automatic.parameters())
    pyro.clear_param_store()
