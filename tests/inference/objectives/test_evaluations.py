"""What a sample costs: gradients are counted beside samples, as the paper's Figure 3 counts them."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

from aevb import guides
from aevb.__main__ import main
from aevb.inference import EM, IWAE, MAP, MCEM, SGVB, AdversarialVB, WakeSleep, fit
from aevb.inference.objectives import Only, evaluations_per_visit
from aevb.models import FactorAnalysis, LatentVariableModel, likelihoods, networks, priors
from aevb.records import add_records, refuse_unlike
from aevb.run_folder import RunFolder

X = torch.rand(20, 4, generator=torch.Generator().manual_seed(0)).round()


def blocks():
    model = LatentVariableModel(priors.StandardNormal(1), networks.MLP(1, 4, hidden=[3]), likelihoods.Bernoulli())
    return model, guides.Normal(1, networks.MLP(4, hidden=[3]))


class _Counted(SGVB):
    evaluations_per_visit = 3


@pytest.mark.parametrize(
    ("objective", "count"),
    [
        (SGVB(), 1),
        (IWAE(num_samples=5), 1),
        (WakeSleep(), 1),
        (MCEM(), 15),
        (MCEM(num_leapfrog=3, num_updates=2), 5),
        (MAP(MCEM(num_leapfrog=3)), 8),
        (Only(MCEM(), ("model",)), 15),
        (AdversarialVB(critic_steps=4), 5),
        (EM(num_updates=2), 2),
        (_Counted(), 3),
    ],
)
def test_an_objective_declares_its_gradients(objective, count):
    assert evaluations_per_visit(objective) == count


def test_the_history_has_both_axes_and_they_are_what_was_computed():
    model, guide = blocks()
    passes = []
    model.decoder.register_forward_pre_hook(lambda *_: passes.append(torch.is_grad_enabled()))
    objective = MCEM(num_leapfrog=3, num_updates=2)
    run = fit(model, None, X, objective=objective, steps=8, batch_size=5, compile="never", progress=False)
    counted = sum(passes) / 8 - 1  # where a trajectory starts is not counted
    assert counted == evaluations_per_visit(objective) == 5
    assert list(run.history["samples_seen"]) == [20, 40] and list(run.history["gradient_evaluations"]) == [100, 200]
    assert run.settings["gradient_evaluations"] == 200
    mine = fit(*blocks(), X, steps=8, batch_size=5, progress=False).history
    assert list(mine["gradient_evaluations"]) == list(mine["samples_seen"]) == [20, 40]
    closed = fit(
        FactorAnalysis(4, 1), None, X + torch.rand(20, 4), objective=EM(), steps=2, progress=False, batch_size=20
    )
    assert closed.settings["gradient_evaluations"] == 0


def test_a_comparison_names_both_axes_its_errors_and_its_measure(tmp_path, capsys):
    rows = np.random.default_rng(0).integers(0, 2, size=(60, 4)).astype(np.float32)
    np.save(tmp_path / "x.npy", rows)
    words = ["compare", str(tmp_path / "x.npy"), "--latent-dim", "1", "--hidden", "3", "--objectives", "sgvb", "mcem"]
    rest = [
        "--steps",
        "8",
        "--batch-size",
        "6",
        "--samples",
        "20",
        "--jobs",
        "1",
        "--quiet",
        "--out",
        str(tmp_path / "c"),
    ]
    assert main([*words, *rest]) == 0
    said = capsys.readouterr().out
    assert "gradients" in said and "unnormalised" not in said
    table = pd.read_csv(tmp_path / "c" / "table.csv").set_index("objective")
    assert list(table["samples_seen"]) == [48, 48] and list(table["gradient_evaluations"]) == [48, 720]
    assert set(table["measure"]) == {"counting"}
    history = pd.read_csv(tmp_path / "c" / "mcem-0" / "history.csv")
    assert list(history["gradient_evaluations"]) == list(15 * history["samples_seen"])
    assert (history["log_px_error"].dropna() > 0).all() and (history["validation_log_px_error"].dropna() > 0).all()
    figures = {path.name for path in (tmp_path / "c" / "figures").iterdir()}
    assert {"log_px.png", "log_px_by_samples.png", "bound.png", "bound_by_samples.png"} <= figures
    page = (tmp_path / "c" / "report.html").read_text()
    assert "gradient evaluations" in page and "720" in page and "counting" in page


def test_a_comparison_is_made_at_one_number_of_gradients(tmp_path, capsys):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).integers(0, 2, size=(60, 4)).astype(np.float32))
    words = ["compare", str(tmp_path / "x.npy"), "--latent-dim", "1", "--hidden", "3", "--objectives", "sgvb", "mcem"]
    rest = ["--batch-size", "6", "--samples", "20", "--track", "none", "--jobs", "1", "--quiet"]
    folder = tmp_path / "c"
    assert main([*words, *rest, "--gradient-evaluations", "180", "--out", str(folder)]) == 0
    table = pd.read_csv(folder / "table.csv")
    assert list(table["gradient_evaluations"]) == [180, 180] and list(table["samples_seen"]) == [180, 12]
    capsys.readouterr()
    assert main([*words, *rest, "--gradient-evaluations", "180", "--steps", "3", "--out", str(folder)]) == 2
    assert "stand without ['steps']" in capsys.readouterr().err


def test_records_of_unlike_numbers_are_refused_by_run_and_site(tmp_path):
    observed = {"site": "x", "measure": "counting", "rows": "ab", "low": 0.0, "high": 1.0, "share": 1.0}
    provenance = {"observed": [observed], "given": "", "split": "test"}
    record = {"method": "elbo", "split": "test", "direction": "lower bound", "mean": -1.0, "num_samples": 1}
    record |= {"num_points": 3, "provenance": provenance}
    density = json.loads(json.dumps(record))
    density["provenance"]["observed"][0]["measure"] = "Lebesgue"
    add_records(RunFolder(tmp_path), [record])
    refuse_unlike({"a": RunFolder(tmp_path).records(), "b": [record], "c": [{"method": "elbo", "split": "test"}]})
    refuse_unlike({"a": [record], "b": [density | {"method": "importance"}]})  # which nobody sets beside each other
    with pytest.raises(
        ValueError, match="a and b cannot be compared by elbo: .*'counting' at 'x', b against 'Lebesgue'"
    ):
        refuse_unlike({"a": [record], "b": [density]})
