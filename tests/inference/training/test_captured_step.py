"""The captured step against the step under Pyro's handlers: same seed, same numbers."""

import shutil
import warnings
from functools import partial
from pathlib import Path

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch._inductor.cpu_vec_isa import pick_vec_isa
from torch._inductor.runtime.cache_dir_utils import cache_dir
from torch.fx.experimental.proxy_tensor import make_fx

from aevb import guides
from aevb.inference import MAP, MCEM, SGVB, Fit, NonFiniteError, WakeSleep, fit
from aevb.inference import objectives as objectives_room
from aevb.inference.graphs import background, graph_file, inductor, matrix_products
from aevb.inference.graphs.inductor import CannotCompileError
from aevb.inference.posterior import hmc
from aevb.inference.training import step_runner
from aevb.inference.training.captured_step import Flat, flatten_graph
from aevb.models import LatentVariableModel, likelihoods, networks, priors

NEEDS_COMPILER = pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
ADAM = partial(torch.optim.Adam, lr=1e-3, fused=True)
_NAMED = {"SGVB", "MAP", "MCEM", "WakeSleep", "PyroELBO", "Only", "EM", "Summarized", "Batch", "Objective", "Phase"}
OBJECTIVES = {
    "SGVB A": SGVB(estimator="A"),
    "SGVB B": SGVB(estimator="B"),
    "SGVB A, 3 samples": SGVB(estimator="A", num_samples=3),
    "WakeSleep": WakeSleep(),
    "MCEM": MCEM(num_leapfrog=2, num_updates=2),
    "MAP": MAP(SGVB()),
} | {
    name: getattr(objectives_room, name)()
    for name in objectives_room.__all__
    if name not in _NAMED and isinstance(getattr(objectives_room, name), type)
}


@pytest.fixture
def clean_cache(monkeypatch, tmp_path):
    """A compiler's cache without a graph, but with what torch found out of this processor by ten compilations."""
    pick_vec_isa()
    for tried in Path(cache_dir()).rglob("*.so.load_ok"):
        folder = tmp_path / tried.parent.name
        folder.mkdir(exist_ok=True)
        for path in (tried, tried.with_suffix("")):
            shutil.copy2(path, folder)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    return tmp_path


@pytest.fixture(scope="module")
def data():
    torch.manual_seed(0)
    return torch.bernoulli(torch.rand(200, 12))


def pair():
    torch.manual_seed(1)
    model = LatentVariableModel(priors.StandardNormal(3), networks.MLP(3, 12, hidden=[16]), likelihoods.Bernoulli())
    return model, guides.Normal(latent_dim=3, encoder=networks.MLP(12, hidden=[16]))


def small():
    """Programs of one weight each: what takes a compiler least."""
    torch.manual_seed(1)
    decode, encode = nn.Linear(1, 12), nn.Linear(12, 1)

    def model(x):
        pyro.module("decode", decode)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            rare = (x.amax(-1, keepdim=True) > 4.0).float()  # a row that turns the likelihood infinite
            pyro.sample("x", dist.Normal(decode(z) / (1.0 - rare), 1.0).to_event(1), obs=x)

    def guide(x):
        pyro.module("encode", encode)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(encode(x), 1.0).to_event(1))

    return model, guide


def train(data, level, *, programs=None, objective=None, optimizer=ADAM, steps=100):
    model, guide = pair() if programs is None else programs
    objective = SGVB() if objective is None else objective
    guide = guide if "guide" in objective.trains else None
    return fit(
        model, guide, data, objective=objective, optimizer=optimizer, steps=steps, batch_size=50, compile=level,
        progress=False,
    )  # fmt: skip


def flat(run):
    return torch.cat([p.detach().flatten() for p in run.pair.parameters()])


@pytest.mark.parametrize("name", OBJECTIVES)
def test_captured_equals_eager_over_100_steps(name, data):
    eager, captured = (train(data, level, objective=OBJECTIVES[name]) for level in ("never", "graph"))
    assert torch.allclose(flat(eager), flat(captured), atol=1e-5)
    clocks = {"seconds"}
    for column in eager.rows[-1].keys() - clocks:
        assert captured.rows[-1][column] == pytest.approx(eager.rows[-1][column], rel=1e-4)


