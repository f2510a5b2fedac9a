"""The command as a person meets it: what works, and what it says when it does not."""

import json
import math
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from folders import arrays

from aevb import registry
from aevb.__main__ import VERBS, main
from aevb.commands.words import dataset_of
from aevb.inference import load, log_evidence
from aevb.inference.evidence import AnnealedImportanceSampling, ImportanceSampling
from aevb.publish import rows

# The digits' own variant is grey, and each fit of them says so: in the page too, as is held below.
pytestmark = pytest.mark.filterwarnings("ignore:observed site 'x' scores grey values:UserWarning")
SMALL = ["--hidden", "8", "--latent-dim", "2", "--quiet"]
QUICK = ["--epochs", "1", "--batch-size", "500"]


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    assert main(["fit", "digits", *SMALL, "--epochs", "3", "--out", str(folder)]) == 0
    return folder


def _error(capsys, *words):
    status = main([str(word) for word in words])
    said = capsys.readouterr().err.strip()
    assert status != 0
    assert said.startswith("aevb: error: ")
    assert "\n" not in said and "Traceback" not in said
    return said


def test_fit_writes_a_run_folder(run_folder):
    names = {path.name for path in run_folder.iterdir()}
    assert {
        "config.json",
        "history.csv",
        "model.safetensors",
        "evidence.json",
        "doctor.json",
        "posterior.nc",
        "report.html",
    } <= names
    assert "grey-bernoulli" in (run_folder / "report.html").read_text()  # grey is the digits' variant
    figures = {path.stem for path in (run_folder / "figures").iterdir()}
    assert {"curves", "samples", "reconstructions", "manifold", "latents"} <= figures
    history = pd.read_csv(run_folder / "history.csv")
    assert list(history["epoch"]) == [1, 2, 3]
    assert history["bound"].is_monotonic_increasing
    record = json.loads((run_folder / "evidence.json").read_text())[0]
    assert record["method"] == "elbo" and record["split"] == "test" and record["num_points"] == 200


def test_config_is_enough_to_run_it_again(run_folder, tmp_path):
    command = json.loads((run_folder / "config.json").read_text())["command"]
    config = tmp_path / "again.yaml"
    config.write_text(json.dumps({name: value for name, value in command.items() if name != "data"}))
    assert main(["fit", command["data"], "--config", str(config), "--out", str(tmp_path / "b")]) == 0
    first, again = (pd.read_csv(f / "history.csv")["bound"] for f in (run_folder, tmp_path / "b"))
    pd.testing.assert_series_equal(first, again)


def test_evidence_adds_to_the_folder(run_folder, capsys):
    (run_folder / "doctor.json").unlink()  # of a run that nobody examined
    assert main(["evidence", str(run_folder), "--samples", "50", "--points", "20"]) == 0
    said = capsys.readouterr().out
    assert "importance" in said and "warning: grey-bernoulli: " in said
    assert "grey-bernoulli" in (run_folder / "report.html").read_text()
    records = {r["method"]: r for r in json.loads((run_folder / "evidence.json").read_text())}
    assert records["importance"]["num_samples"] == 50
    assert records["importance"]["num_points"] == 20
    assert 0.0 <= records["importance"]["khat_over_0.7"] <= 1.0


def test_sample_draws_in_the_support(run_folder, tmp_path):
    assert main(["sample", str(run_folder), "--count", "20", "--out", str(tmp_path / "s.npz")]) == 0
    drawn = arrays(tmp_path / "s.npz")
    assert drawn["draws"].shape == drawn["means"].shape == (20, 64)
    assert set(np.unique(drawn["draws"])) <= {0.0, 1.0}
    assert (tmp_path / "s.png").exists()


USES = ["reconstruct", "infer", "impute", "traverse", "interpolate", "manifold", "neighbours", "probe"]


