"""The verdict: every estimator beside the others, each fault given to whose it is, and nothing lost by a failure."""

import functools
import json
import math
import shutil
from dataclasses import replace
from importlib import import_module
from types import SimpleNamespace

import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
import worlds

from aevb import judge
from aevb.__main__ import main
from aevb.inference import Pair, verdict
from aevb.inference.diagnostics import verdict_questions
from aevb.inference.diagnostics.doctor import Finding
from aevb.inference.diagnostics.every_estimator import every_estimator
from aevb.inference.evidence import (
    ELBO,
    AnnealedImportanceSampling,
    BidirectionalMonteCarlo,
    Exact,
    ImportanceSampling,
)
from aevb.inference.posterior.guide_versus_hmc import guide_versus_hmc
from aevb.models import ProbabilisticPCA, likelihoods

# The digits' own variant is grey, and each fit of them says so, as the verdict does.
pytestmark = pytest.mark.filterwarnings("ignore:observed site 'x' scores grey values:UserWarning")
SHORT = AnnealedImportanceSampling(20, 4, num_tuning=10, progress=False)
WORLDS = {name: worlds.once(name) for name in ("normal", "coin", "gamma_poisson")}
FEW = {"elbo": ELBO(200), "importance": ImportanceSampling(200), "ais": SHORT, "exact": Exact()}


@pytest.fixture(autouse=True)
def _few(monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr(verdict_questions, "_SIMULATIONS", 200)
    monkeypatch.setattr(verdict_questions, "_GAP_POINTS", 5)


def _only(monkeypatch, *names):
    module = import_module("aevb.inference.diagnostics.verdict")  # the function of its name hides it
    monkeypatch.setattr(module, "QUESTIONS", {name: verdict_questions.QUESTIONS[name] for name in names})


def _pair(model, x, narrower=1.0):
    def guide(x):
        exact = model.posterior(x)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.MultivariateNormal(exact.mean, exact.covariance_matrix * narrower))

    return Pair(model, guide).check(x[:16])


def _model():
    return ProbabilisticPCA(data_dim=8, latent_dim=4)


def test_nobody_is_blamed_for_a_right_pair():
    model = _model()
    x = model.simulate(30)
    found = verdict(_pair(model, x), x, FEW, annealing=SHORT)
    assert found.sentences[0].startswith("Use exact: log p(x) = ")
    assert "they meet" in found.sentences[1]
    assert "flags the weights of none of 30" in found.sentences[2] and len(found.doubtful) == 0
    assert "next to nothing is lost" in found.sentences[3]
    assert found.warnings == () and found.sentences[-1].startswith("So no fault is found, neither with the guide nor")
    assert list(found.table.index) == list(FEW)
    exact = model.log_evidence(x).mean().item()
    assert found.table["mean"].to_numpy() == pytest.approx([exact] * 4, abs=1e-3)


def test_a_narrow_guide_is_blamed(monkeypatch):
    _only(
        monkeypatch,
        "which datapoints the guide gets wrong",
        "what chains say of the guide",
        "whether the guide is calibrated",
        "whose fault it is",
    )
    model = _model()
    x = model.simulate(60)
    found = verdict(_pair(model, x, narrower=0.2), x, FEW, annealing=SHORT)
    assert "not to be trusted on" in found.sentences[0]
    weighed = found.evidence["importance"]
    assert str(int(weighed.khat.argmax())) in found.sentences[0].partition("rows ")[2].split(",")[0]
    assert "too narrow" in found.sentences[2] and "the guide differs from them" in found.sentences[1]
    assert found.sentences[-1].startswith("So the fault is the guide's")


def test_the_model_is_blamed_for_data_that_are_not_its_own(monkeypatch):
    _only(
        monkeypatch,
        "where the bound is lost",
        "whether the guide is calibrated",
        "whether the model could have made the data",
        "whose fault it is",
    )
    model = _model()
    x = 2.0 * model.simulate(60)
    found = verdict(_pair(model, x), x, FEW, annealing=SHORT)
    assert found.sentences[-1].startswith("So the fault is the model's")


