"""The page: everything in it, nothing outside it, and a clear word where there is nothing to show."""

import json
from html.parser import HTMLParser

import pytest

from aevb.report import write_report

HEADER = (
    "objective,seed,test_bound,bound_error,test_log_px,standard_error,khat_over_threshold,khat_threshold,seconds,"
    "samples_seen,guide"
)


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
    for expected in ("-20.00 ± 0.50", "25.0 % above 0.70", "beware", "-20.250", "data:image/png;base64", "seed 3"):
        assert expected in page
    assert "<digits>" not in page and "&lt;digits&gt;" in page
    assert "http://" not in page and "https://" not in page


def test_a_comparison_page_holds_its_runs(tmp_path):
    _run_folder(tmp_path / "sgvb-0")
    (tmp_path / "table.csv").write_text(f"{HEADER}\nsgvb,0,-25.0,0.1,-24.5,0.2,0.125,0.6,3.25,1000,own\n")
    page = write_report(tmp_path).read_text()
    for expected in ("-24.50 ± 0.20", "12.5 % above 0.60", "1,000", "sgvb-0", "beware"):
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


class _Page(HTMLParser):
    """What a reader gets: the tags, the pictures and links, the words; every tag closes in its turn."""

    def __init__(self, folder):
        super().__init__()
        self.open, self.tags, self.links, self.words = [], [], [], ""
        self.feed(write_report(folder).read_text(encoding="utf-8"))
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words += data


def _edit_record(folder, **changes):
    path = folder / "evidence.json"
    path.write_text(json.dumps([record | changes for record in json.loads(path.read_text())]))


def test_the_page_is_well_formed_and_carries_its_pictures(tmp_path):
    page = _Page(_run_folder(tmp_path / "run"))
    assert len(page.links) == 1 and page.links[0].startswith("data:image/png;base64,")
    assert page.tags.count("table") == 2


def test_a_config_alone_is_enough(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    assert "table" not in _Page(tmp_path).tags


def test_words_are_escaped_wherever_they_come_from(tmp_path):
    folder, evil = _run_folder(tmp_path / "run"), "<script>alert('&')</script>"
    (folder / "config.json").write_text(json.dumps({"objective": evil}))
    (folder / "verdict.json").write_text(json.dumps([evil]))
    _edit_record(folder, method=evil, notes=[evil])
    page = _Page(folder)
    assert "script" not in page.tags and page.words.count(evil) == 5  # the config is shown twice


def test_a_verdict_may_be_one_sentence(tmp_path):
    folder = _run_folder(tmp_path / "run")
    (folder / "verdict.json").write_text(json.dumps("Trust it."))
    assert "Trust it." in _Page(folder).words


def test_an_exact_value_has_no_error(tmp_path):
    folder = _run_folder(tmp_path / "run")
    _edit_record(folder, mean=-20.75, standard_error=None)
    assert "-20.75" in _Page(folder).words and "-20.75 ±" not in _Page(folder).words


def test_a_comparison_stands_a_run_that_came_to_nothing(tmp_path):
    (tmp_path / "table.csv").write_text(f"{HEADER}\navb,0,,,,,,,3.25,1000,own\n")
    assert "nan ± nan" in _Page(tmp_path).words


def test_a_reproduction_shows_the_pictures_beside_its_table(tmp_path):
    (tmp_path / "table.csv").write_text("quantity,published,ours,error,budget\nVAE,-1.568,-1.55,0.00001,quick\n")
    (tmp_path / "latents.png").write_bytes(b"\x89PNG not a real picture")
    page = _Page(tmp_path)
    assert "a paper published" in page.words and "several algorithms" not in page.words
    assert "1.00e-05" in page.words and len(page.links) == 1