@pytest.mark.parametrize("what", USES)
def test_every_use_of_a_run_is_a_command(run_folder, tmp_path, what, capsys):
    words = ["use", str(run_folder), what, "--points", "4", "--draws", "10", "--steps", "3", "--neighbours", "2"]
    assert main([*words, "--out", str(tmp_path)]) == 0
    names = {path.name for path in tmp_path.iterdir()}
    picture = {"manifold": "manifold_kingma.png"}.get(what, f"{what}.png")
    assert picture in names or what in ("infer", "probe")
    shapes = {path.stem: {k: v.shape for k, v in arrays(path).items()} for path in tmp_path.glob("*.npz")}
    expected = {
        "reconstruct": {"data": (4, 64), "means": (4, 64)},
        "infer": {"means": (4, 2), "z": (10, 4, 2)},
        "impute": {n: (4, 64) for n in ("data", "hole", "baseline", "mean", "spread")} | {"draws": (10, 4, 64)},
        "traverse": {"values": (3,), "means": (2, 3, 64)},
        "interpolate": {"means": (3, 3, 64)},
    }
    assert shapes == ({what: expected[what]} if what in expected else {})
    if what == "neighbours":
        assert pd.read_csv(tmp_path / "neighbours.csv", index_col="point").shape == (4, 2)
    if what == "probe":
        assert 0.1 < pd.read_csv(tmp_path / "probe.csv")["accuracy"][0] <= 1.0
        assert "% of 200 test labels right" in capsys.readouterr().out


def test_imputing_leaves_what_is_seen_and_every_grid_is_drawn(run_folder, tmp_path):
    assert main(["use", str(run_folder), "impute", "--points", "4", "--hole", "random", "--out", str(tmp_path)]) == 0
    found = arrays(tmp_path / "impute.npz")
    seen = ~found["hole"]
    assert 0.3 < seen.mean() < 0.7
    assert (found["mean"][seen] == found["data"][seen]).all() and (found["spread"][seen] == 0).all()
    assert (found["draws"][:, seen] == found["data"][seen]).all()
    for grid in ("su", "linear"):
        assert main(["use", str(run_folder), "manifold", "--grid", grid, "--out", str(tmp_path)]) == 0
        assert (tmp_path / f"manifold_{grid}.png").exists()


def test_uses_say_what_they_cannot_do(run_folder, capsys):
    assert "reconstruct" in _error(capsys, "use", run_folder, "teleport")
    assert "--points 2" in _error(capsys, "use", run_folder, "interpolate", "--points", "1")
    assert "hole" in _error(capsys, "use", run_folder, "impute", "--hole", "round")
    assert "kingma" in _error(capsys, "use", run_folder, "manifold", "--grid", "round")
    assert "points 0" in _error(capsys, "use", run_folder, "probe", "--points", "0")


ONE_FLAG = {
    "holes": ["--guide", "masked-normal", "--missing-share", "0.3"],
    "table": ["--guide", "mean-field"],
    "labels": ["--model", "conditional"],
    "prior a class": ["--prior", "class-conditional"],
    "some labels": ["--prior", "class-conditional", "--label-share", "0.2"],
    "layers": ["--model", "hierarchical"],
    "clusters": ["--model", "clustering"],
    "some clusters": ["--model", "clustering", "--label-share", "0.2"],
}


@pytest.mark.parametrize("name", ONE_FLAG)
def test_labels_holes_tables_layers_and_clusters_are_a_flag_away(name, tmp_path, capsys):
    assert main(["fit", "digits", *SMALL, "--epochs", "1", *ONE_FLAG[name], "--out", str(tmp_path)]) == 0
    assert "bound" in capsys.readouterr().out
    words = ["evidence", str(tmp_path), "--samples", "5", "--points", "5"]
    if name == "table":
        assert "training data alone" in _error(capsys, *words)
        words += ["--split", "train"]
    assert main(words) == 0
    said = capsys.readouterr().out
    run, data = load(tmp_path), dataset_of(tmp_path, None)
    part = rows(data.part("train" if name == "table" else "test"), 5)
    right = log_evidence(run.model, run.guide, part, ImportanceSampling(5))
    assert f"{right.mean:.3f} +- {right.standard_error:.3f} nats per datapoint over 5 datapoints" in said
    assert (
        main(["use", str(tmp_path), "infer", "--points", "3", *(["--split", "train"] if name == "table" else [])]) == 0
    )


def test_a_collapsed_run_is_told_so_at_the_end(tmp_path, capsys):
    words = ["fit", "digits", *SMALL, "--likelihood", "normal", "--likelihood-args.scale", "9", "--epochs", "60"]
    assert main(words) == 0
    assert "warning: latent 'z' has collapsed" in capsys.readouterr().out


def test_labels_that_are_not_there_are_missed(tmp_path, capsys):
    np.save(tmp_path / "plain.npy", np.random.default_rng(0).random((50, 16)).astype(np.float32))
    for words in (["--model", "conditional"], ["--prior", "class-conditional"], ["--guide", "conditional-normal"]):
        assert "no labels" in _error(capsys, "fit", tmp_path / "plain.npy", *SMALL, *words)


