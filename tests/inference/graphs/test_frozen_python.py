"""What a captured step could freeze of Python: refused with a warning, captured anew, or right; never in silence."""

import argparse
import array
import collections
import contextlib
import functools
import os
import random
import re
import sys
import threading
import types
import warnings
from functools import partial

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from aevb.inference import SGVB, Fit, NonFiniteError, fit
from aevb.inference.graphs import traced_function
from aevb.inference.graphs.python_state import PythonState
from aevb.inference.graphs.reads import ReadError, WithoutReads
from aevb.inference.training import captured_step, step_runner

STEPS, BATCH, ROWS = 60, 10, 60
SETTINGS = types.SimpleNamespace(scale=1.0)
TEMPERATURE = 1.0
CONFIGURATION = types.ModuleType("configuration")
CONFIGURATION.rate = 1.0
CONFIGURATION.inner = types.ModuleType("configuration.inner")
CONFIGURATION.inner.width = 1.0
WORDS = argparse.Namespace(beta=1.0)


class Model(nn.Module):
    """x ~ N(decode(z), scale): the smallest program with something to freeze in each of its parts."""

    def __init__(self, noise=None, decode=None):
        super().__init__()
        torch.manual_seed(1)
        self.linear, self.noise, self.decode = nn.Linear(1, 3), noise, decode
        self.register_buffer("width", torch.ones(()))
        self.beta, self.calls = 1.0, 0
        self.dropout = nn.Dropout(0.5)

    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(1), 1.0).to_event(1))
            loc = self.linear(z) if self.decode is None else self.decode(self, z, x)
            scale = 1.0 if self.noise is None else self.noise(self, x)
            pyro.sample("x", dist.Normal(loc, scale).to_event(1), obs=x[:, :3])


class Guide(nn.Module):
    def __init__(self):
        super().__init__()
        self.loc = nn.Linear(3, 1)

    def forward(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.loc(x[:, :3]), 0.5).to_event(1))


def counted(model, x):
    model.calls += 1
    return 1.0 + model.calls / 20


def read_before_it_changes(model, x):
    before = model.width.item()
    model.width.mul_(1.01)
    return before


def annealed(loop):
    loop.pair.model.fn.beta *= 0.8


def frozen(loop):
    loop.pair.model.fn.linear.requires_grad_(False)


def less_dropout(loop):
    loop.pair.model.fn.dropout.p *= 0.5


def evaluated(loop):
    loop.pair.model.fn.eval()


def dropped(model, z, x):
    return model.dropout(model.linear(z))


def decayed(loop):
    for optimizer in loop.optimizers.values():
        optimizer.param_groups[0]["weight_decay"] += 0.5
        optimizer.param_groups[0]["lr"] *= 0.5


def hooked(parameters):
    optimizer = torch.optim.Adam(parameters, lr=1e-2)

    def clamp(optimizer, *_):
        with torch.no_grad():
            for p in parameters:
                p.clamp_(-0.3, 0.3)

    optimizer.register_step_post_hook(clamp)
    return optimizer


def hook_later(loop):
    for optimizer in loop.optimizers.values():
        optimizer.register_step_post_hook(lambda o, *_: [g["params"][0].data.clamp_(-0.3, 0.3) for g in o.param_groups])


class Ragged:
    """Batches whose width differs: only the first three columns and the last one are looked at."""

    def __len__(self):
        return ROWS

    def __getitem__(self, rows):
        width = 4 + int(rows[0]) % 2
        return torch.linspace(-1.0, 1.0, ROWS * width).sin().reshape(ROWS, width)[rows]


def last_column(model, z, x):
    return model.linear(z) + x[:, -1:]


def longest(model, z, x):
    lengths = (x[:, 0] > 0).long() + (x[:, 1] > 0).long() + 1
    return model.linear(z)[..., : int(lengths.max())].sum(-1, keepdim=True) + x.new_zeros(3)


