"""Blocks of one's own: registered in one line, found by name everywhere, and held to what every block holds."""

import json
import re
import runpy
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pandas as pd
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import aevb
from aevb import comparison, guides, plugins, registry
from aevb.__main__ import main
from aevb.inference import SGVB, Pair
from aevb.inference.diagnostics import every_estimator
from aevb.inference.evidence import ELBO, Exact, ImportanceSampling
from aevb.inference.objectives import Phase
from aevb.models import likelihoods, networks, priors
from aevb.testing import check_estimator, check_guide, check_likelihood, check_objective, check_prior

PAGE = Path(__file__).parents[2] / "CONTRIBUTING.md"
FILES = {
    "priors": ("cauchy", "cauchy_prior.py"),
    "likelihoods": ("exponential", "exponential_likelihood.py"),
    "guides": ("laplace-guide", "laplace_guide.py"),
    "objectives": ("halved-rate", "halved_rate_objective.py"),
    "evidence": ("prior-draws", "prior_draws_estimator.py"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The files that stand on the contributors' page, each under the name in its first line."""
    made = tmp_path_factory.mktemp("own")
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S):
        (made / re.match(r"# (\w+\.py)\n", block)[1]).write_text(block)
    return made


@pytest.fixture(scope="module")
def plugged(folder):
    """The words that bring the five blocks to the command."""
    return [word for _, file in FILES.values() for word in ("--plugin", str(folder / file))]


@pytest.fixture(autouse=True)
def _forget(monkeypatch):
    """What a test registers is known in it alone."""
    monkeypatch.setattr(plugins, "_LOADED", {})
    monkeypatch.setattr(every_estimator, "_ADDED", {})
    before = {kind: dict(known) for kind, known in registry.KINDS.items()}
    loaded = {Path(file).stem for _, file in FILES.values()}
    yield
    for kind, known in before.items():
        registry.KINDS[kind].clear()
        registry.KINDS[kind].update(known)
    for name in loaded:
        plugins.sys.modules.pop(name, None)


def test_the_blocks_on_the_page_hold_what_every_block_holds(folder, monkeypatch):
    monkeypatch.syspath_prepend(folder)
    runpy.run_path(str(folder / "check_own_blocks.py"))


@pytest.mark.parametrize("kind", FILES)
def test_a_block_of_ones_own_is_listed(kind, folder, capsys):
    name, file = FILES[kind]
    assert main(["list", kind, "--plugin", str(folder / file)]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.split()[0] == name]
    assert len(lines) == 1 and len(lines[0].split()) > 2
    if kind == "priors":
        assert lines[0].endswith("[A Toy for Tests (Nobody, 2026)]")


@pytest.fixture
def words(tmp_path, plugged):
    """What asks for the five blocks on a small file of positive numbers."""
    rows = pd.DataFrame(torch.rand(60, 3).add(0.1).numpy(), columns=list("abc"))
    rows.to_csv(tmp_path / "times.csv", index=False)
    blocks = ["--prior", "cauchy", "--prior-args.scale", "0.5", "--likelihood", "exponential"]
    blocks += ["--guide", "laplace-guide", "--latent-dim", "1", "--hidden", "4", "--epochs", "1", "--quiet"]
    return [str(tmp_path / "times.csv"), *plugged, *blocks]


def test_blocks_of_ones_own_are_fitted_and_judged_by_the_command(words, plugged, tmp_path, monkeypatch):
    questions = import_module("aevb.inference.diagnostics.verdict").QUESTIONS
    first = {name: question for name, question in questions.items() if name == "which estimate to use"}
    monkeypatch.setattr("aevb.inference.diagnostics.verdict.QUESTIONS", first)
    monkeypatch.setattr("aevb.judge._gallery_or_reason", lambda *arguments: None)
    monkeypatch.setattr(every_estimator.evidence, "__all__", ["ELBO", "ImportanceSampling", "BidirectionalMonteCarlo"])
    run = tmp_path / "run"
    assert main(["fit", *words, "--objective", "halved-rate", "--out", str(run)]) == 0
    few = ["--samples", "60", "--points", "2"]
    assert main(["evidence", str(run), *plugged, "--method", "all", *few]) == 0
    table = pd.read_csv(run / "verdict.csv", index_col="method")
    assert table.loc["prior-draws", "num_samples"] == table.loc["importance", "num_samples"] == 60
    assert list(table.index) == ["elbo", "importance", "bdmc", "prior-draws"]

    command = json.loads((run / "config.json").read_text())["command"]
    again = tmp_path / "again.yaml"  # a file of options brings the plugins along
    again.write_text(json.dumps({name: value for name, value in command.items() if name != "data"}))
    _forget_all()
    assert main(["fit", words[0], "--config", str(again), "--out", str(tmp_path / "b")]) == 0
    before, after = (pd.read_csv(folder / "history.csv")["bound"] for folder in (run, tmp_path / "b"))
    pd.testing.assert_series_equal(before, after)


def test_blocks_of_ones_own_are_compared_by_processes_that_know_nothing_of_them(words, tmp_path, monkeypatch):
    def afresh(plans, jobs, progress):
        for plan in plans:
            _forget_all()
            yield comparison.carry_out(plan)

    monkeypatch.setattr(comparison, "_carried_out", afresh)
    made = ["--objectives", "halved-rate", "--evidence", "prior-draws", "--samples", "50", "--track", "none"]
    assert main(["compare", *words, *made, "--out", str(tmp_path / "cmp")]) == 0
    assert list(pd.read_csv(tmp_path / "cmp" / "table.csv")["objective"]) == ["halved-rate"]
    records = json.loads((tmp_path / "cmp" / "halved-rate-0" / "evidence.json").read_text())
    assert {r["method"]: r["num_samples"] for r in records}["prior-draws"] == 50


def _forget_all():
    plugins._LOADED.clear()
    for kind, (name, file) in FILES.items():
        registry.KINDS[kind].pop(name)
        plugins.sys.modules.pop(Path(file).stem)


@pytest.mark.filterwarnings("ignore:.*grey values")  # what is fitted is not the point
def test_a_run_with_blocks_of_ones_own_opens_only_where_they_are_named(plugged, tmp_path, capsys):
    words = ["--latent-dim", "1", "--hidden", "4", "--epochs", "1", "--quiet", "--out", str(tmp_path / "run")]
    assert main(["fit", "digits", *plugged[:2], "--prior", "cauchy", *words]) == 0
    registry.KINDS["priors"].pop("cauchy")
    plugins._LOADED.clear()
    plugins.sys.modules.pop("cauchy_prior")
    assert main(["sample", str(tmp_path / "run")]) == 2
    assert "cauchy_prior:CauchyPrior" in capsys.readouterr().err and "cauchy_prior" not in plugins.sys.modules
    assert main(["sample", str(tmp_path / "run"), "--count", "4", *plugged[:2]]) == 0


def test_a_registered_estimator_is_asked_in_a_verdict(plugged):
    plugins.load_plugins(plugged[1::2])
    kind = registry.find("evidence", "prior-draws")
    pair = Pair(*_pair()).check(torch.rand(4, 4))
    assert every_estimator.every_estimator(pair)["prior-draws"] == kind()
    assert every_estimator.every_estimator(pair, num_samples=70)["prior-draws"] == kind(70)


def _pair():
    model = aevb.models.LatentVariableModel(
        priors.StandardNormal(1), networks.MLP(1, 4, hidden=[4]), likelihoods.Normal()
    )
    return model, guides.Normal(1, networks.MLP(4, hidden=[4]))


class Unnamed(nn.Module):
    """A block without a name of its own."""


class Named(Unnamed):
    """A block whose name is one of the package's."""

    name = "laplace"


class Child(Named):
    """A block that inherits a name."""


@pytest.mark.parametrize(
    ("kind", "block", "said"),
    [
        ("prior", Unnamed, "Unnamed must be a class with a name of its own"),
        ("prior", Child, "Child must be a class with a name of its own"),
        ("prior", lambda: None, "must be a class"),
        ("prior", Named, "prior 'laplace' is one of aevb's own; choose another name"),
        ("priors", Named, "unknown kind 'priors'; known: model, prior, likelihood"),
    ],
)
def test_what_cannot_be_registered_is_told(kind, block, said):
    with pytest.raises(ValueError, match=said):
        aevb.register(kind, block)


def test_a_name_of_another_kind_may_be_taken_and_a_class_registered_anew():
    assert aevb.register("guide", Named) is Named and registry.find("guides", "laplace") is Named
    again = type("Named", (Unnamed,), {"name": "laplace"})  # a cell of a notebook that is run again
    assert aevb.register("guide")(again) is again and registry.find("guides", "laplace") is again


@pytest.mark.parametrize(
    ("text", "name", "said"),
    [
        ("raise RuntimeError('no')", "broken_plugin.py", "RuntimeError: no"),
        ("", "json.py", "has the name of another module, json"),
        ("", "tabnanny.py", "has the name of another module, tabnanny"),  # which nobody has imported yet
        (None, "missing.py", "is no file"),
        (None, "no_such_module", "ModuleNotFoundError"),
    ],
)
def test_a_plugin_that_cannot_be_had_is_an_error_in_one_line(text, name, said, tmp_path, capsys):
    path = tmp_path / name if name.endswith(".py") else name
    if text is not None:
        path.write_text(text)
    assert main(["list", "priors", "--plugin", str(path)]) == 2
    err = capsys.readouterr().err.strip()
    assert said in err and "\n" not in err and "broken_plugin" not in plugins.sys.modules


# -------------------------------------------------------------------- what is wrong is told: the suite sees it


class Elsewhere(priors.Laplace):
    """Says that it lives on the sphere."""

    support = "sphere"


class Doubled(dist.Laplace):
    """Has a density that integrates to two a coordinate."""

    def log_prob(self, value):
        return super().log_prob(value) + torch.tensor(2.0).log()


class TwiceAsHigh(priors.Laplace):
    """A prior of it."""

    def forward(self):
        return Doubled(self.zeros, torch.ones_like(self.zeros)).to_event(1)


class Idle(priors.LearnedNormal):
    """Has a parameter that nothing depends on."""

    def __init__(self, latent_dim):
        super().__init__(latent_dim)
        self.idle = nn.Parameter(torch.zeros(()))


class Forgetful(priors.Laplace):
    """Does not keep its argument."""

    def __init__(self, latent_dim, width=1.0):
        super().__init__(latent_dim, width)


class Summed(likelihoods.Normal):
    """Makes one number of all datapoints."""

    def forward(self, h):
        return dist.Normal(h + h.mean(), 1.0).to_event(1)


class Wide(likelihoods.Bernoulli):
    """Is called a Bernoulli and has probabilities that do not add up to one."""


class Batchy(guides.Normal):
    """Looks at the other rows of the batch."""

    def posterior(self, x):
        return super().posterior(x - x.mean(0))


class TooGood(SGVB):
    """Reports more than the bound."""

    def __call__(self, pair, batch, memory):
        for phase in super().__call__(pair, batch, memory):
            yield Phase(phase.losses, {"bound": phase.report["bound"] + 5.0})


class Climbing(SGVB):
    """Has the other sign."""

    def __call__(self, pair, batch, memory):
        for phase in super().__call__(pair, batch, memory):
            yield Phase({name: -loss for name, loss in phase.losses.items()}, phase.report)


class Lazy(SGVB):
    """Trains the model alone, and says both."""

    def __call__(self, pair, batch, memory):
        for phase in super().__call__(pair, batch, memory):
            yield Phase({"model": phase.losses["model"]}, phase.report)


class Above(ELBO):
    """A bound that lies too high."""

    def __call__(self, pair, data):
        found = super().__call__(pair, data)
        return replace(found, log_px=found.log_px + 3.0)


class NotQuite(Exact):
    """Called exact, and off."""

    def __call__(self, pair, data):
        found = super().__call__(pair, data)
        return replace(found, log_px=found.log_px + 0.01)


class Pooled(ImportanceSampling):
    """Gives every row the mean of all."""

    def __call__(self, pair, data):
        found = super().__call__(pair, data)
        return replace(found, log_px=found.log_px.mean().expand(len(found.log_px)))


X = torch.rand(3, 4)
WRONG = {
    "another space": (lambda: check_prior(Elsewhere), "its draws leave the sphere"),
    "twice the mass": (lambda: check_prior(TwiceAsHigh), "its density integrates to 2, not to one"),
    "an idle parameter": (lambda: check_prior(Idle), "parameter 'idle' gets no finite gradient"),
    "a lost argument": (lambda: check_prior(Forgetful), "Forgetful does not keep its argument"),
    "rows that mix": (lambda: check_likelihood(Summed), "its log-density does not broadcast"),
    "a mass beside one": (lambda: check_likelihood(Wide, domain=(0.0, 1.0)), "its probabilities add up to"),
    "a batch that is seen": (
        lambda: check_guide(lambda: Batchy(2, networks.MLP(4, hidden=[5])), X),
        "row 0 alone has other log-densities",
    ),
    "a bound too high": (lambda: check_objective(TooGood), "nats above log p"),
    "a sign": (lambda: check_objective(Climbing), "log p\\(x\\) falls"),
    "a player who rests": (lambda: check_objective(Lazy), r"only \['model'\] learn"),
    "an estimate too high": (lambda: check_estimator(lambda: Above(200)), "a lower bound lies"),
    "not exact": (lambda: check_estimator(NotQuite), "it is called exact, and is off by 0.01"),
    "one number for all": (lambda: check_estimator(lambda: Pooled(200)), "nats too high|alone, a row's number"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_block_that_is_wrong_is_told_how(case):
    check, said = WRONG[case]
    with pytest.raises((AssertionError, ValueError), match=said):
        check()