def test_report_holds_everything_in_one_page(run_folder):
    assert main(["report", str(run_folder)]) == 0
    page = (run_folder / "report.html").read_text()
    assert "data:image/png;base64" in page and "http" not in page.split("</head>")[0]


def test_a_guide_without_a_density_is_trained_by_name(tmp_path):
    words = ["fit", "digits", *SMALL, *QUICK, "--guide", "noise-basis", "--objective", "avb", "--adaptive-contrast"]
    assert main([*words, "--precision", "bfloat16", "--clip-norm", "5", "--out", str(tmp_path)]) == 0
    config = json.loads((tmp_path / "config.json").read_text())
    assert "adaptive_contrast=True" in config["objective"]
    assert config["command"]["precision"] == "bfloat16" and config["command"]["clip_norm"] == 5.0


def test_compare_writes_a_table_and_a_curve(tmp_path, capsys):
    words = ["compare", "digits", *SMALL, *QUICK, "--objectives", "sgvb", "mcem", "--samples", "30"]
    assert main([*words, "--jobs", "1", "--points", "20", "--track-points", "10", "--out", str(tmp_path)]) == 0
    table = pd.read_csv(tmp_path / "table.csv")
    assert list(table["objective"]) == ["sgvb", "mcem"]
    assert list(table["guide"]) == ["own", "fitted afterwards"]
    assert (table["test_log_px"] >= table["test_bound"]).all()
    said, page = capsys.readouterr().out, (tmp_path / "report.html").read_text()
    assert (tmp_path / "figures" / "log_px.png").exists()
    for row in table.to_dict("records"):  # whose numbers are held against the runs themselves in aevb/test_told.py
        cell = f"{row['test_log_px']:.2f} ± {row['standard_error']:.2f}"
        assert cell in said and f"<td>{cell}</td>" in page


def test_compare_sets_a_guide_without_a_density_beside_others(tmp_path, capsys):
    words = ["compare", "digits", *SMALL, *QUICK, "--objectives", "sgvb", "avb", "--guides.avb", "implicit"]
    annealed = ["--evidence", "ais", "--evidence-args.start", "prior", "--evidence-args.num_temperatures", "5"]
    rest = ["--jobs", "1", "--points", "5", "--track", "none", "--out", str(tmp_path), "--quiet"]
    short = ["--evidence-args.num_chains", "2", "--evidence-args.num_tuning", "5"]
    assert main([*words, *annealed, *short, *rest]) == 0
    table = pd.read_csv(tmp_path / "table.csv").set_index("objective")
    assert math.isnan(table.loc["avb", "test_bound"]) and not math.isnan(table.loc["sgvb", "test_bound"])
    for name in ("sgvb", "avb"):
        run, data = load(tmp_path / f"{name}-0"), dataset_of(tmp_path / f"{name}-0", None)
        chains = AnnealedImportanceSampling(5, num_chains=2, start="prior", num_tuning=5, progress=False)
        right = log_evidence(run.model, run.guide, rows(data.test, 5), chains)
        assert table.loc[name, "test_log_px"] == pytest.approx(right.mean, rel=1e-5)
    assert json.loads((tmp_path / "avb-0" / "config.json").read_text())["pair"][1]["class"].endswith(
        ":ConcatenatedNoise"
    )