def packed(model, z, x):
    lengths = (x[:, 0] > 0).long() + (x[:, 1] > 0).long() + 1
    rows = nn.utils.rnn.pack_padded_sequence(x.unsqueeze(-1), lengths.cpu(), batch_first=True, enforce_sorted=False)
    return model.linear(z) + rows.data.mean()


def infinitely_steep(model, z, x):
    return model.linear(z) + (z - z.detach()).abs().sqrt()


def rebound_statistic(model, x):
    model.running = 0.9 * getattr(model, "running", torch.ones(())) + 0.1 * x.detach().std()
    return model.running


def global_scale(model, x):
    return TEMPERATURE * SETTINGS.scale


def lower_global(loop):
    SETTINGS.scale *= 0.8


def pop(loop):
    """The guide's last weight stands still from now on."""
    loop.optimizers["guide"].param_groups[0]["params"].pop()


def rebind_memory(loop):
    nn.utils.vector_to_parameters(0.5 * nn.utils.parameters_to_vector(loop.pair.parameters()), loop.pair.parameters())


def restart(loop):
    for optimizer in loop.optimizers.values():
        optimizer.load_state_dict(optimizer.state_dict())
        for state in optimizer.state.values():
            state["exp_avg"] = torch.zeros_like(state["exp_avg"])


# The model's arguments, fit's arguments, and what the warning says: None where the step is right or captured anew.
WAYS = {
    "an attribute annealed by an observer": ({"noise": lambda m, x: m.beta}, {"observers": [annealed]}, "too often"),
    "an attribute changed seldom": ({"noise": lambda m, x: m.beta}, {"observers": ["twice", annealed]}, None),
    "a counter in forward": ({"noise": counted}, {}, "model.calls is changed by the step itself"),
    "a branch on a parameter": (
        {"noise": lambda m, x: 1.0 if m.linear.bias.sum() > 0.1 else 2.0}, {}, "__bool__.. reads .* at test_frozen",
    ),
    "a buffer read before it changes": ({"noise": read_before_it_changes}, {}, "item.. reads"),
    "Python's random": ({"noise": lambda m, x: 0.5 + random.random()}, {}, "Python's random draws"),
    "NumPy's random": ({"noise": lambda m, x: 0.5 + np.random.rand()}, {}, "NumPy's random draws"),  # noqa: NPY002
    "a generator of one's own": ({"noise": lambda m, x: 0.5 + OWN.random()}, {}, "OWN draws"),
    "statistics by numpy": ({"noise": lambda m, x: float(x.numpy().std())}, {}, "numpy.. reads"),
    "statistics by tolist": ({"noise": lambda m, x: max(x[0].abs().tolist()) + 0.5}, {}, "tolist.. reads"),
    "numbers from a list of tensors": ({"noise": lambda m, x: torch.tensor([m.width, 2.0])[0]}, {}, "tensor.. reads"),
    "the longest of a batch": ({"decode": longest}, {}, "reads"),
    "packed sequences": ({"decode": packed}, {}, "the shapes behind aten._pack"),
    "weights frozen between epochs": ({}, {"observers": ["twice", frozen]}, None),
    "dropout between epochs": ({"decode": dropped}, {"observers": ["twice", less_dropout]}, None),
    "evaluation mode between epochs": ({"decode": dropped}, {"observers": ["twice", evaluated]}, None),
    "a step hook": ({}, {"optimizer": hooked}, "step hook"),
    "a step hook set later": ({}, {"observers": ["twice", hook_later]}, "step hook"),
    "batches of another width": ({"decode": last_column}, {"data": Ragged()}, "batches differ in shape"),
    "an optimiser's settings": ({}, {"observers": ["twice", decayed]}, None),
    "an optimiser's parameters": ({}, {"observers": ["twice", pop]}, None),
    "an optimiser's state": ({}, {"observers": ["twice", restart]}, None),
    "parameters given other memory": ({}, {"observers": ["twice", rebind_memory]}, None),
    "a statistic bound anew": ({"noise": rebound_statistic}, {}, "model.running is changed by the step itself"),
    "a global changed seldom": ({"noise": global_scale}, {"observers": ["twice", lower_global]}, None),
}  # fmt: skip
OWN = random.Random(0)


