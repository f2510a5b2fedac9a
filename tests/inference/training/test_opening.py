"""Opening a run folder runs nothing but this package's blocks and what is trusted, whatever the folder names."""

import json
import pickle
import sys

import numpy as np
import pytest
import torch

from aevb import guides
from aevb.__main__ import main
from aevb.inference import Run, fit, load
from aevb.inference.pairs.pair import Pair
from aevb.inference.training.description import DescriptionError, describe, rebuild
from aevb.models import LatentVariableModel, likelihoods, networks, priors
from aevb.report import write_report

X = torch.rand(20, 6, generator=torch.Generator().manual_seed(0)).round()


class _Payload:
    """A pickle that makes a file when it is read."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    guide = guides.Normal(2, networks.MLP(6, hidden=[4]))
    model = LatentVariableModel(priors.StandardNormal(2), networks.MLP(2, 6, hidden=[4]), likelihoods.Bernoulli())
    folder = tmp_path_factory.mktemp("good")
    fit(model, guide, X, steps=1, progress=False).save(folder, extra={"command": {"data": "digits"}})
    return folder


@pytest.fixture
def folder(good, tmp_path, monkeypatch):
    """A copy of a good folder, with a module, a script and a pickle beside it that make a file when they are run."""
    run = tmp_path / "run"
    run.mkdir()
    for path in good.iterdir():
        (run / path.name).write_bytes(path.read_bytes())
    touch = f"open({str(tmp_path / 'ran')!r}, 'w').close()\n"
    (tmp_path / "beside.py").write_text(f"import os\n{touch}def model(x):\n    return x\n")
    (tmp_path / "beside.pickle").write_bytes(pickle.dumps(_Payload(tmp_path / "ran")))
    (tmp_path / "kept").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return run


def _call(path, /, **arguments):
    return {"id": 7, "class": path, "args": arguments}


def _in_a_prior(payload):
    return _call("aevb.models.priors.standard_normal:StandardNormal", latent_dim=payload)


# A payload: what stands in the place of the model, and what the refusal names.
REPORTED = {
    "a process": (_call("subprocess:Popen", args=["touch", "ran"]), "subprocess:Popen"),
    "a shell": (_call("os:system", command="touch ran"), "os:system"),
    "a shell as a dimension": (_in_a_prior(_call("os:system", command="touch ran")), "os:system"),
    "a module beside the folder": ({"function": "beside:model"}, "beside:model"),
    "a folder removed": (_call("shutil:rmtree", path="kept"), "shutil:rmtree"),
}
FURTHER = {
    "an import within a module of ours": (
        _call("aevb.inference.training.checkpoint:os.system", command="touch ran"),
        "aevb.inference.training.checkpoint:os.system",
    ),
    "a loader within a module of ours": (
        _call("aevb.data.files:np.load", file="beside.pickle", allow_pickle=True),
        "np.load",
    ),
    "the globals of a block": (
        _call("aevb.models.likelihoods.bernoulli:Bernoulli.__init__.__globals__"),
        "__globals__",
    ),
    "a command of ours": ({"function": "aevb.__main__:main"}, "aevb.__main__:main"),
    "a class of ours that is no block": (_call("aevb.inference.training.run:Run"), "aevb.inference.training.run:Run"),
    "an import by name": (_call("builtins:__import__", name="beside"), "builtins:__import__"),
    "an import by importlib": (_call("importlib:import_module", name="beside"), "importlib:import_module"),
    "a script": (_call("runpy:run_path", path_name="beside.py"), "runpy:run_path"),
    "a pickle by torch": (_call("torch.serialization:load", f="beside.pickle", weights_only=False), "torch"),
    "a pickle by pandas": (_call("pandas:read_pickle", filepath_or_buffer="beside.pickle"), "pandas:read_pickle"),
    "a shared library": (_call("ctypes:CDLL", name="beside.so"), "ctypes:CDLL"),
    "a module that would lie in our package": (_call("aevb.beside:Model"), "aevb.beside:Model"),
    "a function in the place of a class": (_call("aevb.models.eight_schools:eight_schools"), "eight_schools"),
    "a class in the place of a function": ({"function": "aevb.models.likelihoods.bernoulli:Bernoulli"}, "Bernoulli"),
    "a payload deep in lists": (_in_a_prior([[{"a": 1}], [_call("os:system", command="touch ran")]]), "'a'"),
    "a method of a word": ({"method": "format", "of": "{0.__class__}"}, "format"),
    "a method that every module has": ({"method": "load_state_dict", "of": _in_a_prior(2)}, "load_state_dict"),
    "a method in underscores": ({"method": "__setattr__", "of": _in_a_prior(2)}, "__setattr__"),
    "a method of a shell": ({"method": "__call__", "of": {"function": "os:system"}}, "os:system"),
    "two descriptions in one": ({"function": "os:system", "ref": 0}, "'function'"),
    "a path that is a list": (_call(["os", "system"]), "'os'"),
    "arguments in a row": ({"id": 0, "class": "aevb.models.likelihoods.bernoulli:Bernoulli", "args": [1]}, "no names"),
    "a block that is not there": ({"ref": [3]}, "[3]"),
    "control characters": (_call("os:\x1b[2Jsystem\nfine"), r"os:\x1b[2Jsystem\nfine"),
}
PAYLOADS = REPORTED | FURTHER


def _plant(folder, model):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"pair": [model, config["pair"][1]]}))


def _nothing_ran(folder):
    assert not (folder.parent / "ran").exists() and (folder.parent / "kept").is_dir()
    assert "beside" not in sys.modules


@pytest.mark.parametrize("name", PAYLOADS)
def test_a_payload_is_refused_by_its_name_and_nothing_runs(folder, name):
    payload, named = PAYLOADS[name]
    _plant(folder, payload)
    with pytest.raises(ValueError, match="is not opened") as caught:
        load(folder)
    _nothing_ran(folder)
    assert named in str(caught.value) and "\n" not in str(caught.value) and "\x1b" not in str(caught.value)


@pytest.mark.parametrize("words", [["sample"], ["use", "infer"], ["evidence"]], ids=lambda words: words[0])
@pytest.mark.parametrize("name", REPORTED)
def test_no_command_runs_a_payload(folder, name, words, capsys):
    payload, named = REPORTED[name]
    _plant(folder, payload)
    assert main([words[0], str(folder), *words[1:]]) == 2
    said = capsys.readouterr().err
    assert said.startswith("aevb: error: ") and said.count("\n") == 1 and named in said
    _nothing_ran(folder)
    assert main(["report", str(folder)]) == 0  # a page shows the words and follows none
    _nothing_ran(folder)


def test_a_payload_nested_without_end_is_one_sentence(folder):
    for depth in (400, 100_000):
        nested = "[" * depth + "]" * depth
        (folder / "config.json").write_text(f'{{"pair": {nested}}}')
        with pytest.raises(ValueError, match="nested too deeply|is not JSON|describes no pair"):
            load(folder)
    for text in ("[]", '"pair"', '{"pair": {"ref": 0}}', '{"pair": [1, 2]}', '{"pair": [null]}', '{"settings": [1]}'):
        (folder / "config.json").write_text(text)
        with pytest.raises(ValueError, match="an object|describes no pair|is not opened"):
            load(folder)


def test_tags_in_the_words_of_a_run_build_nothing(folder, capsys):
    config = json.loads((folder / "config.json").read_text())
    words = {name: {} for name in ("prior_args", "likelihood_args", "guide_args", "network_args", "model_args")}
    words |= {"data": "digits", "latent_dim": 2, "prior": "student-t", "likelihood": "bernoulli", "guide": "normal"}
    words |= {"network": "mlp", "hidden": [4], "activation": "tanh", "init": "default"}
    words["prior_args"] = {"df": "!!python/object/apply:os.system ['touch ran']"}
    (folder / "config.json").write_text(json.dumps(config | {"command": words}))
    assert main(["sample", str(folder)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "df" in said and "python/object/apply" in said
    _nothing_ran(folder)


@pytest.mark.parametrize("name", ["evil.npy", "evil.npz"])
def test_a_pickle_named_as_data_is_not_unpickled(folder, name, capsys):
    bomb = np.array([_Payload(folder.parent / "ran")], dtype=object)
    (np.save if name.endswith("npy") else np.savez)(folder.parent / name, bomb, allow_pickle=True)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"command": {"data": name}}))
    assert main(["evidence", str(folder)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    _nothing_ran(folder)


def test_a_pickle_in_the_place_of_parameters_or_of_a_checkpoint_is_not_unpickled(folder):
    torch.save(_Payload(folder.parent / "ran"), folder / "model.safetensors")
    with pytest.raises(ValueError, match="model.safetensors cannot be read"):
        load(folder)
    checkpoint = folder / "run.ckpt"
    model = LatentVariableModel(priors.StandardNormal(1), networks.MLP(1, 6, hidden=[2]), likelihoods.Bernoulli())
    for bomb in (lambda: torch.save(_Payload(folder.parent / "ran"), checkpoint), lambda: checkpoint.write_bytes(b"x")):
        bomb()
        with pytest.raises(ValueError, match="no checkpoint"):
            guide = guides.Normal(1, networks.MLP(6, hidden=[2]))
            fit(model, guide, X, steps=2, checkpoint=checkpoint, resume=True, progress=False)
    _nothing_ran(folder)


OWN = """
import os
from subprocess import Popen
from torch import nn
import pyro, pyro.distributions as dist

