"""Every message of the contract, the trainer and the loaders: what causes it, what it says, and that its mend mends it.

A case is a cause, what is said of it, and the same thing with the mend applied, which must go through. The last test
holds the table against the raise statements themselves, so that a new one without a case is seen.
"""

import ast
import os
import traceback
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoNormal
from scipy.io import savemat
from torch import nn

import aevb.data
from aevb import guides
from aevb.data import Dataset, DynamicBinarisation, load
from aevb.data.beside import with_holes, with_labels, with_row_numbers
from aevb.data.splits import as_matrix
from aevb.inference import MCEM, SGVB, NonFiniteError, Pair, fit
from aevb.inference.pairs.contract import check_rows
from aevb.inference.pairs.data import Tensors, as_rows
from aevb.models import LatentVariableModel, likelihoods, networks, priors

HERE = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("AEVB_DATA", "/nonexistent"))
CHECKED = [
    *(
        HERE / "inference" / name
        for name in ("pairs/contract.py", "pairs/data.py", "training/settings.py", "training/trainer.py")
    ),
    *sorted((HERE / "aevb" / "data").glob("*.py")),
]
X = torch.rand(6, 4, generator=torch.Generator().manual_seed(0))
NAN = torch.nan


class Case(NamedTuple):
    """What goes wrong in a folder, what is said of it, and the same with the mend applied (``None``: there is none)."""

    cause: object
    said: str
    mended: object


# ---------------------------------------------------------------------- programs


def _spread(z):
    return z.sum(-1, keepdim=True).expand(*z.shape[:-1], 4)


def _model(x, prior=None, body=_spread, noise=1.0, rows=None, obs=True, latent=True, **plate):
    with pyro.plate("data", len(x) if rows is None else rows, **plate):
        z = x.new_zeros(2)
        if latent:
            z = pyro.sample("z", prior(x) if prior else dist.Normal(x.new_zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(body(z), noise).to_event(1), obs=x if obs else None)


def _guide(x, name="z", law=lambda x: dist.Normal(x[:, :2], 1.0).to_event(1), rows=None):
    with pyro.plate("data", rows or len(x)):
        pyro.sample(name, law(x))


def _bernoulli(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Bernoulli(logits=_spread(z)).to_event(1), obs=x)


def _no_plate(x):
    z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 2), 1.0).to_event(2))
    pyro.sample("x", dist.Normal(_spread(z), 1.0).to_event(2), obs=x)


def _own_plate_beside(x, events=0):
    with pyro.plate("data", len(x)):
        law = dist.Normal(x.new_zeros(3, 1) if not events else x.new_zeros(3), 1.0)
        if events:
            z = pyro.sample("z", law.to_event(1)).sum(-1, keepdim=True)
        else:
            with pyro.plate("own", 3):
                z = pyro.sample("z", law).sum(-2).unsqueeze(-1)
        pyro.sample("x", dist.Normal(z.expand(*z.shape[:-1], 4), 1.0).to_event(1), obs=x)


def _checked(model, guide=_guide, x=X):
    return lambda folder: Pair(model, guide).check(x)


def _told(model, **options):
    return partial(_model, **options)


def _normed(fold):
    norm, out = nn.BatchNorm1d(2), nn.Linear(2, 4)

    def body(z):
        return out(norm(z.flatten(0, -2)).view_as(z) if fold else norm(z))

    return partial(_model, body=body)


def _hole(x, row=2):
    x = x.clone()
    x[row, 1] = NAN
    return x


def _masking():
    model = LatentVariableModel(
        priors.StandardNormal(2), networks.MLP(2, 4, hidden=[3]), likelihoods.Normal(), missing=True
    )
    return model, guides.MaskedNormal(2, networks.MLP(8, hidden=[3]))


def _masked(x):
    return lambda folder: Pair(*_masking()).check(x)


def _rows(x):
    def check(folder):
        check_rows(Pair(_model, _guide).check(X), x)

    return check