def rows():
    return torch.linspace(-2.0, 2.0, ROWS * 4).mul(7).sin().reshape(ROWS, 4)


def train(way, level):
    """Parameters after 60 steps, what was said, and the step's maker."""
    programs, options, _ = WAYS[way]
    given = {"data": rows(), "optimizer": partial(torch.optim.Adam, lr=1e-2), **options}
    if "observers" in given and given["observers"][0] == "twice":
        act = given["observers"][1]
        given["observers"] = [lambda loop: act(loop) if loop.step in (12, 30) else None]
    random.seed(0), np.random.seed(0), OWN.seed(0)  # noqa: NPY002
    SETTINGS.scale = 1.0
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", RuntimeWarning)
        loop = Fit(
            Model(**programs), Guide(), given.pop("data"), objective=SGVB(estimator="A"), steps=STEPS,
            batch_size=BATCH, compile=level, progress=False, **given,
        )  # fmt: skip
        loop.drain()
    parameters = torch.cat([p.detach().flatten() for p in loop.pair.parameters()])
    return parameters, [str(w.message) for w in said if issubclass(w.category, RuntimeWarning)], loop._make_step


@pytest.fixture(scope="module")
def uncaptured():
    known = {}
    return lambda way: known.setdefault(way, train(way, "never")[0])


EVERY_LEVEL = ("an attribute annealed by an observer", "weights frozen between epochs", "batches of another width")


def _tried():
    """Every way at one level, by turns, for all levels ask :func:`capture` alike; a few at all three."""
    all_levels = ("graph", "full", "auto")
    for turn, way in enumerate(WAYS):
        yield from ((way, level) for level in (all_levels if way in EVERY_LEVEL else [all_levels[turn % 3]]))


@pytest.mark.parametrize(("way", "level"), [*_tried()])
def test_what_a_step_takes_from_python_is_never_frozen_in_silence(way, level, uncaptured, monkeypatch):
    # What a compiler makes of a graph is tried elsewhere; whether it is asked, and asked again, does not depend on it.
    monkeypatch.setattr(step_runner, "compiled", lambda flat, arguments: flat)
    expected = WAYS[way][2]
    parameters, said, step = train(way, level)
    assert torch.allclose(parameters, uncaptured(way), atol=1e-5)
    assert len(said) == (expected is not None), said
    assert expected is not None or step._captured is not None
    assert expected is None or re.search(expected, said[0])


def test_a_number_in_a_buffer_need_not_be_captured_anew(monkeypatch):
    """The mend that the warning names."""
    captures = []
    monkeypatch.setattr(step_runner, "capture", lambda *a, **k: captures.append(1) or captured_step.capture(*a, **k))
    shrink = [lambda loop: loop.pair.model.fn.width.mul_(0.8)]
    monkeypatch.setitem(WAYS, "a buffer", ({"noise": lambda m, x: m.width}, {"observers": shrink}, None))
    (plain, *_), (graph, said, _) = train("a buffer", "never"), train("a buffer", "graph")
    assert torch.allclose(plain, graph, atol=1e-5)
    assert len(captures) == 1 and not said


def test_what_cannot_be_seen_is_found_by_the_next_comparison(monkeypatch):
    monkeypatch.setenv("SCALE", "1.0")
    change = [lambda loop: monkeypatch.setenv("SCALE", "2.0")]
    way = ({"noise": lambda m, x: float(os.environ["SCALE"])}, {"observers": change}, None)
    monkeypatch.setitem(WAYS, "the environment", way)
    _, said, step = train("the environment", "graph")
    assert len(said) == 1 and "steps 0 to 10 may be wrong" in said[0]
    assert step._captured is None


def test_a_data_set_that_is_replaced_is_taken():
    def shift(loop):
        loop.data = rows() + 3.0 if loop.step == 12 else loop.data

    found = []
    for level in ("never", "graph"):
        run = fit(
            Model(), Guide(), rows(), steps=24, batch_size=BATCH, compile=level, observers=[shift], progress=False
        )
        found.append(run.rows[-1]["bound"])
    assert found[0] == pytest.approx(found[1], rel=1e-5)


