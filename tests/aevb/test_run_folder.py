"""Run folders: whole files or none, nothing through a link that leads elsewhere, and older folders still open."""

import json
import os
import shutil
import stat
from pathlib import Path

import numpy as np
import pytest
from folders import arrays

from aevb.__main__ import main
from aevb.inference import load
from aevb.inference.files import inside, replacing, write_text
from aevb.inference.training.run_files import read_history
from aevb.run_folder import RunFolder

OLD = Path(__file__).parent / "old_run"  # as the first release wrote it, beside the data it was fitted to


@pytest.fixture
def old(tmp_path, monkeypatch):
    folder = shutil.copytree(OLD, tmp_path / "old_run")
    monkeypatch.chdir(folder)  # where its words find data.npz
    return folder


def _error(capsys, *words):
    assert main([str(word) for word in words]) == 2
    said = capsys.readouterr().err
    assert said.startswith("aevb: error: ") and said.count("\n") == 1
    return said


def test_a_folder_of_the_first_release_opens_and_gives_its_numbers(old, capsys):
    run = load(old)
    assert run.settings["samples_seen"] == 40 and run.settings["objective"] == "SGVB(estimator='B', num_samples=1)"
    assert list(run.history["bound"]) == [-2.4629321098327637, -2.4910354614257812]
    (before,) = RunFolder(old).records()
    assert main(["evidence", str(old), "--method", "elbo", "--samples", "10"]) == 0
    (after,) = RunFolder(old).records()  # in the place of the one of that name
    assert "khat_threshold" in after and "khat_threshold" not in before
    for name in ("mean", "standard_error"):  # of the same draws
        assert after[name] == pytest.approx(before[name], rel=1e-5)
    for words in (["sample", old], ["use", old, "infer"], ["report", old]):
        assert main([str(word) for word in words]) == 0
    assert "written: " in capsys.readouterr().out
    assert arrays(old / "samples.npz")["draws"].shape == (100, 3) and (old / "uses" / "infer.csv").is_file()


OUTWARD = {  # what is a link out of the folder, and a command that would write or read through it
    "samples.npz": ["sample"],
    "uses": ["use", "infer"],
    "uses/infer.npz": ["use", "infer"],
    "evidence.json": ["evidence", "--samples", "5"],
    "doctor.json": ["evidence", "--samples", "5"],
    "figures": ["evidence", "--samples", "5"],
    "figures/khat.png": ["evidence", "--samples", "5"],
    "config.json": ["sample"],
    "model.safetensors": ["sample"],
    "history.csv": ["sample"],
}


@pytest.mark.parametrize("name", OUTWARD)
def test_no_command_goes_through_a_link_out_of_the_folder(name, old, tmp_path, capsys):
    link, away = old / name, tmp_path / "away"
    away.mkdir()
    target = away if "." not in name else away / link.name
    if link.is_file():
        link.rename(target)
    elif target != away:
        target.write_bytes(b"kept")
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(target)
    before = {path.name: path.read_bytes() for path in away.iterdir()}
    verb, *rest = OUTWARD[name]
    said = _error(capsys, verb, old, *rest)
    assert "is a link out of" in said and str(link) in said
    assert {path.name: path.read_bytes() for path in away.iterdir()} == before


def test_a_fit_does_not_write_through_a_link(old, tmp_path, capsys):
    (old / "config.json").unlink()
    (old / "config.json").symlink_to(tmp_path / "away.json")
    words = ["fit", "data.npz", "--latent-dim", "1", "--hidden", "2", "--steps", "1", "--quiet", "--out", old]
    assert "config.json is a link out of" in _error(capsys, *words)
    assert not (tmp_path / "away.json").exists()


def test_a_link_within_the_folder_is_replaced_and_one_to_the_folder_is_followed(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    (home / "a").write_text("kept")
    (home / "b").symlink_to(home / "a")
    (tmp_path / "latest").symlink_to(home)
    write_text(inside(tmp_path / "latest", "b"), "new")
    assert (home / "a").read_text() == "kept" and (home / "b").read_text() == "new"
    for name in ("../other", "/etc/passwd"):
        with pytest.raises(ValueError, match="is a link out of"):
            inside(home, name)


def test_a_file_is_whole_or_as_it_was(tmp_path, monkeypatch):
    path, done = tmp_path / "table.csv", []
    write_text(path, "old")
    with pytest.raises(KeyError), replacing(path) as unfinished:
        unfinished.write_text("ne")
        assert path.read_text() == "old" and unfinished.suffix == ".csv"
        raise KeyError
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["table.csv"]
    real = {name: getattr(os, name) for name in ("fsync", "replace")}
    for name, do in real.items():
        monkeypatch.setattr(os, name, lambda *a, name=name, do=do: (done.append(name), do(*a))[1])
    write_text(path, "new")
    assert path.read_text() == "new" and done == ["fsync", "replace"]


def test_files_are_as_open_as_the_process_lets_them_be(old):
    mask = os.umask(0o027)
    try:
        load(old).save(old)
    finally:
        os.umask(mask)
    modes = {stat.S_IMODE((old / name).stat().st_mode) for name in ("config.json", "history.csv", "model.safetensors")}
    assert modes == {0o640}


BLOCKS = {
    "an objective": {"id": 9, "class": "aevb.inference.objectives.sgvb:SGVB", "args": {}},
    "a prior": {"id": 9, "class": "aevb.models.priors.standard_normal:StandardNormal", "args": {"latent_dim": 1}},
    "a likelihood": {"id": 9, "class": "aevb.models.likelihoods.bernoulli:Bernoulli", "args": {}},
}


@pytest.mark.parametrize("at", [0, 1], ids=["model", "guide"])
@pytest.mark.parametrize("name", BLOCKS)
def test_what_is_no_program_is_told_in_a_line(name, at, old, capsys):
    config = json.loads((old / "config.json").read_text())
    config["pair"][at] = BLOCKS[name]
    (old / "config.json").write_text(json.dumps(config))
    said = _error(capsys, "sample", old)
    assert "config.json describes no pair that runs on its example" in said
    with pytest.raises(ValueError, match="describes no pair"):
        load(old)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("history.csv", "epoch,bound\n1,many\n", "bound='many'"),
        ("history.csv", "epoch,bound\n1,2,3\n", "beyond the last column"),
        ("history.csv", "epoch,bound\n1\n", "bound=None"),
        ("evidence.json", '{"method": "elbo"}', "list of estimates"),
        ("evidence.json", '[{"method": "elbo"}]', "whose split is 'None'"),
        ("doctor.json", '[{"name": "a"}]', "list of findings"),
        ("doctor.json", "[1]", "list of findings"),
        ("verdict.json", "[1]", "list of sentences"),
        ("config.json", '{"command": [1]}', "the command in"),
    ],
)
def test_a_file_that_holds_something_else_is_named(name, text, said, old, capsys):
    (old / name).write_text(text)
    told = _error(capsys, "report", old)
    assert f"{name}" in told and said in told


def test_a_run_opens_without_its_history_and_an_empty_cell_is_no_number(old):
    (old / "history.csv").write_text("epoch,bound\n1,\n")
    assert np.isnan(read_history(old)[0]["bound"])
    (old / "history.csv").unlink()
    assert load(old).rows == ()