def test_what_fails_is_named_and_loses_nothing(monkeypatch):
    model = _model()
    x = model.simulate(20)

    def broken(pair, rows):
        raise ZeroDivisionError("no samples")

    def infinite(pair, rows):
        found = ELBO(10)(pair, rows)
        found.log_px[3] = -torch.inf
        return found

    def unanswerable(case):
        raise ValueError("nobody knows")

    monkeypatch.setitem(verdict_questions.QUESTIONS, "whether the guide is calibrated", unanswerable)
    told = []
    found = verdict(
        _pair(model, x),
        x,
        {"broken": broken, "infinite": infinite, "elbo": ELBO(50)},
        annealing=SHORT,
        tell=lambda name, said: told.append(name),
    )
    assert told == ["broken", "infinite", "elbo"]
    assert found.refused["broken"] == "ZeroDivisionError: no samples."
    assert "not finite on 1 of 20" in found.refused["infinite"]
    assert found.sentences[0].startswith("Use elbo")
    assert found.sentences[5] == "Not answered, whether the guide is calibrated: nobody knows."
    assert "the guide is calibrated is not answered" in found.sentences[-1] and "broken came to" in found.sentences[-1]
    assert not any("no fault" in said for said in found.sentences)
    assert found.table.loc["broken", "reason"] == found.refused["broken"]


def test_a_question_that_breaks_is_a_sentence_and_loses_nothing(monkeypatch):
    def singular(*arguments, **options):
        raise torch.linalg.LinAlgError("the matrix is singular")

    monkeypatch.setattr(verdict_questions, "sandwich", singular)
    model = _model()
    x = model.simulate(20)
    found = verdict(_pair(model, x), x, {"importance": ImportanceSampling(200), "exact": Exact()})
    assert found.sentences[1] == "Not answered, whether the bounds meet: LinAlgError: the matrix is singular."
    assert set(found.evidence) == {"importance", "exact"} and {"gaps", "calibration", "model"} <= found.found.keys()
    assert not any(said.startswith("Not answered") for said in [found.sentences[0], *found.sentences[2:]])


@pytest.mark.parametrize(
    ("gap", "error", "said"),
    [
        (0.05, 0.02, "they meet"),
        (0.01, 0.03, "they meet"),
        (-0.02, 0.01, "they meet"),
        (0.0, 0.0, "they meet"),
        (0.2, 0.05, "they do not meet"),
        (5.0, 0.5, "they do not meet"),
        (math.inf, math.nan, "it cannot be told whether they meet: a bound is not finite"),
        (math.nan, math.nan, "it cannot be told whether they meet: a bound is not finite"),
        (5.0, 3.0, "it cannot be told whether they meet: the gap's error is too large"),
        (0.2, 0.1, "it cannot be told whether they meet: the gap's error is too large"),
        (-0.1, 0.2, "it cannot be told whether they meet: the gap's error is too large"),
        (-5.0, 0.5, "it cannot be told whether they meet: they have crossed"),
        (0.05, math.nan, "it cannot be told whether they meet: of a single datapoint"),
    ],
)
def test_bounds_meet_only_where_their_error_is_small_enough_to_say_so(gap, error, said):
    assert verdict_questions.meeting(gap, error).startswith(said)


def test_a_gap_of_large_error_names_the_mends_there_are():
    assert "more chains (num_chains)" in verdict_questions.meeting(5.0, 3.0)
    assert "more datapoints" not in verdict_questions.meeting(5.0, 3.0)
    assert "more chains (num_chains), or more datapoints: 50 are simulated" in verdict_questions.meeting(
        5.0, 3.0, simulated=12
    )


def test_simulated_data_are_annealed_as_the_data_were(monkeypatch, tmp_path):
    asked = []

    def seen(pair, guide, like, annealing, *, seed):
        asked.append(annealing)
        raise ValueError("seen")

    monkeypatch.setattr(verdict_questions, "sandwich", seen)
    _only(monkeypatch, "whether the bounds meet")
    model = _model()
    x = model.simulate(20)
    kept = AnnealedImportanceSampling(7, 3, num_tuning=10, progress=False, checkpoint=str(tmp_path / "chunks.pt"))
    verdict(_pair(model, x), x, {"elbo": ELBO(50), "ais": kept})
    verdict(_pair(model, x), x, {"elbo": ELBO(50)})
    assert (asked[0].num_temperatures, asked[0].num_chains, asked[0].checkpoint) == (7, 3, None)
    assert (asked[1].num_temperatures, asked[1].start) == (300, "guide")