CONTRACT = {
    "nothing observed": Case(_checked(partial(_model, obs=False), None), "observes nothing.*obs=x", _checked(_model)),
    "nothing latent": Case(_checked(partial(_model, latent=False), None), "draw one that has none", _checked(_model)),
    "rows differ": Case(_checked(lambda x, y: _model(x), None, (X, X[:3])), "one common", _checked(_model)),
    "infinities": Case(_checked(_model, _guide, X / 0), "drop those rows, or clip", _checked(_model, x=X.clamp(0, 1))),
    "outputs of another width": Case(
        _checked(partial(_model, body=lambda z: z)), "as many outputs of the network as the data", _checked(_model)
    ),
    "a guide's plate of the wrong size": Case(
        _checked(_model, partial(_guide, rows=3)), "Mend: one pyro.plate of size len", _checked(_model)
    ),
    "NaN before a guide": Case(
        _checked(_model, _guide, _hole(X)),
        "the data hold NaN: drop those rows",
        _masked(_hole(X)),
    ),
    "bytes": Case(
        _checked(_model, guides.Normal(2, networks.MLP(4, hidden=[3])), (X * 255).byte()),
        "the data are uint8: cast them to the type of the parameters, float32",
        _checked(_model, guides.Normal(2, networks.MLP(4, hidden=[3])), (X * 255).byte().float()),
    ),
    "a negative scale": Case(
        _checked(partial(_model, noise=torch.tensor(-1.0))),
        "bound what the distribution is given .exp or softplus",
        _checked(partial(_model, noise=torch.tensor(-1.0).exp())),
    ),
    "a guide from the left": Case(
        _checked(_model, partial(_guide, law=lambda x: dist.Normal(torch.zeros(6, 2), 1.0).expand([6]).to_event(1))),
        "the guide fails|shape",
        _checked(_model),
    ),
    "a model from the left": Case(
        _checked(partial(_model, body=lambda z: (z[:, 0] + z[:, 1]).reshape(6, 1).expand(6, 4))),
        r"index from the right \(z\[..., 0\]\)",
        _checked(partial(_model, body=lambda z: (z[..., 0] + z[..., 1]).unsqueeze(-1).expand(*z.shape[:-1], 4))),
    ),
    "a batch norm": Case(_checked(_normed(False)), r"norm\(h.flatten\(0, -2\)\).view_as", _checked(_normed(True))),
    "an automatic guide": Case(
        _checked(_model, AutoNormal(_model)), r"guide that is a function of x \(guides.Normal\)", _checked(_model)
    ),
    "no plate": Case(_checked(_no_plate, None), "outside a plate", _checked(_model, None)),
    "a plate elsewhere": Case(_checked(partial(_model, dim=-2), None), "at dim -1", _checked(partial(_model, dim=-1))),
    "a plate of the wrong size": Case(
        _checked(partial(_model, rows=4), None), "size 4, but the batch has 6", _checked(_model)
    ),
    "a plate of all rows": Case(
        _checked(partial(_model, rows=100, subsample_size=6)), "stands for 100 rows", _checked(_model)
    ),
    "other names": Case(_checked(_model, partial(_guide, name="w")), "the same names", _checked(_model)),
    "NaN in what is observed": Case(_checked(_model, None, _hole(X)), "'x' .* holds NaN; drop", _masked(_hole(X))),
    "NaN far down": Case(_rows(_hole(torch.rand(40, 4), 30)), "holds NaN; drop those rows", _rows(torch.rand(39, 4))),
    "bytes under a Bernoulli": Case(
        _checked(_bernoulli, x=X * 255), "scale or binarise the data", _checked(_bernoulli, x=X.round())
    ),
    "no event": Case(
        _checked(partial(_model, prior=lambda x: dist.Normal(x.new_zeros(6, 6), 1.0)), None),
        r"Declare its last 1 dimension\(s\) as one event",
        _checked(partial(_model, prior=lambda x: dist.Normal(x.new_zeros(6, 6), 1.0).to_event(1)), None),
    ),
    "a plate beside": Case(
        _checked(_own_plate_beside, None), "event", _checked(partial(_own_plate_beside, events=1), None)
    ),
    "not finite": Case(_checked(partial(_model, noise=1e-30)), "check the scales", _checked(_model)),
    "outside the prior": Case(
        _checked(partial(_model, prior=lambda x: dist.Gamma(2.0, x.new_ones(2)).to_event(1)), x=X - 5.0),
        "or transform the guide's draws",
        _checked(
            partial(_model, prior=lambda x: dist.Gamma(2.0, x.new_ones(2)).to_event(1)),
            partial(_guide, law=lambda x: dist.LogNormal(x[:, :2], 1.0).to_event(1)),
            X - 5.0,
        ),
    ),
}


