"""Flags: a block's own options are shown and typed, files of options are read and written, a wrong one is named."""

import inspect
from contextlib import redirect_stdout
from dataclasses import fields
from io import StringIO

import numpy as np
import pytest
import torch

from aevb import comparison, options, registry
from aevb.__main__ import main
from aevb.build import Recipe, build_pair
from aevb.commands import fit_command
from aevb.commands.words import checked_recipe, plain
from aevb.data import Dataset
from aevb.inference import fit
from aevb.inference.training.settings import Training

BLOCKS = [
    (flag, kind, name) for flag, kinds in options.FLAGS.items() for kind in kinds for name in registry.KINDS[kind]
]


def _error(capsys, *words):
    assert main([str(word) for word in words]) == 2
    said = capsys.readouterr().err
    assert said.startswith("aevb: error: ") and said.count("\n") == 1
    return said


def _printed(*words):
    """What a command prints that leaves as soon as it has."""
    with redirect_stdout(StringIO()) as page, pytest.raises(SystemExit) as left:
        main([str(word) for word in words])
    assert left.value.code in (0, None)
    return page.getvalue()


def test_a_block_shows_its_own_options_alone():
    page = _printed("fit", "--prior.help", "vamp-prior")
    assert page.startswith("The variational mixture of posteriors")
    assert "--prior-args.num_pseudo_inputs" in page and "Number of pseudo-inputs C. (type: int, default: 500)" in page
    assert "data_dim" not in page and "latent_dim" not in page  # which the data and another flag give
    assert "no options of its own" in _printed("fit", "digits", "--likelihood.help", "bernoulli")
    assert "channels from the image inwards" in _printed("compare", "--network.help", "conv")
    assert "--method-args.num_chains" in _printed("evidence", "--method.help", "ais")


@pytest.mark.parametrize(("flag", "kind", "name"), BLOCKS, ids=lambda part: str(part))
def test_every_option_is_told_and_takes_its_own_default(flag, kind, name):
    page, block = options.describe(flag, name), registry.find(kind, name)
    for option, parameter in inspect.signature(block).parameters.items():
        if option in options.GIVEN[kind] or option == "critic":  # the rest of a pair, and what no word can name
            continue
        assert f"--{flag}-args.{option} " in page or f"--{flag}-args.{option}," in page
        if parameter.default is not parameter.empty:
            value = options.typed(flag, name, {option: parameter.default})[option]
            assert np.array_equal(np.array(value), np.array(parameter.default)), option


def test_what_blocks_are_given_is_what_the_command_leaves_out(monkeypatch):
    given = {}

    def spy(kind, name, mine, said):
        given.setdefault(kind, set()).update(mine)
        return real(kind, name, mine, said)

    real = build_pair.__globals__["build"]
    monkeypatch.setitem(build_pair.__globals__, "build", spy)
    parts = [torch.tensor([[0.0, 1.0, 1.0, 0.0]] * 5)] * 3
    data = Dataset("toy", None, *parts, image_shape=(1, 2, 2))
    for guide in ("normal", "semi-amortized"):
        build_pair(Recipe(latent_dim=1, hidden=(2,), guide=guide), data)
    for kind, names in given.items():  # a mixture's components are as many as there are classes, or as one says
        assert names - {"num_components"} <= options.GIVEN[kind], kind
    assert set().union(*given.values()) - {"num_components"} == set().union(*options.GIVEN.values())


WRONG = [
    ("prior", "student-t", {"df": "abc"}, "--prior-args.df: expected float, got 'abc'"),
    ("prior", "student-t", {"dff": 1}, "--prior-args.dff: student-t has no option dff; it has df"),
    ("likelihood", "normal", {"scale": "lerned"}, "expected float or 'learned' or 'per-pixel', got 'lerned'"),
    ("guide", "flow", {"hidden_features": "wide"}, "--guide-args.hidden_features: expected [int, ...], got 'wide'"),
    ("guide", "flow", {"num_transforms": [1]}, "--guide-args.num_transforms: expected int, got '[1]'"),
    ("objective", "avb", {"critic": {"class_path": "os.system"}}, "avb has no option critic"),
    ("method", "ais", {"num_chains": "few"}, "expected int, got 'few'. See: aevb evidence --method.help ais"),
    ("method", "all", {"num_samples": "few"}, "--method-args.num_samples: expected int or null, got 'few'"),
    ("method", "all", {"fish": 3}, "all has no option fish; it has num_samples, num_temperatures, num_chains"),
    ("prior", "laplac", {}, "unknown prior 'laplac'; known: standard-normal"),
]


@pytest.mark.parametrize(("flag", "name", "said", "expected"), WRONG, ids=lambda part: str(part)[:20])
def test_a_wrong_option_names_the_flag_and_the_page_that_helps(flag, name, said, expected):
    with pytest.raises(ValueError) as caught:
        options.typed(flag, name, said)
    assert expected in str(caught.value)