def test_the_highest_bound_is_used_unless_a_quicker_one_is_as_good(monkeypatch):
    _only(monkeypatch, "which estimate to use")
    model = _model()
    x = model.simulate(40)
    pair = _pair(model, x, narrower=0.3)
    found = verdict(pair, x, {"elbo": ELBO(500), "ais": AnnealedImportanceSampling(100, 8, progress=False)})
    assert found.sentences[0].startswith("Use ais") and "elbo lies" in found.sentences[0]
    same = {"slow": found.evidence["ais"], "quick": found.evidence["ais"]}
    case = verdict_questions.Case(pair, x, same, {"slow": 8.0, "quick": 2.0}, SHORT, 0)
    said = verdict_questions.QUESTIONS["which estimate to use"](case)
    assert said.startswith("Use slow") and "quick is as good" in said and "25% of its time" in said
    noisy = replace(
        same["quick"], log_px=same["quick"].log_px + torch.randn(40)
    )  # within its error, and no better known
    said = verdict_questions.QUESTIONS["which estimate to use"](replace(case, evidence=same | {"quick": noisy}))
    assert "as good" not in said


def _of(name, program):
    world = worlds.make(name)
    return Pair(world.model, program or world.guide).check(world.data), world.data


def test_a_mode_that_no_draw_reached_is_no_reason_to_trust(monkeypatch):
    """A guide on one of two modes: weights all alike, k-hat at its best, and log 2 missing on every row."""
    _only(
        monkeypatch,
        "which datapoints the guide gets wrong",
        "whether the guide is calibrated",
        "whose fault it is",
    )
    pair, (x,) = _of("two_modes", worlds.make("two_modes").others["one-mode"].program)
    x = x.repeat(8)
    estimators = {
        "importance": ImportanceSampling(500),
        "ais from the prior": AnnealedImportanceSampling(
            150, 16, "prior", num_leapfrog=8, num_tuning=30, progress=False
        ),
    }
    found = verdict(pair, x, estimators, annealing=SHORT)
    assert len(found.doubtful) == 0  # k-hat cannot see it
    assert "nats above what they say" in found.sentences[0] and "k-hat cannot see" in found.sentences[0]
    assert "log q(z|x)" in found.sentences[1] and found.found["calibration"].fails
    assert found.sentences[-1].startswith("So the fault is the guide's (its draws miss a part of the posterior")
    assert not any("no fault" in said or "trusted on" in said for said in found.sentences)


def test_a_guide_equal_to_the_prior_is_at_fault(monkeypatch):
    _only(
        monkeypatch,
        "which datapoints the guide gets wrong",
        "where the bound is lost",
        "whether the guide is calibrated",
        "which latents are used",
        "whose fault it is",
    )
    model = _model()
    x = model.simulate(100)

    def prior(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x.new_zeros(4), 1.0).to_event(1))

    found = verdict(Pair(model, prior).check(x[:16]), x, FEW, annealing=SHORT)
    assert not bool(found.found["calibration"].miscalibrated("z").any())  # in itself it is the prior of the truths
    said = found.sentences[-1]
    assert said.startswith("So the fault is the guide's")
    assert "below log p(x)" in said and "k-hat flags" in said and "not calibrated" in said and "hardly used" in said