# ---------------------------------------------------------------------- data and trainer


def _blown(x):
    level = pyro.param("level", torch.tensor(1.0))
    _model(x, noise=1.0 + 0.0 * level, body=lambda z: _spread(z) + level.log())


def _fit(model=_blown, guide=_guide, data=X, **options):
    return lambda folder: fit(model, guide, data, **{"steps": 1, "progress": False, **options})


def _resumed(**first):
    """A fit that goes on from the checkpoint of another."""
    return lambda f: [_fit(checkpoint=f / "c", resume=True, **options)(f) for options in (first, {"steps": 2})]


def _sgd(lr):
    return {"optimizer": partial(torch.optim.SGD, lr=lr), "steps": 30, "compile": "never"}


TRAINER = {
    "parts of unlike length": Case(lambda f: Tensors(X, X[:2]), r"got \[6, 2\]", lambda f: Tensors(X[:2], X[:2])),
    "a number": Case(lambda f: as_rows(3.0), "expected a tensor of rows", lambda f: as_rows([[3.0]])),
    "nothing": Case(lambda f: as_rows(X[:0]), "at least one row", lambda f: as_rows(X[:1])),
    "words": Case(
        lambda f: as_rows(pd.DataFrame({"a": ["red"]})),
        "cannot be read as a tensor",
        lambda f: as_rows(pd.DataFrame({"a": [1]})),
    ),
    "two lengths": Case(_fit(epochs=1), "give one of", _fit()),
    "no length": Case(_fit(steps=0), "steps=0 must be at least 1", _fit(steps=1)),
    "no batch": Case(_fit(batch_size=0), "batch_size=0 must be at least 1", _fit(batch_size=1)),
    "no norm": Case(_fit(clip_norm=0.0), "clip_norm=0.0 must be above 0", _fit(clip_norm=0.1)),
    "nothing to train": Case(_fit(_model), "nothing to train", _fit()),
    "not finite": Case(_fit(**_sgd(100.0)), "Lower the learning rate", _fit(**_sgd(1e-3))),
    "a class": Case(_fit(objective=SGVB), r"pass one of it: SGVB\(\)", _fit(objective=SGVB())),
    "no guide": Case(_fit(guide=None), r"or an objective without \(MCEM\)", _fit(guide=None, objective=MCEM())),
    "no way to run a step": Case(_fit(compile="ful"), "one of auto, never, graph, full", _fit(compile="graph")),
    "another objective's checkpoint": Case(_resumed(guide=None, objective=MCEM()), "another pair", _resumed()),
    "no device": Case(_fit(device="abacus"), 'take "auto" or "cpu"', _fit(device="cpu")),
}

# ---------------------------------------------------------------------- files

NUMBERS = np.arange(100.0).reshape(50, 2) / 100.0


def _npy(array, **options):
    def cause(folder):
        np.save(folder / "x.npy", array)
        return load(str(folder / "x.npy"), **options)

    return cause


def _npz(**arrays):
    def cause(folder):
        np.savez(folder / "x.npz", **arrays)
        return load(str(folder / "x.npz"))

    return cause


def _text(name, text, **options):
    def cause(folder):
        (folder / name).write_bytes(text.encode("latin1"))
        return load(str(folder / name), **options)

    return cause


def _csv(*columns, rows=20, **options):
    lines = [",".join(columns)] + [
        ",".join("red" if c == "kind" else f"{i + 0.5}" for c in columns) for i in range(rows)
    ]
    return _text("x.csv", "\n".join(lines), **options)


def _frey(array=None):
    def cause(folder):
        (folder / "frey_face").mkdir()
        path = folder / "frey_face" / "frey_rawface.mat"
        if array is None:
            path.write_bytes(b"nonsense")
        else:
            savemat(path, {"ff": array})
        return load("frey-face", data_dir=folder)

    return cause


