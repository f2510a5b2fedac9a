"""The loop: seeds, lengths, resume, players, and what happens when numbers blow up."""

import copy
import warnings
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch

from aevb import guides
from aevb.inference import MCEM, SGVB, EarlyStopping, Fit, NonFiniteError, WakeSleep, fit
from aevb.inference.objectives import Batch, Only
from aevb.models import LatentVariableModel, likelihoods, networks, priors

X = torch.rand(50, 6, generator=torch.Generator().manual_seed(0)).round()


def _pair():
    torch.manual_seed(7)
    model = LatentVariableModel(priors.StandardNormal(2), networks.MLP(2, 6, hidden=[8]), likelihoods.Bernoulli())
    return model, guides.Normal(2, networks.MLP(6, hidden=[8]))


def _weights(run):
    return torch.cat([p.detach().flatten() for p in run.pair.parameters()])


def _fit(**options):
    settings = {"steps": 12, "batch_size": 10, "progress": False, **options}
    return fit(*_pair(), X, **settings)


@pytest.mark.parametrize("objective", [SGVB(), WakeSleep(), MCEM()])
def test_a_seed_gives_the_same_bits_and_another_does_not(objective):
    first, again, other = (_fit(objective=objective, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(_weights(first), _weights(again))
    assert first.rows[-1].keys() == again.rows[-1].keys()
    assert not torch.equal(_weights(first), _weights(other))


def test_the_global_random_state_is_left_alone():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    model, guide = _pair()
    torch.set_rng_state(before)
    fit(model, guide, X, steps=3, progress=False, validation=X)
    assert torch.equal(torch.get_rng_state(), before)


def test_two_runs_that_alternate_equal_two_runs_apart():
    apart = [_fit(seed=seed) for seed in (1, 2)]
    loops = [Fit(*_pair(), X, steps=12, batch_size=10, progress=False, seed=seed) for seed in (1, 2)]
    for _ in zip(*loops, strict=True):
        torch.rand(3)  # what is drawn in between does not matter
    for run, loop in zip(apart, loops, strict=True):
        torch.testing.assert_close(_weights(loop.run), _weights(run), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("length", "steps", "epochs"),
    [({"epochs": 3}, 15, 3), ({"steps": 7}, 7, 2), ({"samples_seen": 95}, 10, 2)],
)
def test_lengths_mean_what_they_say(length, steps, epochs):
    run = _fit(**{"steps": None, **length})
    assert run.settings["steps"] == steps
    assert list(run.history["epoch"]) == list(range(1, epochs + 1))
    assert run.history["samples_seen"].iloc[-1] == 10 * steps


@pytest.mark.parametrize("objective", [SGVB(), MCEM()])
@pytest.mark.parametrize("stop", [5, 7])
def test_a_resumed_run_equals_one_that_never_stopped(tmp_path, objective, stop):
    whole = _fit(objective=objective, steps=15)
    _fit(objective=objective, steps=stop, checkpoint=tmp_path / "c")
    resumed = _fit(objective=objective, steps=15, checkpoint=tmp_path / "c", resume=True)
    assert torch.equal(_weights(whole), _weights(resumed))


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    _fit(checkpoint=tmp_path / "c")
    with pytest.raises(ValueError, match="seed=0, this run seed=5"):
        _fit(seed=5, checkpoint=tmp_path / "c", resume=True)


def test_early_stopping_keeps_the_best_parameters():
    far = partial(torch.optim.SGD, lr=0.0)  # nothing ever improves after the first epoch
    run = _fit(steps=None, epochs=50, optimizer=far, validation=X, observers=[EarlyStopping(patience=3)])
    assert len(run.rows) <= 5 and "no better validation_bound" in run.settings["stopped"]


def test_early_stopping_needs_its_column():
    with pytest.raises(ValueError, match="validation=..."):
        _fit(observers=[EarlyStopping()])


@pytest.mark.parametrize("compile_level", ["never", "graph"])
def test_a_blow_up_names_the_site_and_keeps_the_last_good_parameters(compile_level):
    def model(x):
        level = pyro.param("level", torch.tensor(1.0))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            loc = (0.0 * z - level.log()).unsqueeze(-1).expand(*z.shape, 6)  # NaN once level < 0
            pyro.sample("pixels", dist.Normal(loc, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(pyro.param("loc", torch.tensor(3.0)), 0.01).expand([len(x)]))

    steep = {"model": partial(torch.optim.SGD, lr=1.0), "guide": partial(torch.optim.SGD, lr=0.0)}
    with pytest.raises(NonFiniteError, match=r"step \d+: the .* not finite.*") as caught:
        fit(model, guide, X, steps=50, optimizer=steep, progress=False, compile=compile_level)
    assert all(torch.isfinite(value).all() for value in caught.value.run.params.values())
    assert "'pixels'" in str(caught.value)


class _Rows:
    """Rows that are not known to be tensors, so that nobody looks at them before they come."""

    def __init__(self, x):
        self.x = x

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return self.x[index]


def _plain(x):
    level = pyro.param("level", torch.zeros(6))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
        pyro.sample("pixels", dist.Normal(z.unsqueeze(-1) + level, 1.0).to_event(1), obs=x)


def _plain_guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(pyro.param("loc", torch.tensor(0.0)).expand([len(x)]), 1.0))


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (torch.nan, "only with row 30 of the data, which holds NaN or infinities. Drop such rows"),
        (1e30, "'pixels': .* its log-likelihood are not finite. No parameter has moved yet: look at the range"),
    ],
)
def test_what_the_data_do_is_not_blamed_on_the_learning_rate(value, why):
    x = X.clone()
    x[30, 2] = value
    with pytest.raises(NonFiniteError, match=why) as caught:
        fit(_plain, _plain_guide, _Rows(x), steps=1, batch_size=50, progress=False)
    assert "learning rate" not in str(caught.value)
    fit(_plain, _plain_guide, _Rows(torch.cat([x[:30], x[31:]])), steps=1, batch_size=49, progress=False)