@pytest.mark.parametrize("which", ["captured", "eager"])
def test_a_step_that_is_finite_in_one_form_alone_is_refused(which, monkeypatch):
    def build(flat, _):
        def garbage(*arguments):
            with torch.no_grad():
                for tensor in flat.state:
                    if tensor.shape == (3, 1):
                        tensor.fill_(torch.nan)
            return flat(*arguments)

        def zeros(*arguments):
            return [torch.zeros(()) for _ in range(3)]

        return garbage if which == "captured" else zeros

    monkeypatch.setattr(step_runner, "compiled", build)
    decode = None if which == "captured" else infinitely_steep
    ends = contextlib.nullcontext() if which == "captured" else pytest.raises(NonFiniteError)
    with pytest.warns(RuntimeWarning, match=f"the {which} step is not finite where the"), ends:
        fit(
            Model(decode=decode), Guide(), rows(), steps=6, batch_size=BATCH, compile="full", progress=False
        )  # fmt: skip


def test_every_read_is_seen_even_where_the_program_hides_it():
    parameter = nn.Parameter(torch.arange(3.0))
    quiet = parameter.detach()
    reads = {
        "item": lambda: quiet[0].item(), "bool": lambda: bool(quiet[0] > 0), "int": lambda: int(quiet[0]),
        "index": lambda: [1, 2][torch.tensor(1)], "tolist": quiet.tolist, "numpy": quiet.numpy,
        "array": lambda: np.asarray(quiet), "dlpack": lambda: np.from_dlpack(quiet), "in": lambda: 2.0 in quiet,
        "list": lambda: torch.tensor([quiet[0], 1.0]), "copy": lambda: torch.tensor(quiet), "print": lambda: str(quiet),
        "like": lambda: quiet.new_tensor([quiet[1]]), "size": lambda: torch.zeros(torch.tensor(2)),
        "equal": lambda: torch.equal(quiet, quiet + 1), "slice": lambda: quiet[: torch.tensor(2)],
        "format": lambda: f"{quiet[0]:.2f}", "range": lambda: range(torch.tensor(2)), "max": lambda: max(quiet),
    }  # fmt: skip
    for name, read in reads.items():
        with warnings.catch_warnings(), pytest.raises(ReadError, match="Python numbers"):
            warnings.simplefilter("ignore")
            with WithoutReads(), contextlib.suppress(RuntimeError):
                read()
            pytest.fail(name)
    with WithoutReads():
        _ = quiet.sum() + torch.tensor([1.0]) + torch.as_tensor(quiet), len(quiet), quiet.shape, quiet[1:], list(quiet)


@pytest.mark.filterwarnings("ignore:a density runs uncaptured")
def test_a_function_is_left_alone_where_its_graph_would_stand_still():
    scale, held = torch.tensor(2.0), [0]

    def counts(u):
        held[0] += 1
        return (u * held[0],)

    random.seed(0)
    state = random.getstate()
    for function in (lambda u: (u * scale.item(),), counts, lambda u: (u * random.random(),)):
        assert traced_function.captured(function, torch.ones(3)) is function
    assert held == [0] and random.getstate() == state  # as if nothing had been tried


def test_a_graph_of_a_function_is_not_given_other_shapes():
    def mean(u):
        return (u.sum(0) / len(u),)

    graph = traced_function.captured(mean, torch.ones(3, 2))
    assert graph is not mean
    for given in (torch.rand(3, 2), torch.rand(5, 2), torch.rand(3, 2).double()):
        assert torch.equal(graph(given)[0], mean(given)[0])


def test_a_first_call_may_fill_a_cache():
    class Masked(nn.Module):
        kept = None

        def forward(self, u):
            self.kept = torch.ones(3) if self.kept is None else self.kept
            return (u * self.kept,)

    masked = Masked()
    graph = traced_function.captured(masked, torch.ones(3))
    assert graph is not masked and torch.equal(graph(torch.ones(3))[0], torch.ones(3))


