"""evidence.json: what takes an older estimate's place, and one threshold of k-hat wherever it is told."""

import pytest
import torch

from aevb.figures import evidence_forest
from aevb.inference.evidence import Evidence
from aevb.publish import describe_evidence
from aevb.records import add_records, khat_words
from aevb.run_folder import RunFolder


def _weighed(num_samples=1000):
    khat = torch.tensor([0.1, 0.5, 0.68, torch.nan])  # 0.68 lies between min(1 - 1 / log10 1000, 0.7) and 0.7
    return Evidence("importance", "lower bound", torch.zeros(4), num_samples, ess=torch.ones(4), khat=khat)


def test_every_place_tells_one_threshold():
    found = _weighed()
    record = found.record("test")
    assert found.khat_share == record["khat_over_threshold"] == 0.5 and found.doubtful.tolist() == [3, 2]
    assert record["khat_threshold"] == pytest.approx(2 / 3)
    assert khat_words(record) == "50.0 % above 0.67"
    assert "k-hat above 0.67 on 2 of them" in describe_evidence(found, "test")
    assert _weighed(5000).khat_share == 0.25 and "above 0.70 on 1 of them" in describe_evidence(_weighed(5000), "test")


def test_older_files_are_read_by_the_threshold_they_were_written_with():
    assert _weighed().record("test")["khat_over_0.7"] == 0.25  # the name is kept to its word
    assert khat_words({"khat_over_0.7": 0.25}) == "25.0 % above 0.70"
    assert khat_words({"khat_over_0.7": None}) == khat_words({}) == ""


def test_only_the_same_points_take_an_older_rows_place(tmp_path):
    few, many = (_weighed().record("test") | {"method": "elbo", "mean": -1.0, "num_points": n} for n in (100, 200))
    folder = RunFolder(tmp_path)
    add_records(folder, [few])
    add_records(folder, [many])
    add_records(folder, [few | {"mean": -2.0}])
    kept = {r["num_points"]: r["mean"] for r in folder.records()}
    assert kept == {100: -2.0, 200: -1.0}
    labels = [label.get_text() for label in evidence_forest(folder.records()).axes[0].get_yticklabels()]
    assert labels == ["elbo (200 datapoints)", "elbo (100 datapoints)"]