def test_each_player_has_its_own_optimiser():
    still = {"model": partial(torch.optim.SGD, lr=0.0), "guide": partial(torch.optim.Adam, lr=1e-2)}
    model, guide = _pair()
    before = [p.clone() for p in model.parameters()]
    run = fit(model, guide, X, steps=3, optimizer=still, progress=False)
    assert all(torch.equal(a, b) for a, b in zip(before, run.pair.model.parameters(), strict=True))
    with pytest.raises(ValueError, match="no entry for player 'guide'"):
        fit(model, guide, X, steps=1, optimizer={"model": still["model"]}, progress=False)


def test_a_parameter_born_late_is_trained():
    calls = []

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            calls.append(1)
            shift = pyro.param("late", torch.tensor(0.0)) if len(calls) > 6 else x.new_zeros(())
            loc = (z + shift).unsqueeze(-1).expand(*z.shape, 6)
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(pyro.param("loc", torch.tensor(0.1)), 1.0).expand([len(x)]))

    run = fit(model, guide, X, steps=20, batch_size=10, progress=False, compile="never")
    assert float(run.params["late"]) != 0.0


def test_plain_functions_train_their_parameters_and_leave_the_store_empty():
    def model(x):
        weight = pyro.param("weight", torch.full((6,), 0.1))
        noise = pyro.param("noise", torch.tensor(1.0), constraint=dist.constraints.positive)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z.unsqueeze(-1) * weight, noise).to_event(1), obs=x)

    def guide(x):
        slope = pyro.param("slope", torch.tensor(0.2))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(slope * x.sum(-1), 1.0))

    run = fit(model, guide, X, steps=60, batch_size=10, progress=False)
    assert set(run.params) == {"weight", "noise", "slope"}
    assert float(run.params["noise"]) > 0 and float(run.params["noise"]) != 1.0
    assert run.history["bound"].iloc[-1] > run.history["bound"].iloc[0]
    assert len(pyro.get_param_store()) == 0


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"batch_size": 0}, "batch_size=0"),
        ({"steps": 0}, "steps=0"),
        ({"epochs": 1}, "one of epochs, steps"),
        ({"device": "abacus"}, "abacus"),
        ({"compile": "perhaps"}, "perhaps"),
    ],
)
def test_bad_arguments_are_named(options, expected):
    with pytest.raises(ValueError, match=expected):
        _fit(**options)