def _mnist(pictures):
    """The files of MNIST, holding so many pictures; ``None`` for nonsense."""

    def cause(folder):
        raw = folder / "MNIST" / "raw"
        raw.mkdir(parents=True)
        for name in ("train", "t10k"):
            head, body = (
                (b"", b"nonsense") if pictures is None else (pictures.to_bytes(4, "big"), bytes(784 * pictures))
            )
            sides = (28).to_bytes(4, "big") * 2
            (raw / f"{name}-images-idx3-ubyte").write_bytes(b"\0\0\x08\x03" + head + sides + body)
            (raw / f"{name}-labels-idx1-ubyte").write_bytes(b"\0\0\x08\x01" + head + body[: pictures or 1])
        return load("mnist", data_dir=folder)

    return cause


def _offline(folder):
    from torchvision import datasets

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.MNIST, "download", lambda self: (_ for _ in ()).throw(OSError("no route to host")))
        return load("mnist", data_dir=folder)


@cache
def _there(name, folder):
    """A data set from where it is, which is the mend that its messages name."""
    if not (DATA / folder).is_dir():
        pytest.skip(f"AEVB_DATA has no {folder}")
    return load(name, data_dir=DATA)


def _mnist_there(folder):
    return _there("mnist", "MNIST")


def _frey_there(folder):
    return _there("frey-face", "frey_face")


def _toy(labels=True):
    y = torch.zeros(6, dtype=torch.long) if labels else None
    return Dataset("toy", None, X, X, X, y, y, y)


DIGITS = partial(load, "digits")
FILES = {
    "an unknown name": Case(lambda f: load("minst"), "expected one of digits, mnist", lambda f: load("digits")),
    "a variant": Case(lambda f: DIGITS(variant="gray"), "one of grey, static", lambda f: DIGITS(variant="grey")),
    "a label column of digits": Case(lambda f: DIGITS(label_column="y"), "has the labels it has", lambda f: DIGITS()),
    "an unknown attribute": Case(lambda f: aevb.data.Nonsense, "no attribute 'Nonsense'", lambda f: aevb.data.Dataset),
    "held-out rows of a table": Case(
        lambda f: with_row_numbers(_toy()).test[torch.arange(1)],
        "training data alone: take --split train",
        lambda f: with_row_numbers(_toy()).train[torch.arange(1)],
    ),
    "a share of labels": Case(lambda f: with_labels(_toy(), 2.0), "from 0 to 1", lambda f: with_labels(_toy(), 1.0)),
    "no labels": Case(lambda f: with_labels(_toy(False)), "has no labels", lambda f: with_labels(DIGITS())),
    "a share of holes": Case(lambda f: with_holes(_toy(), 1.0), "to below 1", lambda f: with_holes(_toy(), 0.9)),
    "a split": Case(lambda f: _toy().part("tests"), "one of train", lambda f: _toy().part("test")),
    "holes in pictures": Case(
        _npy(_hole(torch.rand(20, 4)).numpy(), missing=True, variant="static"),
        "fill them in, or name no variant",
        _npy(_hole(torch.rand(20, 4)).numpy(), missing=True),
    ),
    "no probabilities": Case(
        lambda f: DynamicBinarisation(3 * X + 1), "rescale them first", lambda f: DynamicBinarisation(X)
    ),
    "no file": Case(lambda f: load(str(f / "x.npy")), "no such file", _npy(NUMBERS)),
    "a label column of an array": Case(
        _npy(NUMBERS, label_column="y"), "under the key labels of a .npz", _npz(x=NUMBERS, labels=np.zeros(50))
    ),
    "parts of unlike width": Case(
        _npz(train=NUMBERS, test=NUMBERS[:, :1]), "one shape", _npz(train=NUMBERS, test=NUMBERS[:9])
    ),
    "an unreadable array": Case(_text("x.npy", "nonsense"), "a readable .npy file", _npy(NUMBERS)),
    "an unreadable table": Case(_text("x.csv", ""), "a readable .csv file", _csv("a", "b")),
    "words in a table": Case(_csv("a", "kind"), "--label-column kind", _csv("a", "kind", label_column="kind")),
    "an unknown column": Case(
        _csv("a", "b", label_column="kind"), "the columns are a, b", _csv("a", "kind", label_column="kind")
    ),
    "too many classes": Case(
        _csv("a", "b", "kind", rows=200, label_column="a"),
        "at most 100 classes are expected",
        _csv("a", "b", "kind", rows=200, label_column="kind"),
    ),
    "no training key": Case(_npz(a=NUMBERS, b=NUMBERS), "a key 'train'", _npz(train=NUMBERS, validation=NUMBERS)),
    "labels of another length": Case(
        _npz(train=NUMBERS, labels=np.zeros(3)), r"expected shape \[50\]", _npz(train=NUMBERS, labels=np.zeros(50))
    ),
    "labels in words": Case(
        _npz(train=NUMBERS, labels=np.array(["a"] * 50)), "encode them", _npz(train=NUMBERS, labels=np.zeros(50))
    ),
    "too few rows": Case(_npy(NUMBERS[:9]), "at least 10 datapoints", _npy(NUMBERS[:10])),
    "no Frey faces": Case(lambda f: load("frey-face", data_dir=f), "--data-dir or AEVB_DATA", _frey_there),
    "broken Frey faces": Case(_frey(), "cannot read", _frey_there),
    "other Frey faces": Case(_frey(np.zeros((560, 7), dtype=np.uint8)), "560 x 1965.*get it again", _frey_there),
    "broken MNIST": Case(_mnist(None), "delete that folder|got", _mnist_there),
    "little MNIST": Case(_mnist(3), r"expected pictures \(60000, 28, 28\), got \(3, 28, 28\)", _mnist_there),
    "no MNIST": Case(_offline, "put them there, or name the folder", _mnist_there),
    "an array of words": Case(lambda f: as_matrix(np.array([["a"]]), "x"), "expected numbers", _npy(NUMBERS)),
    "an empty array": Case(_npy(np.zeros((0, 3))), "at least one datapoint", _npy(NUMBERS)),
    "a flat array": Case(_npy(np.arange(20.0)), r"x.reshape\(-1, 1\)", _npy(np.arange(20.0).reshape(-1, 1))),
    "NaN in an array": Case(
        _npy(_hole(torch.rand(20, 4)).numpy()),
        r"load\(..., missing=True\)",
        _npy(_hole(torch.rand(20, 4)).numpy(), missing=True),
    ),
    "infinities in an array": Case(
        _npy(np.full_like(NUMBERS, np.inf), missing=True),
        "drop those rows or fill them in",
        _npy(NUMBERS, missing=True),
    ),
}