@pytest.mark.parametrize(
    "optimizer",
    [
        partial(torch.optim.Adam, lr=1e-3, weight_decay=0.01),
        partial(torch.optim.AdamW, lr=1e-3, weight_decay=0.1),
        partial(torch.optim.Adagrad, lr=0.02, lr_decay=0.1),
        partial(torch.optim.SGD, lr=0.01, momentum=0.9, nesterov=True),
        partial(torch.optim.SGD, lr=0.01, weight_decay=0.1),
    ],
)
def test_optimisers_in_the_graph_equal_torchs_own(optimizer, data):
    eager, captured = (train(data, level, optimizer=optimizer) for level in ("never", "graph"))
    assert torch.allclose(flat(eager), flat(captured), atol=1e-5)


def test_the_captured_runs_make_no_warning(data):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(data, "graph", steps=4)


def test_a_schedule_that_reads_the_step_really_changes(data):
    annealed = objectives_room.KLAnnealing(steps=16)
    run = train(data, "graph", objective=annealed, steps=16)
    weights = [row["kl_weight"] for row in run.rows]
    assert weights == pytest.approx([(4 * epoch + 1.5) / 16 for epoch in range(4)])


def test_parameters_of_plain_functions_move(data):
    def programs():
        def model(x):
            loc = pyro.param("loc", torch.zeros(3))
            weight = pyro.param("weight", torch.full((3, 12), 0.1))
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(loc, 1.0).to_event(1))
                pyro.sample("x", dist.Bernoulli(logits=z @ weight).to_event(1), obs=x)

        def guide(x):
            weight = pyro.param("guide_weight", torch.full((12, 3), 0.1))
            scale = pyro.param("scale", torch.ones(3), constraint=dist.constraints.positive)
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(x @ weight, scale).to_event(1))

        return model, guide

    eager, captured = (train(data, level, programs=programs()) for level in ("never", "graph"))
    assert torch.allclose(flat(eager), flat(captured), atol=1e-5)
    start = {"loc": 0.0, "weight": 0.1, "guide_weight": 0.1, "scale": 1.0}
    for name, value in captured.params.items():
        assert not torch.allclose(value, torch.full_like(value, start[name]), atol=1e-3), name


def branching():
    model, guide = pair()

    def program(x):
        pyro.module("model", model)
        scale = 2.0 if bool(x.sum() > 1e9) else 1.0
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, scale).expand([3]).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=model.decoder(z)).to_event(1), obs=x)

    return program, guide


def test_a_pair_that_branches_on_data_trains_uncaptured_and_says_so_once(data):
    with pytest.warns(RuntimeWarning, match="uncaptured") as said:
        run = train(data, "graph", programs=branching())
    assert len([w for w in said if "uncaptured" in str(w.message)]) == 1
    assert torch.allclose(flat(run), flat(train(data, "never", programs=branching())), atol=1e-5)


def test_a_number_read_from_the_data_is_not_baked_in(data):
    def programs():
        model, guide = pair()

        def program(x):
            pyro.module("model", model)
            first = float(x.numpy()[0].sum())  # escapes torch
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(0.0, 1.0 + first).expand([3]).to_event(1))
                pyro.sample("x", dist.Bernoulli(logits=model.decoder(z)).to_event(1), obs=x)

        return program, guide

    with pytest.warns(RuntimeWarning, match="uncaptured"):
        train(data, "graph", programs=programs(), steps=2)


def test_a_tensor_that_wants_a_gradient_is_not_baked_in(data):
    loose = torch.zeros(12, requires_grad=True)

    def programs():
        model, guide = pair()

        def program(x):
            pyro.module("model", model)
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([3]).to_event(1))
                pyro.sample("x", dist.Bernoulli(logits=model.decoder(z) + loose).to_event(1), obs=x)

        return program, guide

    with pytest.warns(RuntimeWarning, match="wants a gradient"):
        train(data, "graph", programs=programs(), steps=2)


@pytest.mark.parametrize(
    "optimizer",
    [
        partial(torch.optim.RMSprop, lr=1e-3),
        partial(torch.optim.Adam, lr=1e-3, amsgrad=True),
        partial(torch.optim.SGD, lr=0.01, momentum=0.9, dampening=0.5),
    ],
)
def test_an_optimiser_without_a_form_in_the_graph_moves_after_it(optimizer, data):
    eager, captured = (train(data, level, optimizer=optimizer, steps=30) for level in ("never", "graph"))
    assert torch.allclose(flat(eager), flat(captured), atol=1e-6)


def test_players_may_mix_optimisers_in_the_graph_and_after_it(data):
    mixed = {"model": ADAM, "guide": partial(torch.optim.NAdam, lr=1e-3)}
    eager, captured = (train(data, level, optimizer=mixed, steps=30) for level in ("never", "graph"))
    assert torch.allclose(flat(eager), flat(captured), atol=1e-6)


