"""What a person is told, held against numbers: commands, tables, pages, figures, files, errors and directions."""

from __future__ import annotations

import csv
import json
import math
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
import worlds

from aevb import figures
from aevb.__main__ import main
from aevb.commands.comparing import print_table
from aevb.data import load as load_data
from aevb.inference import EM, Fit, Pair, fit, load, log_evidence
from aevb.inference.diagnostics import verdict_questions
from aevb.inference.diagnostics.inference_gaps import Gap, Gaps
from aevb.inference.diagnostics.inference_gaps import gaps as find_gaps
from aevb.inference.diagnostics.latent_usage import LatentUse, Usage
from aevb.inference.evidence import ELBO, AnnealedImportanceSampling, Evidence, ImportanceSampling, Quadrature
from aevb.inference.evidence.elbo import mean_bound
from aevb.inference.objectives import Batch
from aevb.inference.pairs.data import as_rows
from aevb.inference.pairs.predictive import linear_probe
from aevb.inference.posterior.hmc import advance, jittered, sample, transition, with_gradients
from aevb.models import GaussianMixture
from aevb.publish import describe_evidence
from aevb.records import add_records
from aevb.report import write_report
from aevb.run_folder import RunFolder

# ----------------------------------------------------------------------------------------------- errors and their roots

_VALUES = torch.tensor([-3.0, -1.0, -2.5, 0.5, -4.0], dtype=torch.float64)
_ERROR = float(np.std(_VALUES.numpy(), ddof=1)) / 5**0.5


def _evidence(values=_VALUES, direction="lower bound", errors=None, method="made"):
    return Evidence(method, direction, values, 100, own_errors=errors)


def test_the_error_of_a_mean_is_the_samples_spread_over_the_root_of_n():
    found = _evidence(errors=torch.full((5,), 0.3))
    assert found.mean == pytest.approx(-2.0)
    assert found.standard_error == pytest.approx(_ERROR)
    assert found.monte_carlo_error == pytest.approx(0.3 / 5**0.5)
    record = found.record("validation")
    told = (record["method"], record["split"], record["direction"], record["num_points"], record["num_samples"])
    assert told == ("made", "validation", "lower bound", 5, 100)
    assert (record["mean"], record["standard_error"]) == (found.mean, found.standard_error)


def test_a_gaps_error_and_sentence():
    gap = Gap(_VALUES, torch.full((5,), 0.3))
    assert (gap.mean, gap.standard_error) == (pytest.approx(-2.0), pytest.approx(_ERROR))
    assert gap.monte_carlo_error == pytest.approx(0.3 / 5**0.5)
    zero = torch.zeros(5, dtype=torch.float64)
    bound, local = _VALUES - 3.0, _VALUES - 2.0
    found = Gaps(_VALUES, zero, local, zero + 0.1, bound, zero + 0.2)
    assert found.total.mean == pytest.approx(3.0)
    assert (found.approximation.mean, found.amortization.mean) == (pytest.approx(2.0), pytest.approx(1.0))
    assert float(found.amortization.errors[0]) == pytest.approx(math.hypot(0.1, 0.2))
    assert "3.00" in found.sentence and "2.00" in found.sentence and "1.00" in found.sentence
    table = found.table
    np.testing.assert_allclose(table["log_px"] - table["bound"], table["total"])
    np.testing.assert_allclose(table["approximation"] + table["amortization"], table["total"])


def test_a_bounds_own_error_is_its_spread_over_repeats():
    """Of ELBO, of the gaps' bounds and of importance sampling, by repeats under other seeds."""
    world = worlds.make("normal")
    pair = Pair(world.model, world.others["wide"].program).check(world.data)
    for estimator in (ELBO(1000), ImportanceSampling(50)):
        found = [log_evidence(pair.model, pair.guide, world.x, estimator, seed=seed) for seed in range(40)]
        spread = torch.stack([f.log_px for f in found]).std(0)
        stated = torch.stack([f.errors for f in found]).mean(0)
        assert bool(((spread / stated - 1).abs() < 0.45).all()), (estimator, spread, stated)
    answer = _evidence(world.log_px, "exact", torch.zeros(4))
    parts = [find_gaps(pair, world.x, log_px=answer, num_steps=1, num_draws=1000, seed=seed) for seed in range(25)]
    spread = torch.stack([p.bound for p in parts]).std(0)
    stated = torch.stack([p.bound_errors for p in parts]).mean(0)
    assert bool(((spread / stated - 1).abs() < 0.5).all()), (spread, stated)


