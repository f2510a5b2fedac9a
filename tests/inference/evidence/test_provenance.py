"""Like is compared with like: evidence says what it is of, and unlike numbers are refused with the reason."""

from dataclasses import replace
from importlib import import_module

import pyro
import pyro.distributions as dist
import pytest
import torch

from aevb.inference import Pair, compare, log_evidence, verdict
from aevb.inference.evidence import ELBO, Evidence, ImportanceSampling, Provenance
from aevb.models import LatentVariableModel, likelihoods, networks, priors

N, P = 12, 5
GREY = torch.randint(0, 256, (N, P), generator=torch.Generator().manual_seed(0)) / 255
BINARY = GREY.round()


def guide(x, *beside):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x.new_zeros(len(x), 2), 1.0).to_event(1))


def model(likelihood, missing=False):
    torch.manual_seed(0)
    decoder = networks.MLP(2, likelihood.num_params * P, hidden=[4])
    return LatentVariableModel(priors.StandardNormal(2), decoder, likelihood, missing=missing)


def plain(law):
    """A plain Pyro program that observes x, whatever its shape, under one law of the latent's first dimension."""

    def program(x, *beside):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 2), 1.0).to_event(1))
            pyro.sample("pixels", law(z[..., :1]).expand((*z.shape[:-1], P)).to_event(1), obs=x)

    return program


def judged(program, x, estimator=None, **options):
    return log_evidence(program, guide, x, ELBO(num_samples=2) if estimator is None else estimator, **options)


def measure(program, x):
    return judged(program, x).provenance.measure


def test_the_measure_is_learned_from_the_observed_sites():
    assert measure(model(likelihoods.Bernoulli()), BINARY) == "counting"
    assert measure(model(likelihoods.Bernoulli()), GREY) == "unnormalised Bernoulli"
    assert measure(model(likelihoods.DiscretizedLogistic()), GREY) == "counting"
    assert measure(model(likelihoods.ContinuousBernoulli()), GREY) == "Lebesgue"
    assert measure(model(likelihoods.Poisson()), (255 * GREY).round()) == "counting"
    assert measure(model(likelihoods.NegativeBinomial()), (255 * GREY).round()) == "counting"
    assert measure(plain(lambda z: dist.Bernoulli(logits=z)), BINARY) == "counting"
    assert measure(plain(lambda z: dist.Normal(z, 1.0)), GREY) == "Lebesgue"
    assert measure(plain(lambda z: dist.LogNormal(z, 1.0)), GREY + 1.0) == "Lebesgue"

    def on_the_simplex(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 2), 1.0).to_event(1))
            pyro.sample("x", dist.Dirichlet(z[..., :1].exp().expand((*z.shape[:-1], P))), obs=x)

    shares = (GREY + 0.1) / (GREY + 0.1).sum(-1, keepdim=True)
    assert measure(on_the_simplex, shares) == "Lebesgue on Simplex()"


def test_the_first_and_the_last_of_many_rows_are_seen():
    x = BINARY.repeat(100, 1)  # more rows than are looked at together
    x[-1, -1] = 0.5
    assert measure(model(likelihoods.Bernoulli()), x) == "unnormalised Bernoulli"
    assert measure(model(likelihoods.Bernoulli()), x[:-1]) == "counting"
    other = x.clone()
    other[0, 0] = 1 - other[0, 0]
    with pytest.raises(ValueError, match="other rows"):
        compare({"a": judged(model(likelihoods.Bernoulli()), x), "b": judged(model(likelihoods.Bernoulli()), other)})


UNLIKE = {
    "mass and density": (likelihoods.DiscretizedLogistic(), GREY, None, {}, "'Lebesgue' at 'x', b against 'counting'"),
    "no density": (likelihoods.Bernoulli(), GREY, None, {}, "b against 'unnormalised Bernoulli'"),
    "units": (
        likelihoods.Normal(),
        255 * GREY,
        None,
        {},
        "values from 0.*to 0.99.* to 254: other rows, or .* other units",
    ),
    "rows": (likelihoods.Normal(), GREY.flip(0), None, {}, "judges other rows at 'x' than b, or .* another order"),
    "number of rows": (likelihoods.Normal(), GREY[1:], None, {}, "a has 12 rows, b 11"),
    "split": (likelihoods.Normal(), GREY, None, {"split": "train"}, "a judges the test split, b the train split"),
    "direction": (likelihoods.Normal(), GREY, "upper bound", {}, "a is a lower bound .elbo., b an upper bound"),
    "an estimate": (likelihoods.Normal(), GREY, "estimate", {}, "b an estimate of log p.x. .*: the higher number"),
}


@pytest.mark.parametrize("name", UNLIKE)
def test_unlike_evidence_is_refused_with_the_reason(name):
    likelihood, x, direction, options, reason = UNLIKE[name]
    a = judged(model(likelihoods.Normal()), GREY, split="test")
    b = judged(model(likelihood), x, **options)
    b = b if direction is None else replace(b, direction=direction)
    for assume_alike in (False, True):
        with pytest.raises(ValueError, match=f"a and b cannot be compared: .*{reason}"):
            compare({"a": a, "b": b}, assume_alike=assume_alike)
    with pytest.raises(ValueError, match="cannot be compared"):  # whatever stands between them
        compare({"b": b, "c": Evidence("mine", "lower bound", torch.zeros(N), 1), "a": a}, assume_alike=True)