def test_an_optimiser_after_the_graph_cannot_move_between_phases(data):
    with pytest.warns(RuntimeWarning, match="RMSprop would move after the whole step"):
        train(data, "graph", objective=WakeSleep(), optimizer=partial(torch.optim.RMSprop, lr=1e-3), steps=2)


@pytest.mark.parametrize("level", ["never", "graph"])
def test_gradients_are_clipped_as_torch_clips_them(level, data):
    """One step of SGD moves the parameters by the clipped gradient."""
    most, rate = 0.5, 0.1
    model, guide = pair()
    before = torch.cat([p.detach().flatten() for p in (*model.parameters(), *guide.parameters())])
    sgd = partial(torch.optim.SGD, lr=rate)
    run = fit(
        model, guide, data, optimizer=sgd, steps=1, batch_size=50, compile=level, clip_norm=most, progress=False
    )  # fmt: skip
    moved = torch.cat([p.detach().flatten() for p in (*run.model.parameters(), *run.guide.parameters())]) - before
    free = fit(*pair(), data, optimizer=sgd, steps=1, batch_size=50, compile=level, progress=False)
    unclipped = torch.cat([p.detach().flatten() for p in (*free.model.parameters(), *free.guide.parameters())]) - before
    assert float(unclipped.norm()) > 2 * rate * most  # there was something to clip
    assert float(moved.norm()) == pytest.approx(rate * most, rel=1e-4)
    assert torch.allclose(moved / moved.norm(), unclipped / unclipped.norm(), atol=1e-5)


def test_an_infinite_gradient_is_not_clipped_into_a_finite_one(data):
    model, guide = pair()

    def program(x):
        pyro.module("decoder", model.decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", model.prior())
            root = (z - z.detach()).abs().sum(-1, keepdim=True).sqrt()  # finite, with an infinite slope
            pyro.sample("x", dist.Bernoulli(logits=model.decoder(z) + root).to_event(1), obs=x)

    with pytest.raises(NonFiniteError, match="gradient"):
        fit(program, guide, data, steps=2, batch_size=50, compile="never", clip_norm=1.0, progress=False)


def test_a_changed_learning_rate_is_obeyed(data):
    def halt(loop):
        for optimizer in loop.optimizers.values():
            optimizer.param_groups[0]["lr"] = 0.0

    model, guide = pair()
    states = []
    watch = [halt, lambda loop: states.append(torch.cat([p.detach().flatten() for p in loop.pair.parameters()]))]
    fit(model, guide, data, steps=12, batch_size=50, compile="graph", observers=watch, progress=False)
    assert torch.equal(states[0], states[2])


@pytest.mark.parametrize("level", ["never", "graph", pytest.param("full", marks=NEEDS_COMPILER)])
def test_the_last_good_parameters_survive_a_bad_batch(level, data):
    rare = data.clone()
    rare[40] = 5.0
    good = []
    with warnings.catch_warnings(), pytest.raises(NonFiniteError, match=r"site 'x'") as caught:
        warnings.simplefilter("error", RuntimeWarning)
        for _ in (loop := Fit(*small(), rare, batch_size=50, steps=8, compile=level, seed=2, progress=False)):
            good.append(flat(loop.run))
    assert f"step {len(good) + 1}: the loss of model and guide" in str(caught.value)
    assert len(good) > 0
    assert torch.equal(flat(caught.value.run), good[-1])
    assert caught.value.run.settings["steps"] == len(good)


@NEEDS_COMPILER
def test_the_compiled_step_equals_the_eager_one(data):
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # a fallback would say so
        eager, compiled = (train(data, level) for level in ("never", "full"))
    assert torch.allclose(flat(eager), flat(compiled), atol=1e-4)
    assert compiled.rows[-1]["bound"] == pytest.approx(eager.rows[-1]["bound"], rel=1e-4)


def test_a_failing_compiler_leaves_the_graph(data, monkeypatch):
    def fail(*_):
        raise CannotCompileError("no compiler here")

    monkeypatch.setattr(step_runner, "compiled", fail)
    with pytest.warns(RuntimeWarning, match="no compiler here"):
        run = train(data, "full", steps=8)
    assert torch.equal(flat(run), flat(train(data, "graph", steps=8)))


def test_a_graph_that_is_written_and_read_is_the_same():
    def draw(x):
        return torch.randn(3) + x.clone().mul_(2.0) + torch.tensor([1.0, 2.0, 3.0]), torch.cat([x, x])

    graph = make_fx(draw)(torch.zeros(3))
    read = graph_file.read_graph(graph_file.write_graph(graph))
    assert [node.target for node in read.graph.nodes][:-1] == [node.target for node in graph.graph.nodes][:-1]
    for seed in (0, 1):
        results = [torch.random.manual_seed(seed) and program(torch.ones(3)) for program in (graph, read, draw)]
        assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other, strict=True))