# -------------------------------------------------------------------------------------------------- the verdict's words


def _case(**found):
    seconds = {name: 1.0 for name in found}
    return verdict_questions.Case(None, list(range(5)), found, seconds, AnnealedImportanceSampling(), 0)


def test_only_a_lower_bound_is_taken_for_one():
    made = _case(
        low=_evidence(_VALUES - 1.0),
        high=_evidence(_VALUES),
        upper=_evidence(_VALUES + 5.0, "upper bound"),
        about=_evidence(_VALUES + 4.0, "estimate"),
    )
    assert made.bounds == ["high", "low"] and made.exact == []
    said = verdict_questions.QUESTIONS["which estimate to use"](made)
    assert said.startswith("Use high: ") and f"-2.000 +- {_ERROR:.3f} nats per datapoint" in said
    assert "upper" not in said and "about" not in said and "Of 2 stochastic lower bounds" in said
    known = _case(high=_evidence(_VALUES), exact=_evidence(_VALUES + 0.5, "exact"))
    said = verdict_questions.QUESTIONS["which estimate to use"](known)
    assert said.startswith("Use exact: ") and "-1.500" in said


def test_a_paired_difference_has_the_error_of_a_mean():
    other = _VALUES - torch.tensor([1.0, 2.0, 1.5, 0.5, 1.0], dtype=torch.float64)
    said = verdict_questions.QUESTIONS["which estimate to use"](_case(best=_evidence(_VALUES), other=_evidence(other)))
    error = float(np.std([1.0, 2.0, 1.5, 0.5, 1.0], ddof=1)) / 5**0.5
    assert f"other lies 1.200 +- {error:.3f} below it" in said


# ------------------------------------------------------------------------------------------------------ lines and pages


def test_the_line_of_an_estimate():
    said = describe_evidence(_evidence(errors=torch.full((5,), 9.0)), "train")
    line = f"-2.000 +- {_ERROR:.3f} nats per datapoint over 5 datapoints (lower bound)"
    assert said == f"train log p(x) by made (100 samples): {line}"


def test_records_of_every_split_and_method_stand_side_by_side(tmp_path):
    for split in ("train", "test"):
        for method in ("elbo", "importance"):
            add_records(RunFolder(tmp_path), [_evidence(method=method).record(split)])
    add_records(RunFolder(tmp_path), [_evidence(_VALUES + 1, method="elbo").record("test")])
    found = {(r["method"], r["split"]): r["mean"] for r in RunFolder(tmp_path).records()}
    assert found == {
        ("elbo", "train"): -2.0,
        ("importance", "train"): -2.0,
        ("elbo", "test"): -1.0,
        ("importance", "test"): -2.0,
    }
    assert len(RunFolder(tmp_path).records()) == 4


def test_a_run_page_shows_each_number_in_its_cell(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"objective": "SGVB", "settings": {"seed": 4}}))
    add_records(RunFolder(tmp_path), [_evidence().record("test")])
    page = write_report(tmp_path).read_text()
    cells = "".join(f"<td>{cell}</td>" for cell in ("made", "test", f"-2.00 ± {_ERROR:.2f}", "lower bound", "5", "100"))
    assert cells in page and "seed 4" in page


_ROW = {
    "objective": "sgvb",
    "seed": 3,
    "test_bound": -12.25,
    "bound_error": 0.5,
    "test_log_px": -11.125,
    "standard_error": 0.25,
    "khat_over_threshold": 0.125,
    "khat_threshold": 2 / 3,
    "seconds": 1.5,
    "samples_seen": 2000,
    "gradient_evaluations": 30000,
    "guide": "own",
}