def test_alike_evidence_is_compared_whatever_the_sites_are_called():
    table = compare(
        {
            "normal": judged(model(likelihoods.Normal()), GREY, split="test"),
            "continuous": judged(model(likelihoods.ContinuousBernoulli()), GREY),
            "plain": judged(plain(lambda z: dist.Normal(z, 1.0)), GREY.double().float()),
        }
    )
    assert set(table["measure"]) == {"Lebesgue"} and len(table) == 3
    masses = {"mine": likelihoods.DiscretizedLogistic(), "mixture": likelihoods.DiscretizedLogisticMixture()}
    assert set(compare({k: judged(model(v), GREY) for k, v in masses.items()})["measure"]) == {"counting"}
    exact, estimate = (replace(judged(model(likelihoods.Normal()), GREY), direction=d) for d in ("exact", "estimate"))
    assert len(compare({"a": exact, "b": estimate})) == 2


def test_entries_that_do_not_count_belong_to_the_evidence():
    holed = GREY.clone()
    holed[::2, 0] = torch.nan
    seen = judged(model(likelihoods.Normal(), missing=True), holed)
    assert seen.provenance.observed[0].share == pytest.approx(1 - 6 / 60)
    whole = judged(model(likelihoods.Normal(), missing=True), GREY)
    with pytest.raises(ValueError, match="counts 90 % of the entries of 'x', b 100 %"):
        compare({"a": seen, "b": whole})
    other = GREY.clone()
    other[1::2, 0] = torch.nan
    with pytest.raises(ValueError, match="other rows"):
        compare({"a": seen, "b": judged(model(likelihoods.Normal(), missing=True), other)})

    def masked(x):  # the same holes, by a mask of its own
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 2), 1.0).to_event(1))
            law = dist.Normal(z[..., :1].expand((*z.shape[:-1], P)), 1.0)
            pyro.sample("x", law.mask(~x.isnan()).to_event(1), obs=x.nan_to_num(7.0))

    assert len(compare({"a": seen, "b": judged(masked, holed)})) == 2


def test_a_density_given_labels_is_another_one():
    labels = torch.arange(N) % 3

    def given(x, y):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 2), 1.0).to_event(1))
            loc = z[..., :1] + y.unsqueeze(-1)
            pyro.sample("x", dist.Normal(loc.expand((*z.shape[:-1], P)), 1.0).to_event(1), obs=x)

    alone, beside = plain(lambda z: dist.Normal(z, 1.0)), (GREY, labels)
    with pytest.raises(ValueError, match="a is the density given nothing, b given arguments beside the data"):
        compare({"a": judged(alone, GREY), "b": judged(given, beside)})
    with pytest.raises(ValueError, match="given"):
        compare({"a": judged(given, (GREY, labels + 1)), "b": judged(given, beside)})
    assert len(compare({"a": judged(given, beside), "b": judged(given, beside)})) == 2
    assert len(compare({"a": judged(alone, beside), "b": judged(alone, GREY)})) == 2  # a model that reads no label


def test_what_is_not_known_is_compared_only_if_it_is_said():
    known = judged(model(likelihoods.Normal()), GREY)
    mine = Evidence("mine", "lower bound", known.log_px - 1.0, 1)

    class Afresh:
        def __len__(self):
            return N

        def __getitem__(self, index):
            return GREY[index] + torch.rand(1)

    def weighed(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z[..., :1].expand((*z.shape[:-1], P)), 1.0).to_event(1), obs=x)
            pyro.factor("penalty", -x.sum(-1))

    drawn, penalised = judged(model(likelihoods.Normal()), Afresh()), judged(weighed, GREY)
    for pair in (
        {"a": penalised, "b": penalised},
        {"a": mine, "b": mine},
        {"a": known, "b": mine},
        {"a": drawn, "b": drawn},
    ):
        with pytest.raises(ValueError, match="not known .*assume_alike=True"):
            compare(pair)
    assert list(compare({"a": mine, "b": known}, assume_alike=True).index) == ["b", "a"]
    assert list(compare({"a": mine}).index) == ["a"]
    with pytest.raises(ValueError, match="nothing to compare"):
        compare({})


def test_a_record_says_what_it_is_of_and_looking_changes_no_draw():
    pair = model(likelihoods.Normal())
    found = judged(pair, GREY, ImportanceSampling(3), split="test")
    record = found.record("test")["provenance"]
    assert Provenance.from_record(record) == found.provenance
    assert "provenance" not in Evidence("mine", "estimate", torch.zeros(3), 1).record("test")
    before = torch.random.get_rng_state()
    assert torch.equal(judged(pair, GREY, ImportanceSampling(3)).log_px, found.log_px)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_two_sites_are_not_one():
    def halves(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 2), 1.0).to_event(1))
            law = dist.Normal(z[..., :1], 1.0)
            pyro.sample("left", law.expand((*z.shape[:-1], 2)).to_event(1), obs=x[..., :2])
            pyro.sample("right", law.expand((*z.shape[:-1], 3)).to_event(1), obs=x[..., 2:])

    two = judged(halves, GREY)
    assert len(two.provenance.observed) == 2 and len(compare({"a": two, "b": judged(halves, GREY)})) == 2
    with pytest.raises(ValueError, match=r"b scores the sites \['pixels'\]|b the sites \['pixels'\]"):
        compare({"a": two, "b": judged(plain(lambda z: dist.Normal(z, 1.0)), GREY)})


def test_the_estimates_of_a_verdict_say_what_they_are_of(monkeypatch):
    monkeypatch.setattr(import_module("aevb.inference.diagnostics.verdict"), "QUESTIONS", {})  # which take a minute
    pair = Pair(model(likelihoods.Normal()), guide).check(GREY)
    found = verdict(pair, GREY, {"elbo": ELBO(num_samples=2)}).evidence["elbo"]
    assert found.provenance == judged(pair.model, GREY).provenance