def test_a_missing_guide_is_told():
    with pytest.raises(ValueError, match="SGVB trains a guide"):
        fit(_pair()[0], None, X, steps=1, progress=False)


def test_a_run_that_stopped_early_has_stopped_when_it_is_resumed(tmp_path):
    still = {"steps": None, "epochs": 30, "optimizer": partial(torch.optim.SGD, lr=0.0), "validation": X}
    first = _fit(**still, observers=[EarlyStopping(patience=2)], checkpoint=tmp_path / "c")
    again = _fit(**still, observers=[EarlyStopping(patience=2)], checkpoint=tmp_path / "c", resume=True)
    assert len(again.rows) == len(first.rows) == 3
    assert again.settings["stopped"] == first.settings["stopped"]


def test_early_stopping_gives_back_the_best_parameters():
    class Scripted(EarlyStopping):
        def __call__(self, fit):
            fit.history[-1]["validation_bound"] = -abs(fit.history[-1]["epoch"] - 3.0)  # the third epoch is best
            if fit.history[-1]["epoch"] == 3:
                self.third = _weights(fit.run).clone()
            super().__call__(fit)

    watcher = Scripted(patience=2)
    run = _fit(steps=None, epochs=50, observers=[watcher])
    assert len(run.rows) == 5 and torch.equal(_weights(run), watcher.third)


class _Scripted(EarlyStopping):
    """Early stopping that is told which epoch is the best, and keeps a look at its parameters."""

    def __init__(self, best, **options):
        super().__init__(**options)
        self.script = best

    def __call__(self, fit):
        row = fit.history[-1]
        row["validation_bound"] = -abs(row["epoch"] - self.script)
        if row["epoch"] == self.script:
            self.seen = _weights(fit.run).clone()
        super().__call__(fit)


def test_the_best_parameters_come_back_where_patience_never_ran_out():
    watcher = _Scripted(2, patience=50)
    run = _fit(steps=None, epochs=4, observers=[watcher])
    assert len(run.rows) == 4 and run.settings["stopped"] is None
    assert torch.equal(_weights(run), watcher.seen)
    loop = Fit(*_pair(), X, epochs=4, batch_size=10, progress=False, observers=[watcher])
    for _ in loop:
        pass
    assert torch.equal(_weights(loop.run), watcher.seen)


def test_an_early_stopping_watches_each_run_from_its_start():
    watcher = _Scripted(1, patience=2)
    _fit(steps=None, epochs=9, observers=[watcher], seed=1)
    first = watcher.seen
    watcher.script = 3
    run = _fit(steps=None, epochs=9, observers=[watcher], seed=2)
    assert len(run.rows) == 5 and torch.equal(_weights(run), watcher.seen)
    assert not torch.equal(watcher.seen, first)


def test_an_early_stopping_is_not_shared_by_runs_that_alternate():
    watcher = _Scripted(1, patience=2)
    first, _ = (Fit(*_pair(), X, steps=5, batch_size=50, progress=False, observers=[watcher]) for _ in range(2))
    with pytest.raises(ValueError, match="watches another run"):
        first.advance()


def test_a_longer_run_goes_on_from_the_last_step_and_ends_with_the_best_of_all(tmp_path):
    """The checkpoint holds the run as it stood, not the best parameters it ended with."""
    whole = _Scripted(4, patience=50)
    expected = _fit(steps=None, epochs=6, observers=[whole])
    half, rest = _Scripted(4, patience=50), _Scripted(4, patience=50)
    _fit(steps=None, epochs=5, observers=[half], checkpoint=tmp_path / "c")
    run = _fit(steps=None, epochs=6, observers=[rest], checkpoint=tmp_path / "c", resume=True)
    assert torch.equal(_weights(run), _weights(expected)) and torch.equal(_weights(run), whole.seen)
    again = _fit(steps=None, epochs=6, observers=[rest], checkpoint=tmp_path / "c", resume=True)
    assert torch.equal(_weights(again), whole.seen)
    resumed = torch.load(tmp_path / "c", weights_only=True)["pair"]
    assert not all(torch.equal(value, resumed[name]) for name, value in run.pair.state_dict().items())


