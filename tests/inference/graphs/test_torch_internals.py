"""A private name of torch that is gone costs speed, is told, and changes no number."""

from __future__ import annotations

import itertools
import shutil
import warnings
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch

from aevb import log_evidence
from aevb.inference import fit
from aevb.inference.evidence import ImportanceSampling, importance_sampling
from aevb.inference.graphs import matrix_products, torch_internals
from aevb.inference.graphs.torch_internals import Internals
from aevb.inference.posterior import hmc
from aevb.inference.training import step_runner

DOORS = {name: door for name, door in vars(torch_internals).items() if isinstance(door, Internals)}
# What only products in bfloat16 read, a background compiler, or a density: a short run in float32 does not miss it.
ELSEWHERE = {"version", "OpOverload", "schema"}
CAPTURE = [name for name in DOORS["capture"].where if name not in ELSEWHERE]
X = torch.linspace(-2.0, 2.0, 8)


def model(x):
    slope = pyro.param("slope", torch.tensor(0.7))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
        pyro.sample("x", dist.Normal(slope * z, 0.5), obs=x)


def guide(x):
    slope, scale = pyro.param("guide_slope", torch.tensor(0.5)), pyro.param("scale", torch.tensor(0.6))
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(slope * x, scale))


def trained(level, optimizer=None):
    """The bounds of a short run, and what was said of it."""
    optimizer = partial(torch.optim.Adam, lr=1e-2) if optimizer is None else optimizer
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run = fit(model, guide, X, steps=50, batch_size=4, optimizer=optimizer, compile=level, seed=1, progress=False)
    said = [str(w.message) for w in caught if "torch.jit" not in str(w.message)]
    return [row["bound"] for row in run.rows], said


@pytest.fixture(scope="module")
def bounds():
    return trained("never")[0]


@pytest.fixture
def gone(monkeypatch):
    """Take a name away."""
    matrix_products._say_lost.cache_clear()

    def take(door, name):
        path = DOORS[door].where[name]
        monkeypatch.setitem(DOORS[door].where, name, "._gone" if path.startswith(".") else "torch:_gone")

    yield take
    matrix_products._say_lost.cache_clear()


def test_no_name_is_missing_here():
    assert [door.missing() for door in DOORS.values()] == [None] * len(DOORS)


@pytest.mark.parametrize(("name", "level"), [*zip(CAPTURE, itertools.cycle(["auto", "graph", "full"]), strict=False)])
def test_a_step_that_cannot_be_captured_is_made_by_the_programs(name, level, gone, bounds):
    gone("capture", name)
    decoupled = torch.optim.AdamW if name == "fused_adamw" else torch.optim.Adam
    optimizer = partial(decoupled, lr=1e-2)
    expected = bounds if decoupled is torch.optim.Adam else trained("never", optimizer)[0]
    found, said = trained(level, optimizer)
    assert len(said) == 1 and "runs uncaptured" in said[0] and "_gone" in said[0], said
    assert found == expected


@pytest.mark.parametrize("name", DOORS["compiler"].where)
def test_a_graph_that_cannot_be_compiled_runs_as_it_is(name, gone, bounds):
    gone("compiler", name)
    found, said = trained("full")
    assert len(said) == 1 and "runs uncompiled" in said[0] and "torch:_gone" in said[0], said
    assert found == pytest.approx(bounds, rel=1e-5)


@pytest.mark.parametrize("name", DOORS["onednn"].where)
def test_products_without_onednn_are_torchs(name, gone, bounds, monkeypatch):
    monkeypatch.setattr(matrix_products, "_mkl_is_slow", lambda: True)
    gone("onednn", name)
    found, said = trained("graph")
    assert len(said) == 1 and "matrix products" in said[0], said
    assert found == pytest.approx(bounds, rel=1e-5)


@pytest.mark.parametrize("name", DOORS["product_kernel"].where)
def test_a_lost_product_kernel_costs_itself_alone(name, gone, monkeypatch):
    monkeypatch.setattr(matrix_products, "_mkl_is_slow", lambda: True)
    assert matrix_products.products_for_compiler()
    gone("product_kernel", name)
    with pytest.warns(RuntimeWarning, match="matrix products are made by MKL.*torch:_gone"):
        assert matrix_products.products_for_compiler() == {}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        matrix_products.lower_product()
        assert matrix_products.products_for_compiler() == {}


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_a_lost_product_kernel_leaves_the_compiler(gone, bounds, monkeypatch):
    monkeypatch.setattr(matrix_products, "_mkl_is_slow", lambda: True)
    gone("product_kernel", "LinearUnary")
    found, said = trained("full")
    assert len(said) == 1 and "matrix products" in said[0], said
    assert found == pytest.approx(bounds, rel=1e-5)


def test_a_background_compiler_without_names_leaves_the_graph(gone, bounds, monkeypatch):
    monkeypatch.setattr(step_runner, "_WORTH_COMPILING", 50)
    gone("capture", "OpOverload")
    found, said = trained("auto")
    assert len(said) == 1 and "stays uncompiled" in said[0] and "torch:_gone" in said[0], said
    assert found == pytest.approx(bounds, rel=1e-5)


def test_training_evidence_and_chains_work_where_every_name_is_gone(gone, bounds, monkeypatch):
    monkeypatch.setattr(hmc, "WORTH_CAPTURING", 0)
    monkeypatch.setattr(importance_sampling, "_WORTH_CAPTURING", 0)
    run = fit(model, guide, X, steps=2, progress=False)

    def looked_at():
        evidence = log_evidence(run.model, run.guide, X, ImportanceSampling(num_samples=50))
        torch.manual_seed(0)
        draws = hmc.sample(lambda u: -0.5 * u.square().sum(-1), torch.zeros(5, 1), num_samples=4, warmup=5).u
        return evidence.log_px, draws

    expected = looked_at()
    for door, names in DOORS.items():
        for name in names.where:
            gone(door, name)
    found, said = trained("full")
    assert found == bounds and len(said) == 1 and "uncaptured" in said[0]
    with pytest.warns(RuntimeWarning, match="a density runs uncaptured.*_gone") as told:
        torch.testing.assert_close(looked_at(), expected)
    assert len(told) == 2