@NEEDS_COMPILER
@pytest.mark.slow
def test_a_long_run_is_compiled_beside_and_switches_at_a_fixed_step(data, monkeypatch, clean_cache):
    monkeypatch.setattr(step_runner, "_WORTH_COMPILING", 60)
    monkeypatch.setattr(step_runner, "_SWITCH", 30)
    made = []

    def watched(flat, arguments):
        assert any(clean_cache.rglob("*.main.so"))  # the other process has left what it compiled
        run = inductor.compiled(flat, arguments)
        return lambda *inputs: made.append(1) or run(*inputs)

    monkeypatch.setattr(step_runner, "compiled", watched)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        switched = train(data, "auto", programs=small(), steps=60)
    assert len(made) == 30 + 1  # from the switch to the end, and once to be held against the eager step
    assert torch.allclose(flat(switched), flat(train(data, "never", programs=small(), steps=60)), atol=1e-4)


def test_a_compiler_that_fails_beside_leaves_the_graph(data, monkeypatch):
    monkeypatch.setattr(step_runner, "_WORTH_CAPTURING", 1)
    monkeypatch.setattr(step_runner, "_WORTH_COMPILING", 8)
    monkeypatch.setattr(step_runner, "_SWITCH", 4)
    monkeypatch.setattr(background, "_PROGRAM", "raise SystemExit('no compiler over there')")
    with pytest.warns(RuntimeWarning, match="no compiler over there"):
        run = train(data, "auto", steps=8)
    assert torch.equal(flat(run), flat(train(data, "graph", steps=8)))


def test_an_unknown_level_is_refused(data):
    with pytest.raises(ValueError, match="compile='fast'"):
        train(data, "fast")


def test_captured_chains_take_the_same_steps(monkeypatch):
    def density(u):
        return -0.5 * (u.square().sum(-1) + (u[..., 0] - 1.0).square())

    chains = []
    for threshold in (0, 10**9):
        monkeypatch.setattr(hmc, "WORTH_CAPTURING", threshold)
        torch.manual_seed(4)
        chains.append(hmc.sample(density, torch.zeros(1, 5, 3), num_samples=5, warmup=5))
    assert torch.equal(chains[0].u, chains[1].u)


def test_a_density_that_branches_on_values_is_sampled_uncaptured():
    def density(u):
        return -u.square().sum(-1) * (2.0 if bool(u.sum() > 0) else 1.0)

    with pytest.warns(RuntimeWarning, match="a density runs uncaptured"):
        draws = hmc.sample(density, torch.zeros(1, 2, 3), num_samples=200, warmup=5)
    assert draws.u.shape == (200, 1, 2, 3)


def test_redirected_products_are_as_precise_as_torchs(monkeypatch):
    if not torch.backends.mkldnn.is_available():
        pytest.skip("needs oneDNN")
    monkeypatch.setattr(matrix_products, "_mkl_is_slow", lambda: True)
    a, b, bias = torch.randn(128, 300), torch.randn(300, 70), torch.randn(70)
    graph = make_fx(lambda a, b, bias: (a @ b, torch.addmm(bias, a, b), b.t() @ a.t()))(a, b, bias)
    matrix_products.redirect_products(graph)
    graph.recompile()
    targets = [node.target for node in graph.graph.nodes]
    assert targets.count(matrix_products.product_operator()) == 3
    exact = a.double() @ b.double()
    for got, expected in zip(graph(a, b, bias), (exact, exact + bias, exact.T), strict=True):
        assert (got - expected).norm() < 1e-6 * expected.norm()


@NEEDS_COMPILER
@pytest.mark.parametrize("written_out", [True, False], ids=["written-out", "by-onednn"])
def test_compiled_products_are_as_precise_in_any_layout(monkeypatch, clean_cache, written_out):
    if not torch.backends.mkldnn.is_available():
        pytest.skip("needs oneDNN")
    monkeypatch.setattr(matrix_products, "_mkl_is_slow", lambda: True)
    if not written_out:
        monkeypatch.setattr(matrix_products, "_MOST", 0)
    a, b, bias = torch.randn(128, 300), torch.randn(300, 70), torch.randn(70)

    def several(a, b, bias):
        once = torch.addmm(bias, (2.0 * a).t().contiguous().t(), b)  # both factors computed, one of them transposed
        return once, b.t() @ a.t(), a.t() @ once, once @ b.t()

    graph = make_fx(several)(a, b, bias)
    flat = flatten_graph(graph, [])
    assert [node.target for node in flat.module.graph.nodes].count(matrix_products.product_operator()) == 4
    run = inductor.compiled(flat, [a, b, bias])
    for got, expected in zip(run(a, b, bias), several(a.double(), b.double(), bias.double()), strict=True):
        assert got.shape == expected.shape
        assert (got - expected).norm() < 1e-6 * expected.norm()