def model(x):
    with pyro.plate("data", len(x), dim=-1):
        z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x[:, 0])

class Machine(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.width = width

    def model(self, x):
        return model(x)

    def guide(self, x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(x[:, 0], 1.0))
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A package of the user's own, and the folder of a run of its pair."""
    (tmp_path / "own_package").mkdir()
    (tmp_path / "own_package" / "__init__.py").write_text("")
    (tmp_path / "own_package" / "machine.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    from own_package.machine import Machine

    machine = Machine(3)
    folder = Run(Pair(machine.model, machine.guide).check(X), None).save(tmp_path / "run")
    for name in ("own_package", "own_package.machine"):
        monkeypatch.delitem(sys.modules, name)
    return folder


def test_a_pair_of_the_users_own_opens_where_it_is_trusted(own):
    with pytest.raises(
        ValueError, match=r"'own_package.machine:Machine'.*aevb.load\(folder, trust=\[\"own_package\"\]\)"
    ):
        load(own)
    assert "own_package" not in sys.modules
    again = load(own, trust=["own_package"])
    machine = again.pair.model.fn.__self__
    assert machine is again.pair.guide.fn.__self__ and machine.width == 3
    from own_package.machine import Machine

    assert isinstance(load(own, trust=[Machine]).pair.model.fn.__self__, Machine)
    assert isinstance(load(own, trust="own_package.machine").pair.model.fn.__self__, Machine)


def test_trust_reaches_what_a_module_defines_and_no_further(own):
    import own_package.machine  # noqa: F401

    assert rebuild({"function": "own_package.machine:model"}, ["own_package"]).__name__ == "model"
    beyond = ["own_package.machine:os.system", "own_package.machine:nn.Module", "own_package.machine:pyro.sample"]
    for path in [
        *beyond,
        "own_package.machine:Popen",
        "own_package.machine:dist.Normal",
        "own_package_of_another:Model",
        "own:Model",
    ]:
        for description in ({"function": path}, _call(path)):
            with pytest.raises(DescriptionError, match="none of aevb's own"):
                rebuild(description, ["own_package"])
    with pytest.raises(DescriptionError, match="cannot be imported"):
        rebuild(_call("own_package.machine:Gone"), ["own_package"])
    with pytest.raises(DescriptionError, match="neither a class nor a function"):
        rebuild(1, [torch.nn.Tanh()])


def test_what_pythons_own_modules_hold_is_not_offered_for_trust(folder):
    _plant(folder, REPORTED["a process"][0])
    with pytest.raises(ValueError, match=r"model=\.\.\., guide=") as caught:
        load(folder)
    assert "trust" not in str(caught.value)


def test_every_public_block_may_be_described(good):
    """The list is of classes and programs that this package defines, each under the path that describe() gives it."""
    from aevb.inference.training.description import _own_blocks

    assert {path.split(":")[0].split(".")[0] for path in _own_blocks()} == {"aevb"}
    for home in (priors, likelihoods, networks):
        assert all(any(path.endswith(f":{name}") for path in _own_blocks()) for name in home.__all__)
    description = json.loads((good / "config.json").read_text())["pair"]
    assert describe(rebuild(description)) == description


def test_a_page_does_not_carry_off_what_a_link_points_at(folder, tmp_path):
    secret = tmp_path / "secret"
    secret.mkdir()
    for name in ("secret.png", "history.csv", "verdict.json", "report.html"):
        (secret / name).write_text('["secret"]')
    links = {"figures": "", "curves.png": "secret.png", "history.csv": "history.csv", "verdict.json": "verdict.json"}
    for name, target in (links | {"report.html": "report.html", "inner": ""}).items():
        link = folder / name
        kept = link.read_bytes() if link.exists() else None
        link.unlink(missing_ok=True)
        link.symlink_to(secret / target)
        with pytest.raises(ValueError, match=f"{name}.* is a link out of"):
            write_report(folder)
        link.unlink()
        if kept is not None:
            link.write_bytes(kept)
    assert (secret / "report.html").read_text() == '["secret"]'
    (folder / "a.png").write_bytes(b"a picture")
    (folder / "b.png").symlink_to(folder / "a.png")  # a link within the folder is one of its own pictures
    (tmp_path / "latest").symlink_to(folder)
    assert write_report(tmp_path / "latest").read_text().count("<img") == 2