def test_an_observer_that_joins_a_resumed_run_starts_anew(tmp_path):
    _fit(steps=None, epochs=2, checkpoint=tmp_path / "c", observers=[lambda fit: None])
    watcher = _Scripted(3, patience=50)
    watcher.best, watcher.best_epoch = 9.0, 1  # left by another run
    run = _fit(steps=None, epochs=4, checkpoint=tmp_path / "c", resume=True, observers=[watcher])
    assert torch.equal(_weights(run), watcher.seen)


def test_early_stopping_that_sees_no_number_says_so():
    class Broken(EarlyStopping):
        def __call__(self, fit):
            fit.history[-1]["validation_bound"] = float("nan")
            super().__call__(fit)

    with pytest.raises(ValueError, match="no finite validation_bound"):
        _fit(steps=None, epochs=9, observers=[Broken(patience=2)])


def test_rows_may_be_drawn_afresh_at_every_visit():
    class Dynamic:
        def __init__(self, grey):
            self.grey, self.asked = grey, []

        def __len__(self):
            return len(self.grey)

        def __getitem__(self, index):
            self.asked += index.tolist()
            return torch.bernoulli(self.grey[index])

    grey = torch.rand(50, 6, generator=torch.Generator().manual_seed(1))
    runs = []
    for _ in range(2):
        data = Dynamic(grey)
        runs.append(fit(*_pair(), data, epochs=2, batch_size=10, progress=False, compile="never"))
    assert torch.equal(_weights(runs[0]), _weights(runs[1]))
    assert all(data.asked.count(row) >= 2 for row in range(50))


def test_a_parameter_that_both_players_hold_is_stepped_once():
    encoder = networks.MLP(6, hidden=[8])
    guide = guides.Normal(2, encoder)
    prior = priors.VampPrior(guide.posterior, 6, num_pseudo_inputs=3)
    model = LatentVariableModel(prior, networks.MLP(2, 6, hidden=[8]), likelihoods.Bernoulli())
    loop = Fit(model, guide, X, optimizer=partial(torch.optim.SGD, lr=0.5), steps=1, batch_size=50, progress=False)
    before = {name: value.clone() for name, value in loop.pair.named_parameters()}
    with loop.random:
        state = torch.get_rng_state()
    x = X[loop.random.permutation(50, epoch=0)]
    with torch.random.fork_rng():
        torch.set_rng_state(state)
        (phase,) = loop.objective(loop.pair, Batch((x,), torch.arange(50), 50, torch.tensor(0)), loop.memory)
    shared = list(encoder.parameters())
    gradients = torch.autograd.grad(phase.losses["model"], shared)
    loop.advance()
    names = {id(value): name for name, value in loop.pair.named_parameters()}
    for value, gradient in zip(shared, gradients, strict=True):
        torch.testing.assert_close(value.detach(), before[names[id(value)]] - 0.5 * gradient, rtol=1e-4, atol=1e-6)


def test_a_pair_without_parameters_has_nothing_to_train():
    encoder = torch.nn.Linear(6, 1)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z.unsqueeze(-1), 1.0).expand([*z.shape, 6]).to_event(1), obs=x)

    def forgetful(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(encoder(x).squeeze(-1), 1.0))

    with pytest.raises(ValueError, match=r"nothing to train.*pyro\.module"):
        fit(model, forgetful, X, steps=1, progress=False)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"objective": SGVB}, r"SGVB is a class; pass one of it: SGVB\(\)"),
        ({"optimizer": torch.optim.Adam([torch.zeros(1, requires_grad=True)])}, "does not make a torch optimiser"),
        ({"optimizer": pyro.optim.Adam({"lr": 0.1})}, "does not make a torch optimiser"),
        ({"optimizer": torch.optim.LBFGS}, r"LBFGS of player 'model' evaluates the loss several times.*Adam"),
        ({"optimizer": {"model": torch.optim.Adam, "guide": torch.optim.LBFGS}}, "LBFGS of player 'guide'"),
    ],
)
def test_what_is_passed_half_made_is_told(options, expected):
    with pytest.raises(ValueError, match=expected):
        _fit(**options)