@pytest.mark.parametrize("kind", ["priors", "likelihoods", "guides", "objectives", "evidence", "datasets"])
def test_list_shows_a_line_each(kind, capsys):
    assert main(["list", kind]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines and all(len(line.split(maxsplit=1)) == 2 for line in lines)


def test_list_without_a_kind_shows_all(capsys):
    assert main(["list"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert all(kind in shown for kind in (*registry.KINDS, "datasets"))
    first = {line.split(maxsplit=1)[0] for line in shown if line}
    assert all(set(names) <= first for names in registry.KINDS.values())


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["fit", "nope"], ["digits", "mnist"]),
        (["fit", "digits", "--prior", "nope"], ["standard-normal"]),
        (["fit", "digits", "--likelihood", "nope"], ["bernoulli", "normal"]),
        (["fit", "digits", "--guide", "nope"], ["normal"]),
        (["fit", "digits", "--objective", "nope"], ["sgvb", "wake-sleep", "mcem"]),
        (["fit", "digits", "--optimizer", "nope"], ["adam"]),
        (["fit", "digits", "--variant", "nope"], ["grey", "static", "dynamic"]),
        (["fit", "digits", "--prior-args.width", "3"], ["width"]),
        (["fit", "digits", "--objective-args.num_samples", "0"], ["num_samples=0"]),
        (["fit", "digits", "--latent-dim", "0"], ["latent-dim"]),
        (["fit", "digits", "--lr", "-1"], ["lr"]),
        (["fit", "digits", "--epochs", "0"], ["epochs=0"]),
        (["fit", "digits", "--epochs", "2", "--steps", "2"], ["epochs", "steps"]),
        (["fit", "digits", "--epochs", "many"], ["epochs", "int"]),
        (["fit", "digits", "--batch-size", "0"], ["batch_size=0"]),
        (["fit", "digits", "--device", "abacus"], ["abacus", "cpu"]),
        (["fit", "digits", "--frobnicate", "1"], ["frobnicate"]),
        (["fit", "digits", "--guide", "implicit", "--epochs", "1", "--quiet"], ["no density", "AdversarialVB"]),
        (["fit", "digits", "--prior", "uniform-sphere", "--latent-dim", "4"], ["sphere", "von-mises-fisher"]),
        (["compare", "digits", "--objectives", "nope", "--out", "unused"], ["nope", "sgvb"]),
        (["fit", "digits", "--adaptive-contrast", "--quiet"], ["adaptive_contrast", "sgvb"]),
        (["fit", "digits", "--precision", "half", "--quiet"], ["half", "bfloat16"]),
        (["fit", "digits", "--model", "nope"], ["latent-variable", "hierarchical"]),
        (["fit", "digits", "--model", "conditional", "--guide", "flow"], ["conditional", "flow", "conditional-normal"]),
        (["fit", "digits", "--model", "hierarchical", "--prior", "flow"], ["hierarchical", "flow"]),
        (["fit", "digits", "--label-share", "0.5"], ["label-share", "conditional"]),
        (["fit", "digits", "--model", "conditional", "--label-share", "2"], ["label-share", "2"]),
        (["fit", "digits", "--guide", "normal", "--missing-share", "0.5"], ["missing-share", "masked-normal"]),
        (["fit", "digits", "--guide", "masked-normal", "--missing-share", "1.5"], ["missing-share", "1.5"]),
        (["list", "nope"], ["priors"]),
        (["teleport"], ["fit"]),
    ],
)
def test_bad_words_are_one_clear_line(words, expected, capsys):
    said = _error(capsys, *words)
    assert all(word in said for word in expected)


def test_bad_data_is_one_clear_line(tmp_path, capsys):
    raw = np.random.default_rng(0).integers(0, 256, (50, 16)).astype(np.float32)
    np.save(tmp_path / "raw.npy", raw)
    assert "support" in _error(capsys, "fit", tmp_path / "raw.npy", *SMALL)
    raw[3, 2] = np.nan
    np.save(tmp_path / "nan.npy", raw)
    assert "row 3" in _error(capsys, "fit", tmp_path / "nan.npy", *SMALL)
    np.save(tmp_path / "scalar.npy", np.float32(1.0))
    assert "shape" in _error(capsys, "fit", tmp_path / "scalar.npy", *SMALL)


def test_bad_folders_are_one_clear_line(run_folder, tmp_path, capsys):
    assert "no run folder" in _error(capsys, "evidence", tmp_path)
    assert "num_samples=0" in _error(capsys, "evidence", run_folder, "--samples", "0")
    assert "split" in _error(capsys, "evidence", run_folder, "--split", "tests")
    _error(capsys, "report", tmp_path)
    _error(capsys, "sample", tmp_path / "missing")


def test_a_run_that_blows_up_keeps_what_it_has(tmp_path, capsys):
    words = ["fit", "digits", *SMALL, "--likelihood", "normal", "--likelihood-args.scale", "per-pixel"]
    said = _error(capsys, *words, "--lr", "1e6", "--optimizer", "sgd", "--epochs", "20", "--out", tmp_path / "r")
    assert "step" in said and "site" in said
    assert (tmp_path / "r" / "model.safetensors").exists()


@pytest.mark.parametrize("words", [[], *([verb] for verb in VERBS)])
def test_help_answers_without_torch(words):
    program = (
        "import sys; from aevb.__main__ import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "assert 'torch' not in sys.modules and 'matplotlib' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", program, *words, "--help"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "usage" in done.stdout