def test_what_the_doctor_finds_is_in_the_verdict(monkeypatch):
    """Grey values under a Bernoulli, on which every other number is fine."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            pyro.sample("x", likelihoods.Bernoulli()(z.unsqueeze(-1) + x.new_zeros(3)), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x.sum(-1) - 1.5, 0.8))

    x = torch.rand(40, 3)
    pair = Pair(model, guide).check(x)
    _only(monkeypatch, "whether the model could have made the data", "what the doctor finds", "whose fault it is")
    (said, fault) = verdict(pair, x, {"elbo": ELBO(50)}, annealing=SHORT).sentences[-2:]
    assert "'grey-bernoulli'" in said and "binarise" in said
    assert "'grey-bernoulli'" in fault and "no fault" not in fault
    (said, fault) = verdict(pair, x.round(), {"elbo": ELBO(50)}, annealing=SHORT).sentences[-2:]
    assert said.startswith("The doctor finds nothing wrong") and "grey" not in fault


class _Fails:
    """Of a check that fails, and can say so."""

    def __init__(self, **said):
        self.__dict__.update(said)

    def __str__(self):
        return "bounds"


SHOWN = {
    "sandwich": _Fails(gap=5.0, gap_error=0.1, gaps=torch.zeros(50)),
    "gaps": _Fails(total=_Fails(mean=0.2, monte_carlo_error=0.01), sentence="Lost."),
    "simulation_based_calibration": _Fails(fails=True, sentences=("not calibrated.",)),
    "check_model": _Fails(fails=True, sentences=("unlike.",)),
    "latent_usage": _Fails(sites={}, num_active=0, unused=("z",), warnings=("unused.",)),
    "doctor": [Finding("planted", "warning", "planted.")],
}


@pytest.mark.parametrize("broken", [None, *SHOWN])
def test_no_fault_is_found_only_where_nothing_at_all_is_said(broken, monkeypatch):
    fine = {
        "sandwich": _Fails(gap=0.0, gap_error=0.01, gaps=torch.zeros(50)),
        "gaps": _Fails(total=_Fails(mean=0.01, monte_carlo_error=0.01), sentence="Nothing."),
        "simulation_based_calibration": _Fails(fails=False, sentences=("calibrated.",)),
        "check_model": _Fails(fails=False, sentences=("alike.",)),
        "latent_usage": _Fails(sites={}, num_active=0, unused=(), warnings=()),
        "doctor": [],
    }
    for name, answer in fine.items():
        shown = SHOWN[name] if name == broken else answer
        monkeypatch.setattr(verdict_questions, name, lambda *arguments, shown=shown, **options: shown)
    model = _model()
    x = model.simulate(20)
    found = verdict(_pair(model, x), x, {"importance": ImportanceSampling(200), "exact": Exact()})
    assert ("So no fault is found" in found.sentences[-1]) == (broken is None) == (found.warnings == ())


@pytest.mark.parametrize(("spread", "whose"), [(0.01, "guide"), (0.2, "numbers"), (math.nan, "numbers")])
def test_a_gap_whose_monte_carlo_error_is_not_known_is_held_to_the_datapoints_spread(spread, whose, monkeypatch):
    total = _Fails(mean=0.2, monte_carlo_error=math.nan, standard_error=spread)
    monkeypatch.setattr(verdict_questions, "gaps", lambda *arguments, **options: _Fails(total=total, sentence="Lost."))
    _only(monkeypatch, "where the bound is lost")
    model = _model()
    x = model.simulate(20)
    ((found, _),) = verdict(_pair(model, x), x, {"exact": Exact()}).warnings
    assert found == whose


def test_an_estimator_of_simulated_data_is_not_taken_for_one_of_these(monkeypatch):
    _only(monkeypatch, "which estimate to use")
    model = _model()
    x = model.simulate(20)
    found = verdict(_pair(model, x), x + 50, {"elbo": ELBO(20), "bdmc": BidirectionalMonteCarlo(2, 2)}, annealing=SHORT)
    assert "simulated" in found.refused["bdmc"] and found.sentences[0].startswith("Use elbo")


def _plain_model(x):
    with pyro.plate("data", len(x)):
        scale = pyro.sample("scale", dist.Gamma(4.0, 4.0))
        z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z.repeat_interleave(2, -1), scale.unsqueeze(-1) + 0.3).to_event(1), obs=x)


def _plain_guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("scale", dist.LogNormal(x.std(-1).log(), 0.5))
        pyro.sample("z", dist.Normal(x.reshape(len(x), 2, 2).mean(-1) * 0.7, 0.5).to_event(1))


def test_plain_functions_with_two_sites_are_judged():
    x = torch.randn(12, 4)
    pair = Pair(_plain_model, _plain_guide).check(x[:16])
    found = verdict(pair, x, {"elbo": ELBO(100), "importance": ImportanceSampling(200)}, annealing=SHORT)
    assert not found.refused and not any("Not answered" in said for said in found.sentences)
    assert set(found.found["calibration"].ranks) == {"scale", "z"}


def test_clouds_are_those_of_the_posterior():
    model = _model()
    x = model.simulate(3)
    drawn = guide_versus_hmc(_pair(model, x, narrower=0.25), x, num_draws=2000)
    exact = model.posterior(x)
    assert drawn.guide.shape == drawn.chains.shape == (2000, 3, 4)
    assert (drawn.rhat < 1.05).all()
    ratio = drawn.guide.var(0) / exact.variance
    assert torch.allclose(ratio, torch.full_like(ratio, 0.25), rtol=0.25)
    assert torch.allclose(drawn.chains.var(0), exact.variance, rtol=0.35)
    assert ((drawn.chains.mean(0) - exact.mean).abs() < 0.25 * exact.stddev).all()
    assert drawn.differs.all() and "on 3 of these the guide differs" in drawn.sentence
    assert torch.allclose(drawn.width, torch.full_like(drawn.width, 0.5), rtol=0.2)
    assert drawn.ess.shape == (3, 4)


def test_an_exact_guide_is_not_told_from_chains_and_a_shifted_one_is():
    model = _model()
    x = model.simulate(5)
    same = guide_versus_hmc(_pair(model, x), x, num_draws=2000)
    assert same.met.all() and not same.differs.any() and "to within a quarter" in same.sentence
    shifted = replace(same, guide=same.guide + torch.tensor([0.0, 0.0, 0.0, 1.0]) * same.chains.std(0))
    assert shifted.differs.all() and "on 5 of these the guide differs" in shifted.sentence
    assert torch.allclose(shifted.shift[:, 3], torch.ones((), dtype=torch.float64), atol=0.15)
    apart = replace(same, rhat=torch.full_like(same.rhat, 1.2))
    assert not apart.differs.any() and "they say nothing of it" in apart.sentence


@pytest.mark.parametrize(("blamed", "mend"), [("family", "family."), ("encoder", "encoder, longer")])
def test_the_last_sentence_advises_what_the_gaps_blame(blamed, mend):
    case = verdict_questions.Case(
        None, torch.zeros(4, 2), {}, {}, SHORT, 0, found={"gaps": SimpleNamespace(blames=blamed)}
    )
    case.warn("guide", "its bound lies 2.00 nats below log p(x)")
    said = verdict_questions.QUESTIONS["whose fault it is"](case)
    assert said.startswith("So the fault is the guide's") and mend in said
    assert ("richer" in said) == (blamed == "family")


FIT = ["--hidden", "8", "--latent-dim", "2", "--epochs", "2", "--quiet"]
QUICK = ["--points", "12", "--samples", "60", "--method-args.num_temperatures", "10", "--method-args.num_chains", "2"]


@pytest.fixture(scope="module")
def _fitted_once(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fitted")
    assert main(["fit", "digits", *FIT, "--out", str(folder)]) == 0
    return folder


@pytest.fixture
def fitted(_fitted_once, tmp_path):
    """A run folder of one's own."""
    return shutil.copytree(_fitted_once, tmp_path / "run")