def _cut_off(player):
    """A pair of functions one of whose parameters the loss does not see."""

    def seen(value, by):
        return value.detach() if by == player else value

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            loc = z + seen(pyro.param("shift", torch.tensor(0.5)), "model")
            pyro.sample("x", dist.Normal(loc.unsqueeze(-1), 1.0).expand([*z.shape, 6]).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            loc = seen(pyro.param("loc", torch.tensor(0.1)), "guide")
            pyro.sample("z", dist.Normal(loc, 1.0).expand([len(x)]))

    return model, guide


@pytest.mark.filterwarnings("ignore:the training step runs uncaptured")
@pytest.mark.parametrize("compile_level", ["never", "graph"])
@pytest.mark.parametrize(
    ("objective", "player", "where"),
    [
        (SGVB(estimator="A"), "guide", "phase 1 of SGVB: the loss of the guide"),
        (WakeSleep(), "guide", "phase 2 of WakeSleep: the loss of the guide"),
        (WakeSleep(), "model", "phase 1 of WakeSleep: the loss of the model"),
        (MCEM(), "model", "phase 1 of MCEM: the loss of the model"),
    ],
)
def test_a_player_that_its_loss_does_not_reach_is_named(objective, player, where, compile_level):
    options = {"steps": 2, "progress": False, "compile": compile_level}
    model, guide = _cut_off(player)
    with pytest.raises(ValueError, match=f"{where} depends on none of its 1 parameters") as caught:
        fit(model, None if objective.trains == {"model"} else guide, X, objective=objective, **options)
    assert "Only(" in str(caught.value)
    if (others := tuple(objective.trains - {player})) and isinstance(objective, SGVB):
        run = fit(model, guide, X, objective=Only(objective, others), **options)
        assert float(run.params["shift"]) != 0.5 and float(run.params["loc"]) == pytest.approx(0.1)


def _said_to_go_on(*programs, **options):
    """The run of a second fit, and whether it was said to go on from an earlier one."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        run = fit(*programs, X, steps=2, progress=False, **options)
    return run, any("goes on from weights" in str(warning.message) for warning in said)


def test_a_module_is_trained_in_place_and_a_second_fit_of_it_says_so():
    model, guide = _pair()
    copies = copy.deepcopy((model, guide))
    first, said = _said_to_go_on(model, guide)
    assert not said and first.model.fn is model
    kept = _weights(first).clone()
    second, said = _said_to_go_on(model, guide)
    assert said and torch.equal(_weights(first), _weights(second)) and not torch.equal(_weights(first), kept)
    Fit(*copies, X, steps=1, progress=False)  # set up and never stepped
    alone, said = _said_to_go_on(*copies)
    assert not said and torch.equal(_weights(alone), kept)  # a copy is a fit of its own
    assert not _said_to_go_on(first.model, first.guide)[1]  # the way to go on
    assert not _said_to_go_on(model, _pair()[1], objective=Only(SGVB(), ("guide",)))[1]  # the model is not trained


def test_functions_begin_anew_in_every_fit_and_a_run_s_programs_go_on():
    def model(x):
        weight = pyro.param("weight", torch.full((6,), 0.1))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z.unsqueeze(-1) * weight, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(pyro.param("slope", torch.tensor(0.2)) * x.sum(-1), 1.0))

    first, _ = _said_to_go_on(model, guide)
    kept = _weights(first).clone()
    second, said = _said_to_go_on(model, guide)
    assert not said and torch.equal(_weights(second), kept) and torch.equal(_weights(first), kept)
    third, said = _said_to_go_on(first.model, first.guide)
    assert not said and not torch.equal(_weights(third), kept)
