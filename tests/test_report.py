"""The page: everything in it, nothing outside it, and a clear word where there is nothing to show."""

import json

import pytest

from aevb.report import write_report


def _run_folder(folder):
    (folder / "figures").mkdir(parents=True)
    (folder / "figures" / "curves.png").write_bytes(b"\x89PNG not a real picture")
    config = {"objective": "SGVB()", "command": {"data": "<digits>"}, "settings": {"seed": 3, "samples_seen": 1000}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "history.csv").write_text("epoch,bound\n1,-30.5\n2,-20.25\n")
    record = {"method": "importance", "split": "test", "direction": "lower bound", "mean": -20.0}
    record |= {"standard_error": 0.5, "num_points": 10, "num_samples": 7, "khat_over_0.7": 0.25, "notes": ["beware"]}
    (folder / "evidence.json").write_text(json.dumps([record]))
    return folder


def test_a_run_page_shows_its_numbers_and_escapes_its_words(tmp_path):
    page = write_report(_run_folder(tmp_path / "run")).read_text()
    for expected in ("-20.00 ± 0.50", "25.0 %", "beware", "-20.250", "data:image/png;base64", "seed 3"):
        assert expected in page
    assert "<digits>" not in page and "&lt;digits&gt;" in page
    assert "http://" not in page and "https://" not in page


def test_a_comparison_page_holds_its_runs(tmp_path):
    _run_folder(tmp_path / "sgvb-0")
    header = "objective,seed,test_bound,bound_error,test_log_px,standard_error,khat_over_0.7,seconds,samples_seen,guide"
    (tmp_path / "table.csv").write_text(f"{header}\nsgvb,0,-25.0,0.1,-24.5,0.2,,3.25,1000,own\n")
    page = write_report(tmp_path).read_text()
    for expected in ("-24.50 ± 0.20", "1,000", "sgvb-0", "beware"):
        assert expected in page


def test_verdict_sentences_lead(tmp_path):
    folder = _run_folder(tmp_path / "run")
    (folder / "verdict.json").write_text(json.dumps(["Trust the quadrature."]))
    page = write_report(folder).read_text()
    assert page.index("Trust the quadrature.") < page.index("importance")


def test_a_folder_that_is_neither_is_named(tmp_path):
    with pytest.raises(ValueError, match="neither config.json nor table.csv"):
        write_report(tmp_path)


def test_a_broken_config_is_named(tmp_path):
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json is not JSON"):
        write_report(tmp_path)