@pytest.fixture
def _tuned_shortly(monkeypatch):
    """Chains whose step sizes are not worth as much as they cost."""

    @functools.wraps(every_estimator)
    def shortly(pair, **options):
        return {
            name: replace(made, num_tuning=10) if isinstance(made, AnnealedImportanceSampling) else made
            for name, made in every_estimator(pair, **options).items()
        }

    monkeypatch.setattr(judge, "every_estimator", shortly)


@pytest.mark.usefixtures("_tuned_shortly")
@pytest.mark.parametrize("guide", ["normal", "implicit"])
def test_the_command_judges_a_run(guide, fitted, capsys):
    if guide == "implicit":
        assert main(["fit", "digits", *FIT, "--guide", guide, "--objective", "avb", "--out", str(fitted)]) == 0
    assert main(["evidence", str(fitted), "--method", "all", *QUICK]) == 0
    said = capsys.readouterr().out
    sentences = json.loads((fitted / "verdict.json").read_text())
    assert len(sentences) == len(verdict_questions.QUESTIONS) and all(sentence in said for sentence in sentences)
    table = pd.read_csv(fitted / "verdict.csv", index_col="method")
    records = {r["method"]: r for r in json.loads((fitted / "evidence.json").read_text())}
    assert set(table.index[table["mean"].notna()]) <= set(records)
    pictures = {path.stem for path in (fitted / "figures").iterdir()}
    assert {"calibration", "worst_inferred"} <= pictures
    assert sentences[0] in (fitted / "report.html").read_text().replace("&#x27;", "'")
    if guide == "implicit":
        assert "does not apply" in said and "importance" in said
        assert pd.isna(table.loc["importance", "mean"]) and "ais from the moments" in records
    else:
        assert records["quadrature"]["num_points"] == 12 and "exact" not in table.index  # which could but do the same