def test_a_comparisons_page_and_its_printed_table_show_each_number_in_its_column(comparison, tmp_path, capsys):
    whole = pd.read_csv(comparison[0] / "out" / "table.csv").to_dict("records")[0] | _ROW
    rows = [whole, whole | {"objective": "mcem", "guide": "fitted afterwards", "test_log_px": -13.5}]
    with (tmp_path / "table.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    page = write_report(tmp_path).read_text()
    assert "<td>sgvb</td><td>3</td><td>-12.25 ± 0.50</td><td>-11.12 ± 0.25</td><td>12.5 % above 0.67</td>" in page
    assert "<td>fitted afterwards</td>" in page
    print_table(pd.DataFrame(rows))
    said = capsys.readouterr().out
    line = next(line for line in said.splitlines() if "sgvb" in line)
    assert [cell.strip() for cell in line.split("│")[1:4]] == ["sgvb", "3", "-12.25"]
    assert "-11.12 ± 0.25" in line and "2,000" in line and "30,000" in line
    starred = next(line for line in said.splitlines() if "mcem" in line)
    assert "mcem *" in starred and "-13.50 ± 0.25" in starred and "* trained without a guide" in said


# -------------------------------------------------------------------------------------------------------------- figures


def _bars(axes):
    """What is drawn of each line of a forest: where it stands and how far its bar reaches to both sides."""
    found = []
    for container in axes.containers:
        ((left, _), (right, _)) = container.lines[2][0].get_segments()[0]
        middle = float(container.lines[0].get_xdata()[0])
        found.append((middle, middle - left, right - middle, container.lines[0].get_marker()))
    return found


def test_a_forests_bars_are_one_standard_error_to_either_side():
    rows = [
        {"method": "elbo", "direction": "lower bound", "mean": -99.0, "standard_error": 0.4},
        {"method": "bdmc", "direction": "upper bound", "mean": -95.0, "standard_error": 0.3},
        {"method": "psis", "direction": "estimate", "mean": -96.0, "standard_error": 0.2},
    ]
    axes = figures.evidence_forest(rows).axes[0]
    expected = [(-99.0, 0.4, 0.4, ">"), (-95.0, 0.3, 0.3, "<"), (-96.0, 0.2, 0.2, "o")]
    for drawn, right in zip(_bars(axes), expected, strict=True):
        assert drawn[:3] == pytest.approx(right[:3]) and drawn[3] == right[3]
    assert "1 standard error" in axes.get_xlabel()
    named = {text.get_text() for text in axes.get_legend().get_texts()}
    assert named == {"lower bound", "upper bound", "estimate"}
    heights = dict(zip((text.get_text() for text in axes.get_yticklabels()), axes.get_yticks(), strict=True))
    drawn_at = {container.lines[0].get_xdata()[0]: container.lines[0].get_ydata()[0] for container in axes.containers}
    assert (heights["elbo"], heights["psis"]) == (drawn_at[-99.0], drawn_at[-96.0])


# ------------------------------------------------------------------------------------------------------------- training


def test_the_history_is_the_mean_of_each_epochs_steps():
    world = worlds.make("many_rows")
    run = fit(world.model, world.guide, world.x, epochs=3, batch_size=9, seed=2, progress=False, compile="never")
    again = worlds.make("many_rows")
    steps = [
        float(r["bound"])
        for r in Fit(again.model, again.guide, again.x, epochs=3, batch_size=9, seed=2, progress=False)
    ]
    assert len(steps) == 12
    means = [np.mean(steps[first : first + 4]) for first in (0, 4, 8)]
    assert [row["bound"] for row in run.rows] == pytest.approx(means)
    assert [(row["epoch"], row["step"], row["samples_seen"]) for row in run.rows] == [
        (1, 4, 36),
        (2, 8, 72),
        (3, 12, 108),
    ]


def test_shuffles_differ_between_passes_and_seeds():
    seen = []

    def watched(x):
        seen.append(x.detach().flatten().tolist())
        return world.model(x)

    for seed in (0, 1):
        world = worlds.make("many_rows")
        fit(watched, world.guide, world.x, epochs=2, batch_size=37, seed=seed, progress=False, compile="never")
    passes = list(dict.fromkeys(tuple(rows) for rows in seen if len(rows) == 37))
    assert len(passes) >= 4
    assert len({frozenset(rows) for rows in passes}) == 1


# ------------------------------------------------------------------------------------------------------------- samplers


def _standard(u):
    return -0.5 * u.square().sum(-1)


def test_a_step_size_is_frozen_when_draws_are_kept():
    """As many warm-up transitions give the same step size, however many draws follow, and the draws are exact."""
    start, ends = torch.randn(6, 2, dtype=torch.float64), []
    for kept in (1, 30):
        torch.manual_seed(5)
        ends.append(sample(_standard, start, num_samples=kept, warmup=25, num_leapfrog=3).step_size)
    torch.testing.assert_close(ends[0], ends[1], rtol=0, atol=0)
    torch.manual_seed(5)
    tuned = sample(_standard, start, num_samples=2, warmup=60, num_leapfrog=3, target_accept=0.7)
    assert bool((tuned.step_size != 0.1).all())


def test_small_steps_keep_the_energy():
    """A leapfrog step errs by the cube of its size: one whose two half kicks differ would lose chains at any size."""
    start = torch.randn(200, 3, dtype=torch.float64)
    for step in (0.02, 0.05):
        moved = transition(_standard, start, torch.tensor(step, dtype=torch.float64), 10)
        assert float(moved.accept_prob.min()) > 1 - 3 * step**2


def test_a_chain_stands_with_the_value_and_the_slope_of_where_it_stands():
    """Those that were rejected among them: the next trajectory begins by that slope."""
    terms = with_gradients(lambda u: (_standard(u),))
    place = terms(torch.randn(400, 2, dtype=torch.float64))
    step = torch.full((400, 1), 1.8, dtype=torch.float64)
    moved, probability = advance(terms, place, (1.0,), step, 2)
    assert 0.1 < float((moved.u != place.u).any(-1).double().mean()) < 0.95
    torch.testing.assert_close(moved.gradients[0], -moved.u)
    torch.testing.assert_close(moved.values[0], _standard(moved.u))
    assert float(probability.max()) <= 1.0


def test_steps_are_drawn_between_half_and_whole_for_every_chain():
    drawn = jittered(torch.full((5000,), 0.4, dtype=torch.float64))
    assert 0.2 <= float(drawn.min()) < 0.21 and 0.39 < float(drawn.max()) <= 0.4
    assert float(drawn.mean()) == pytest.approx(0.3, abs=0.005)


def test_every_chain_has_an_accept_decision_of_its_own():
    """With one uniform for all, chains that stand alike would all move or all stay."""
    start = torch.randn(4000, 1, dtype=torch.float64)
    for step in (1.2, 1.8):
        moved = transition(_standard, start, torch.tensor(step, dtype=torch.float64), 2)
        probability = moved.accept_prob
        accepted = (moved.u != start).any(-1).double()
        noise = float((probability * (1 - probability)).sum().sqrt())
        assert noise > 5
        assert abs(float((accepted - probability).sum())) < 4.5 * noise


# ----------------------------------------------------------------------------------------------------------- comparison


@pytest.fixture(scope="module")
def comparison(tmp_path_factory):
    """Two objectives under two seeds on a small table whose parts lie far apart."""
    folder = tmp_path_factory.mktemp("comparison")
    rng = np.random.default_rng(0)
    parts = {"train": 0.0, "validation": 1.0, "test": 3.0}
    np.savez(
        folder / "data.npz",
        **{name: (rng.normal(size=(30, 3)) + shift).astype(np.float32) for name, shift in parts.items()},
    )
    words = [str(folder / "data.npz"), "--latent-dim", "1", "--hidden", "4", "--likelihood", "normal", "--quiet"]
    words += ["--epochs", "2", "--batch-size", "10", "--lr", "0.01"]
    rest = ["--objectives", "sgvb", "mcem", "--seeds", "2", "--seed", "5", "--samples", "40", "--track", "none"]
    assert main(["compare", *words, *rest, "--jobs", "1", "--out", str(folder / "out")]) == 0
    return folder, words


def test_a_comparisons_numbers_are_those_of_its_runs_on_the_test_data(comparison):
    folder, _ = comparison
    data = load_data(str(folder / "data.npz"))
    table = pd.read_csv(folder / "out" / "table.csv")
    assert list(zip(table["objective"], table["seed"], strict=True)) == [
        ("sgvb", 5),
        ("sgvb", 6),
        ("mcem", 5),
        ("mcem", 6),
    ]
    for row in table.to_dict("records"):
        run = load(folder / "out" / f"{row['objective']}-{row['seed']}")
        evidence = log_evidence(run.model, run.guide, data.test, ImportanceSampling(40), seed=row["seed"])
        bound = log_evidence(run.model, run.guide, data.test, ELBO(100), seed=row["seed"])
        told = [row[name] for name in ("test_log_px", "standard_error", "test_bound", "bound_error")]
        right = [evidence.mean, evidence.standard_error, bound.mean, bound.standard_error]
        assert told == pytest.approx(right, rel=1e-5), row
        records = {r["method"]: r for r in RunFolder(folder / "out" / f"{row['objective']}-{row['seed']}").records()}
        assert records["importance"]["mean"] == pytest.approx(evidence.mean, rel=1e-5)
        assert records["importance"]["split"] == records["elbo"]["split"] == "test"
        assert row["samples_seen"] == 60


def test_every_seed_of_a_comparison_is_the_fit_of_that_seed(comparison, tmp_path):
    folder, words = comparison
    for seed in (5, 6):
        assert main(["fit", *words, "--seed", str(seed), "--out", str(tmp_path / str(seed))]) == 0
    alone = [load(tmp_path / str(seed)).pair.state_dict() for seed in (5, 6)]
    beside = [load(folder / "out" / f"sgvb-{seed}").pair.state_dict() for seed in (5, 6)]
    for one, other in zip(alone, beside, strict=True):
        for key, value in one.items():
            torch.testing.assert_close(other[key], value, msg=key)
    assert any(not torch.equal(alone[0][key], alone[1][key]) for key in alone[0])


def test_a_guide_fitted_afterwards_leaves_the_model_where_training_did(comparison, tmp_path):
    folder, words = comparison
    assert main(["fit", *words, "--seed", "6", "--objective", "mcem", "--out", str(tmp_path)]) == 0
    alone, beside = load(tmp_path).pair, load(folder / "out" / "mcem-6").pair
    for (key, one), other in zip(alone.model.state_dict().items(), beside.model.state_dict().values(), strict=True):
        torch.testing.assert_close(other, one, rtol=0, atol=0, msg=key)
    history = pd.read_csv(folder / "out" / "mcem-6" / "history.csv")
    assert "log_joint" in history and "bound" not in history


def test_evidence_of_each_split_is_of_that_splits_rows(comparison, capsys):
    folder, _ = comparison
    data, run = load_data(str(folder / "data.npz")), load(folder / "out" / "sgvb-5")
    for split in ("train", "validation", "test"):
        words = ["evidence", str(folder / "out" / "sgvb-5"), "--method", "elbo", "--samples", "30", "--split", split]
        assert main(words) == 0
        right = log_evidence(run.model, run.guide, data.part(split), ELBO(30))
        assert (
            f"{split} log p(x) by elbo (30 samples): {right.mean:.3f} +- {right.standard_error:.3f}"
            in capsys.readouterr().out
        )
    means = {r["split"]: r["mean"] for r in RunFolder(folder / "out" / "sgvb-5").records() if r["num_samples"] == 30}
    assert means["test"] < means["validation"] - 0.5 < means["train"] - 1.0


# -------------------------------------------------------------------------------------------------------------- latents


def test_usage_tells_what_is_collapsed_and_what_is_half_used():
    def usage(activity, rate=1.0):
        return Usage({"z": LatentUse(torch.tensor([rate]), torch.tensor(activity))}, rate, 5.0)

    assert usage([0.5, 0.4]).warnings == ()
    assert "has collapsed" in usage([0.001, 0.0], rate=0.01).warnings[0]
    assert usage([0.001, 0.0], rate=1.0).warnings == ()  # posteriors that differ in more than their means
    assert "uses 1 of its 4 dimensions" in usage([0.5, 0.0, 0.0, 0.0]).warnings[0]
    assert usage([0.5, 0.0]).num_active == 1
    assert usage([0.5]).bound == -6.0 and usage([0.5]).rate_share == pytest.approx(1 / 6)


def test_a_changed_weight_decay_moves_what_is_trained():
    """A schedule that raises the decay between epochs is obeyed by a captured step as by an uncaptured one."""
    ends = {}
    for level in ("never", "graph"):
        world = worlds.make("many_rows")

        def raise_decay(loop):
            for optimizer in loop.players.optimizers.values():
                for group in optimizer.param_groups:
                    group["weight_decay"] = 20.0

        adam = partial(torch.optim.AdamW, lr=0.01, weight_decay=0.0)
        settings = {"optimizer": adam, "batch_size": 9, "seed": 1, "progress": False, "compile": level}
        run = fit(world.model, world.guide, world.x, epochs=3, observers=[raise_decay], **settings)
        ends[level] = run.pair.state_dict()
    for key, value in ends["never"].items():
        torch.testing.assert_close(ends["graph"][key], value, rtol=1e-7, atol=1e-9, msg=key)


def test_pseudo_inputs_start_at_training_rows(comparison):
    from aevb.build import Recipe, build_pair

    folder, _ = comparison
    data = load_data(str(folder / "data.npz"))
    recipe = Recipe(latent_dim=2, prior="vamp-prior", prior_args={"num_pseudo_inputs": 4}, likelihood="normal")
    with torch.no_grad():
        pseudo = build_pair(recipe, data, seed=0)[0].prior.pseudo_inputs
    train, test = data.train, data.test

    def among(row, part):
        return bool(((row - part).abs().amax(1) < 1e-3).any())

    assert all(among(row, train) for row in pseudo) and not all(among(row, test) for row in pseudo)


def test_validation_is_done_on_the_validation_data(comparison, tmp_path):
    """The last epoch's bound of held-out data, in a fit and in a comparison, is that of the saved parameters."""
    folder, words = comparison
    data = load_data(str(folder / "data.npz"))
    assert main(["fit", *words, "--seed", "5", "--out", str(tmp_path)]) == 0
    for run_folder in (tmp_path, folder / "out" / "sgvb-5"):
        run = load(run_folder)
        last = pd.read_csv(run_folder / "history.csv").iloc[-1]
        assert last["validation_bound"] == pytest.approx(mean_bound(run.pair, data.validation, seed=5), rel=1e-5)
        assert last["samples_seen"] == 60


def test_the_curve_of_log_px_is_of_training_and_validation_data(comparison, tmp_path):
    folder, words = comparison
    rest = ["--objectives", "sgvb", "--seed", "5", "--track-points", "30", "--jobs", "1", "--samples", "30"]
    assert main(["compare", *words, *rest, "--out", str(tmp_path)]) == 0
    data, run = load_data(str(folder / "data.npz")), load(tmp_path / "sgvb-5")
    last = pd.read_csv(tmp_path / "sgvb-5" / "history.csv").iloc[-1]
    for column, part in (("log_px", data.train), ("validation_log_px", data.validation)):
        right = log_evidence(run.model, None, part, Quadrature()).mean
        assert last[column] == pytest.approx(right, rel=1e-4)


def test_the_seed_of_an_estimate_is_the_one_asked_for(comparison):
    folder, _ = comparison
    run, data = load(folder / "out" / "sgvb-6"), load_data(str(folder / "data.npz"))
    words = ["evidence", str(folder / "out" / "sgvb-6"), "--method", "elbo", "--samples", "7", "--seed", "11"]
    assert main(words) == 0
    told = next(r["mean"] for r in RunFolder(folder / "out" / "sgvb-6").records() if r["num_samples"] == 7)
    assert told == pytest.approx(log_evidence(run.model, run.guide, data.test, ELBO(7), seed=11).mean, rel=1e-6)


def test_advice_follows_the_larger_gap():
    zero = torch.zeros(5, dtype=torch.float64)
    family = Gaps(_VALUES, zero, _VALUES - 2.0, zero, _VALUES - 2.1, zero)
    encoder = Gaps(_VALUES, zero, _VALUES - 0.1, zero, _VALUES - 2.1, zero)
    both = Gaps(_VALUES, zero, _VALUES - 1.0, zero, _VALUES - 2.0, zero)
    assert "a richer family wins back" in family.sentence
    assert "a larger encoder" in encoder.sentence and "refine" in encoder.sentence
    assert "both a richer family and a better encoder" in both.sentence


def test_the_bound_is_taken_apart_on_the_rows_whose_log_px_is_known():
    world = worlds.make("many_rows")
    pair = Pair(world.model, world.others["shifted"].program).check(world.data)
    answer = _evidence(world.log_px, "exact", torch.zeros(37))
    case = verdict_questions.Case(pair, world.data[0], {"told": answer}, {"told": 1.0}, AnnealedImportanceSampling(), 0)
    verdict_questions.QUESTIONS["where the bound is lost"](case)
    lost = torch.as_tensor(world.others["shifted"].gap)[:20]
    found = case.found["gaps"].total
    assert bool(((found.values - lost).abs() < 5 * found.errors + 0.01).all())


def test_rows_are_doubtful_above_the_threshold_of_so_many_samples():
    khat = torch.tensor([0.2, 0.55, math.nan, 0.9, 0.45])
    few = Evidence("made", "lower bound", _VALUES, 100, khat=khat)  # 1 - 1 / log10(100) = 0.5
    many = Evidence("made", "lower bound", _VALUES, 10**6, khat=khat)  # 0.7 at most
    assert few.doubtful.tolist() == [2, 3, 1] and few.khat_share == pytest.approx(0.6)
    assert many.doubtful.tolist() == [2, 3] and many.khat_share == pytest.approx(0.4)
    assert "k-hat above 0.50 on 3 of them" in describe_evidence(few, "test")


def test_held_out_data_are_judged_in_evaluation_mode():
    """A batch-norm's statistics are those of training, whatever validation data there are."""
    ends = []
    for shift in (0.0, 50.0):
        world = worlds.make("batch_norm")
        held_out = world.data[0] + shift
        run = fit(world.model, world.guide, world.x, validation=held_out, epochs=2, batch_size=4, progress=False)
        assert run.pair.guide.training
        ends.append(run.pair.state_dict())
        right = mean_bound(run.pair, held_out, seed=0)
        assert run.rows[-1]["validation_bound"] == pytest.approx(right, rel=1e-9)
    for key, value in ends[0].items():
        torch.testing.assert_close(ends[1][key], value, rtol=0, atol=0, msg=key)


def test_the_gain_of_online_em_falls_with_the_step():
    torch.manual_seed(0)
    model = GaussianMixture(data_dim=2, num_components=2)
    x = model.simulate(20)
    pair, objective = Pair(model).check(x), EM()
    rows = torch.arange(5)
    for step in (0, 8, 98):
        memory = objective.start(pair, as_rows(x))
        before = {name: value.clone() for name, value in memory.named_buffers()}
        with torch.no_grad():
            fresh = model.summarize(x[rows])
        list(objective(pair, Batch((x[rows],), rows, 20, torch.tensor(step)), memory))
        for name, mean in memory.named_buffers():
            right = torch.lerp(before[name], fresh[name] / 5, (step + 2.0) ** -0.7)
            torch.testing.assert_close(mean, right, msg=f"{name} at step {step}")


def test_a_probe_is_judged_on_the_test_labels():
    z = torch.linspace(-2.0, 2.0, 40).unsqueeze(-1)
    labels = (z[:, 0] > 0).long()
    assert linear_probe(z, labels, z, labels) == 1.0
    assert linear_probe(z, labels, z[:30], 1 - labels[:30]) == 0.0