_SIZES = [(1, 7, 3), (13, 1, 16), (6, 5, 15), (64, 64, 64), (101, 513, 65), (5, 1300, 81), (20, 100, 500), (40, 30, 20)]


@NEEDS_COMPILER
@pytest.mark.parametrize("threads", [1, 2])
def test_products_written_out_are_right_at_every_size(monkeypatch, clean_cache, threads):
    monkeypatch.setattr(matrix_products, "_mkl_is_slow", lambda: True)
    pairs = [(torch.randn(m, k), torch.randn(k, n)) for m, k, n in _SIZES]
    pairs += [(a.t().contiguous().t(), b) for a, b in pairs]  # as the gradient of a weight has them
    pairs += [(a, b.t().contiguous().t()) for a, b in pairs[: len(_SIZES)]]  # as a weight is on the way forward
    given = [tensor for pair in pairs for tensor in pair]

    def several(*factors):
        return tuple(a @ b for a, b in zip(factors[::2], factors[1::2], strict=True))

    before = torch.get_num_threads()
    torch.set_num_threads(threads)  # what is compiled is compiled for so many
    try:
        run = inductor.compiled(flatten_graph(make_fx(several)(*given), []), given)
        results = run(*given)
    finally:
        torch.set_num_threads(before)
    for (a, b), got in zip(pairs, results, strict=True):
        exact = a.double() @ b.double()
        assert (got - exact).norm() < 2e-6 * exact.norm(), (a.shape, b.shape)


@NEEDS_COMPILER
def test_a_batch_normalised_guide_is_compiled(data):
    model, normal = pair()
    guide = guides.BatchNormNormal(normal.latent_dim, normal.encoder)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        run = train(data, "full", programs=(model, guide), steps=3)
    assert run.settings["steps"] == 3


@NEEDS_COMPILER
def test_what_cannot_be_called_from_cpp_is_called_from_python(monkeypatch):
    graph, tried, compile_with = make_fx(lambda x: x.exp())(torch.zeros(3)), [], inductor._compile_with

    def only_python(flat, examples, calls_in_cpp):
        tried.append(calls_in_cpp)
        if calls_in_cpp:
            raise RuntimeError("no shim")
        return compile_with(flat, examples, calls_in_cpp)

    monkeypatch.setattr(inductor, "_compile_with", only_python)
    run = inductor.compiled(Flat(graph, ()), [torch.zeros(3)])
    assert tried == [True, False]
    torch.testing.assert_close(run(torch.ones(3)), torch.ones(3).exp())


@NEEDS_COMPILER
def test_the_compilers_own_functions_are_right_to_rounding():
    x = torch.cat([torch.linspace(-12, 12, 20_001), torch.logspace(-30, 1, 400), torch.tensor([0.0, 1e30, -torch.inf])])
    logits, target = torch.linspace(-90, 90, 20_000), torch.rand(20_000).round(decimals=1)

    def several(x, logits, target):
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
        return x.tanh(), torch._foreach_norm([x[:20_001], x[:7]])[1], logits.sigmoid(), loss

    graph = make_fx(several)(x, logits, target)
    run = inductor.compiled(Flat(graph, ()), [x, logits, target])
    tanh, norm, sigmoid, loss = run(x, logits, target)
    exact = several(x.double(), logits.double(), target.double())
    assert ((tanh - exact[0]).abs() <= 6e-7 * exact[0].abs()).all()
    torch.testing.assert_close(norm.double(), exact[1], rtol=1e-6, atol=0.0)
    assert ((sigmoid - exact[2]).abs() <= 6e-7 * exact[2] + 1e-38).all()
    size = logits.abs() + exact[3]  # a loss near 0 is the difference of larger numbers, here as in torch
    assert ((loss - exact[3]).abs() <= 3e-7 * size + 1e-38).all()
    nothing = torch.full_like(logits, torch.nan)
    assert all(found.isnan().all() for found in run(x * torch.nan, nothing, target)[::2])