def _judged(folder, said):
    """What a verdict leaves in the folder, whether or not there is a gallery."""
    assert all(sentence in said for sentence in json.loads((folder / "verdict.json").read_text()))
    table = pd.read_csv(folder / "verdict.csv", index_col="method")
    records = {r["method"] for r in json.loads((folder / "evidence.json").read_text())}
    assert set(table.index[table["mean"].notna()]) == records
    sentences = json.loads((folder / "verdict.json").read_text())
    assert sentences[0] in (folder / "report.html").read_text().replace("&#x27;", "'")
    pictures = {path.stem for path in (folder / "figures").iterdir()}
    assert {"calibration", "evidence", "khat"} <= pictures
    return pictures, records


def test_a_pair_on_the_sphere_is_judged_without_a_gallery(tmp_path, capsys):
    sphere = ["--prior", "uniform-sphere", "--guide", "von-mises-fisher", "--latent-dim", "3"]
    assert main(["fit", "digits", *FIT, *sphere, "--out", str(tmp_path)]) == 0
    (tmp_path / "figures" / "worst_inferred.png").write_bytes(b"of an earlier verdict")
    capsys.readouterr()
    assert main(["evidence", str(tmp_path), "--method", "all", *QUICK]) == 0
    said, complaints = capsys.readouterr()
    (left_out,) = [line for line in said.splitlines() if "gallery" in line]
    assert left_out.startswith("The gallery of the worst inferred datapoints is left out: latent site 'z'")
    assert "Sphere" in left_out and "error" not in complaints
    pictures, records = _judged(tmp_path, said)
    assert "worst_inferred" not in pictures and records == {"elbo", "importance", "psis"}


def test_the_gallery_shows_the_rows_of_the_largest_khats_or_gaps(monkeypatch):
    """Worst first; where k-hat is not known the row comes before all, and without weights the gap decides."""
    shown = []
    monkeypatch.setattr(
        judge, "guide_versus_hmc", lambda pair, x: shown.append(x) or SimpleNamespace(data=[x], guide=0, chains=0)
    )
    monkeypatch.setattr(judge.figures, "worst_inferred", lambda *drawn: drawn[3])
    x = torch.arange(7.0).unsqueeze(-1)
    khat = torch.tensor([0.1, 0.9, math.nan, 0.3, 1.2, 0.2, 0.5])
    gap = SimpleNamespace(total=SimpleNamespace(values=-khat.nan_to_num(0.0)))
    cases = [({}, khat, [2, 4, 1, 6, 3], "k-hat 1.20"), ({"gaps": gap}, None, [2, 0, 5, 3, 6], "gap -0.10")]
    for found, weights, rows, second in cases:
        titles = judge._gallery(None, x, SimpleNamespace(found=found), weights, None)
        assert shown.pop().flatten().tolist() == rows
        assert [title.split(",")[0] for title in titles] == [f"row {row}" for row in rows] and second in titles[1]