def test_a_blocks_of_ones_own_is_read_by_its_types_or_as_it_is(monkeypatch):
    class Own:
        """A block."""

        def __init__(self, latent_dim: int, width: int = 3, depth=2, **rest: "Unknown") -> None:  # noqa: F821
            pass

    monkeypatch.setitem(registry.KINDS["priors"], "own", Own)
    assert options.typed("prior", "own", {"width": "4", "depth": "[1, 2]"}) == {"width": 4, "depth": [1, 2]}
    assert "--prior-args.depth" in options.describe("prior", "own") and "rest" not in options.describe("prior", "own")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--latent-dimm", "3"], "unrecognized arguments: --latent-dimm 3; did you mean --latent-dim?"),
        (["--epochs", "many"], "--epochs: expected int, got 'many'"),
        (["--hidden", "3", "b"], "--hidden element 2: expected int, got 'b'"),
        (["--config", "nope.yaml"], "--config: File does not exist"),
        (["--latent", "3"], "did you mean --latent-dim?"),
        (["--frobnicate"], "aevb fit --help shows what there is"),
        (["--prior", "student-t", "--prior-args.df", "abc"], "--prior-args.df: expected float, got 'abc'"),
        (["--objective-args.num_sample", "3"], "sgvb has no option num_sample; it has estimator, num_samples"),
        (["--network-args.readouts", "1"], "mlp has no option readouts"),
        (["--batch-size", "0"], "batch_size=0"),
        (["--compile", "ful"], "one of auto, never, graph, full"),
    ],
    ids=lambda part: str(part)[:30],
)
def test_words_are_checked_before_anything_is_read(words, expected, capsys):
    assert expected in _error(capsys, "fit", "/nonexistent/x.npy", *words)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--track", "nope"], "unknown evidence 'nope'"),
        (["--objectives", "sgvb", "nope"], "unknown objective 'nope'"),
        (["--guides.sgvb", "nope"], "unknown guide 'nope'"),
        (
            ["--gradient-evaluations", "9", "--steps", "3"],
            "gradient_evaluations=9 must be at least 1",
        ),
        (["--evidence-args.fish", "3"], "importance has no option fish"),
        (["--precision", "half"], "precision='half' is unknown"),
    ],
    ids=lambda part: str(part)[:30],
)
def test_a_comparison_is_checked_before_anything_is_read(words, expected, capsys):
    assert expected in _error(capsys, "compare", "/nonexistent/x.npy", *words, "--out", "unused")


def test_a_wrong_name_in_a_file_of_options_is_named(tmp_path, capsys):
    for text, expected in (("latent_dimm: 3", "did you mean --latent-dim?"), ("steps: few", "--steps: expected int")):
        (tmp_path / "run.yaml").write_text(text)
        assert expected in _error(capsys, "fit", "digits", "--config", tmp_path / "run.yaml")


def test_a_printed_file_of_options_asks_for_the_same_run(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(fit_command, "run", lambda args: asked.append(args) or 0)
    words = [
        "fit",
        "digits",
        "--latent-dim",
        "1",
        "--hidden",
        "2",
        "3",
        "--steps",
        "3",
        "--quiet",
        "--prior",
        "student-t",
    ]
    words += ["--likelihood", "normal", "--likelihood-args.scale", "learned", "--prior-args.df", "4"]
    (tmp_path / "run.yaml").write_text(_printed(*words, "--print_config"))
    assert main(words) == main(["fit", "--config", str(tmp_path / "run.yaml")]) == 0
    first, again = (checked_recipe(args) for args in asked)
    assert first == again and first.prior_args == {"df": 4.0} and first.hidden == (2, 3)
    assert {name: value for name, value in plain(asked[0]).items() if "args" not in name} == {
        name: value for name, value in plain(asked[1]).items() if "args" not in name
    }


def test_settings_stand_once():
    """The signature a reader sees, the class that is passed on and the command's flags say one thing."""
    settings = {field.name: field.default for field in fields(Training)}
    said = {name: p.default for name, p in inspect.signature(fit).parameters.items()}
    assert {name: said[name] for name in settings} == settings
    assert said.keys() - settings.keys() == {"model", "guide", "data", "objective", "validation", "observers"}
    flags = fit_command.parser().get_defaults()
    shared = settings.keys() - {"optimizer", "progress"}  # which the command names, and calls quiet
    assert {name: flags[name] for name in shared} == {name: settings[name] for name in shared}


def test_a_comparison_heeds_every_setting_of_training(monkeypatch, tmp_path, capsys):
    seen = []

    def caught(plans, *_, **__):
        seen.extend(plans)
        raise ValueError("seen")

    monkeypatch.setattr(comparison, "compare", caught)
    words = ["--clip-norm", "5", "--compile", "never", "--device", "cpu", "--precision", "bfloat16", "--steps", "7"]
    assert "seen" in _error(capsys, "compare", "digits", *words, "--seeds", "2", "--seed", "3", "--out", tmp_path / "c")
    expected = {
        "clip_norm": 5.0,
        "compile": "never",
        "device": "cpu",
        "precision": "bfloat16",
        "steps": 7,
        "epochs": None,
    }
    for plan in seen:
        assert {name: getattr(plan.training, name) for name in expected} == expected
    assert {plan.name for plan in seen} == {f"{o}-{s}" for o in ("sgvb", "wake-sleep", "mcem") for s in (3, 4)}