class Defaults:
    kinds, scale, table = [1.0], torch.tensor(1.0), np.ones(2)


def test_what_others_classes_and_namespaces_hold_is_followed(monkeypatch):
    """A class that no object is of, its entries bound anew; namespaces; large arrays; modules in modules."""
    held, octets, large = collections.UserDict(a=1.0), array.array("d", [1.0]), np.ones(50_000)
    local, layers = threading.local(), collections.ChainMap({}, {"b": 1.0})
    local.size = 1.0
    monkeypatch.setitem(sys.modules, "imported_inside", types.ModuleType("imported_inside"))
    sys.modules["imported_inside"].rate = 1.0

    def program():
        import imported_inside

        named = Defaults.kinds, Defaults.scale, Defaults.table, WORDS.beta, CONFIGURATION.inner.width
        return named, held, octets, large, local.size, layers, imported_inside.rate

    def bind(name, value):
        return lambda: setattr(Defaults, name, value)

    changes = {
        "Defaults.kinds": bind("kinds", [2.0]),
        "Defaults.scale": bind("scale", torch.tensor(2.0)),
        "Defaults.table": lambda: Defaults.table.fill(2.0),
        "WORDS.beta": lambda: setattr(WORDS, "beta", 2.0),
        "CONFIGURATION.inner.width": lambda: setattr(CONFIGURATION.inner, "width", 2.0),
        "held.data.a": lambda: held.update(a=2.0),
        "octets": lambda: octets.append(2.0),
        "local.size": lambda: setattr(local, "size", 2.0),
        "layers.maps[1].b": lambda: layers.maps[1].update(b=2.0),
        "imported_inside.rate": lambda: setattr(sys.modules["imported_inside"], "rate", 2.0),
    }
    for name, change in changes.items():
        state = PythonState({"model": program})
        assert state.changed() is None
        change()
        assert state.changed() == name
        state.restore()
        assert state.changed() is None
    state = PythonState({"model": program})
    monkeypatch.setattr(Defaults, "more", 1.0, raising=False)  # of a class it would hide what a base has
    assert state.changed() == "the length of what Defaults holds"
    state = PythonState({"model": program})
    large *= 2.0  # what is too large to keep is not put back
    assert state.changed() == "large"


def test_state_is_followed_named_and_put_back():
    class Holder:
        def __init__(self):
            self.kinds, self.table, self.draw = {"a": [1.0]}, np.arange(3), np.random.default_rng(0)

    class Slotted:
        __slots__ = ("size",)
        rate = 1.0

    holder, slotted, inner = Holder(), Slotted(), 1.0
    slotted.size = 1.0

    @functools.lru_cache
    def remembered():
        return slotted.size

    def program():
        return holder.kinds, inner, SETTINGS.scale, TEMPERATURE, CONFIGURATION.rate, remembered()

    def change_inner(value):
        nonlocal inner
        inner = value

    module = sys.modules[__name__]
    changes = {
        "kinds.a": lambda: holder.kinds["a"].append(2.0),
        "table": lambda: holder.table.fill(1),
        "inner": lambda: change_inner(2.0),
        "SETTINGS.scale": lambda: setattr(SETTINGS, "scale", 5.0),
        "TEMPERATURE": lambda: setattr(module, "TEMPERATURE", 2.0),
        "CONFIGURATION.rate": lambda: setattr(CONFIGURATION, "rate", 2.0),
        "slotted.size": lambda: setattr(slotted, "size", 2.0),
        "Slotted.rate": lambda: setattr(Slotted, "rate", 2.0),
    }
    for name, change in changes.items():
        state = PythonState({"model": program})
        assert state.changed() is None and state.drawn() is None
        change()
        assert name in state.changed()
        state.restore()
        assert state.changed() is None
    state = PythonState({"model": program})
    expected = np.random.default_rng(0).random()
    assert holder.draw.random() == expected and "draw" in state.drawn()
    state.restore()
    assert holder.draw.random() == expected