@pytest.fixture
def _few_asked(monkeypatch):
    monkeypatch.setattr(judge, "every_estimator", lambda pair: {"elbo": ELBO(20), "importance": ImportanceSampling(60)})
    _only(monkeypatch, "which estimate to use", "whether the guide is calibrated")


def _breaks(monkeypatch, name, error):
    def broken(*arguments, **options):
        raise error

    monkeypatch.setattr(judge, name, broken)


ALL = ["--method", "all", "--points", "12"]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (torch.linalg.LinAlgError("the metric is\nsingular"), "LinAlgError: the metric is singular."),
        (OverflowError("too large."), "OverflowError: too large."),
        (ValueError("a draw outside the support"), "a draw outside the support."),
    ],
)
@pytest.mark.usefixtures("_few_asked")
def test_a_gallery_that_breaks_loses_nothing(error, reason, monkeypatch, fitted, capsys):
    _breaks(monkeypatch, "guide_versus_hmc", error)
    assert main(["evidence", str(fitted), *ALL]) == 0
    said = capsys.readouterr().out
    assert f"The gallery of the worst inferred datapoints is left out: {reason}\n" in said
    pictures, records = _judged(fitted, said)
    assert "worst_inferred" not in pictures and records == {"elbo", "importance"}


@pytest.mark.usefixtures("_few_asked")
def test_a_fault_of_the_code_in_the_gallery_is_not_hidden_and_yet_loses_nothing(monkeypatch, fitted, capsys):
    _breaks(monkeypatch, "guide_versus_hmc", AttributeError("no such name"))
    with pytest.raises(AttributeError, match="no such name"):
        main(["evidence", str(fitted), *ALL])
    _judged(fitted, capsys.readouterr().out)


@pytest.mark.usefixtures("_few_asked")
def test_a_pair_that_no_estimator_applies_to_still_has_its_page(monkeypatch, fitted):
    def broken(pair, rows):
        raise ZeroDivisionError("no samples")

    monkeypatch.setattr(judge, "every_estimator", lambda pair: {"broken": broken})
    _breaks(monkeypatch, "guide_versus_hmc", ValueError("none"))
    (fitted / "evidence.json").unlink()  # a guide without a density has no bound at its fit either
    assert main(["evidence", str(fitted), *ALL]) == 0
    assert "Not answered, which estimate to use" in (fitted / "report.html").read_text()


def test_an_option_that_no_estimator_has_is_an_error_in_one_line(fitted, capsys):
    capsys.readouterr()
    assert main(["evidence", str(fitted), "--method", "all", "--method-args.fish", "3"]) != 0
    said = capsys.readouterr().err.strip()
    assert "fish" in said and "\n" not in said


def test_every_estimator_starts_chains_where_the_guide_allows():
    model = _model()
    x = model.simulate(20)
    assert "ais from the guide" in every_estimator(_pair(model, x))
    assert "ais from the guide" not in every_estimator(Pair(model, None).check(x))


def test_every_estimator_of_the_package_is_asked_and_exact_where_it_knows_more_than_quadrature():
    asked = {name: every_estimator(Pair(w.model, w.guide).check(w.x)) for name, w in WORLDS.items()}
    known = {"elbo", "importance", "psis", "ais from the guide", "ais from the prior", "bdmc", "density-fit"}
    assert {name: set(found) - known for name, found in asked.items()} == {
        "normal": {"exact", "quadrature"},  # linear and Gaussian
        "coin": {"exact", "quadrature"},  # enumerated
        "gamma_poisson": {"quadrature"},
    }
    assert set(asked["normal"]) >= known


def test_options_for_all_reach_every_estimator_that_has_them():
    w = WORLDS["normal"]
    asked = every_estimator(Pair(w.model, w.guide).check(w.x), num_samples=60, num_chains=5, num_temperatures=7)
    samples = {name: one.num_samples for name, one in asked.items() if hasattr(one, "num_samples")}
    assert samples == dict.fromkeys(("elbo", "importance", "psis", "density-fit"), 60)
    assert all(one.num_chains == 5 for name, one in asked.items() if hasattr(one, "num_chains"))
    assert asked["ais from the prior"].num_temperatures == asked["bdmc"].num_temperatures == 7