CASES = {
    f"{kind}: {name}": case
    for kind, cases in (("contract", CONTRACT), ("trainer", TRAINER), ("files", FILES))
    for name, case in cases.items()
}
ERRORS = (ValueError, NonFiniteError, AttributeError)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CASES)
def test_a_message_is_true_and_its_mend_mends(name, tmp_path):
    case = CASES[name]
    (tmp_path / "a").mkdir()
    with pytest.raises(ERRORS, match=case.said) as caught:
        case.cause(tmp_path / "a")
    assert "\n" not in str(caught.value)
    (tmp_path / "b").mkdir()
    case.mended(tmp_path / "b")


def _raises(path):
    """The statements that raise something new: first and last line."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [(n.lineno, n.end_lineno) for n in ast.walk(tree) if isinstance(n, ast.Raise) and n.exc is not None]


@pytest.mark.filterwarnings("ignore")
def test_every_raise_statement_has_a_case(tmp_path):
    reached = set()
    for number, case in enumerate(CASES.values()):
        (tmp_path / str(number)).mkdir()
        try:
            case.cause(tmp_path / str(number))
        except ERRORS as error:
            frames = traceback.extract_tb(error.__traceback__)
            reached |= {(Path(frame.filename).resolve(), frame.lineno) for frame in frames}
    missed = [
        f"{path.relative_to(HERE)}:{first}"
        for path in CHECKED
        for first, last in _raises(path)
        if not any((path, line) in reached for line in range(first, last + 1))
    ]
    assert not missed, f"no case in this table causes what is raised at {', '.join(missed)}: add cause, words and mend"
