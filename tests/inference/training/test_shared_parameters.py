"""A parameter that model and guide share descends what both make of it, in every phase and at every level."""

import math
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from aevb.inference import MAP, MCEM, SGVB, Fit, Pair, WakeSleep
from aevb.inference.objectives import DReG, FullVB, ReweightedWakeSleep, StickingTheLanding
from aevb.inference.objectives.only import Only

X = torch.linspace(-1.0, 2.0, 6, dtype=torch.float64)
LR = 0.05


class Model(nn.Module):
    def __init__(self, shared):
        super().__init__()
        self.shared = shared
        self.bias = nn.Parameter(torch.tensor(0.2, dtype=torch.float64))

    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(self.shared[0], 1.0).expand([len(x)]))
            pyro.sample("x", dist.Normal(z * self.shared[1] + self.bias, 0.7), obs=x)


class Guide(nn.Module):
    def __init__(self, shared):
        super().__init__()
        self.shared = shared
        self.slope = nn.Parameter(torch.tensor(0.4, dtype=torch.float64))

    def forward(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.slope * x + self.shared[0], self.shared[1].exp()))


def _programs():
    shared = nn.Parameter(torch.tensor([0.3, -0.4], dtype=torch.float64))
    return Model(shared), Guide(shared)


def _loop(objective, level, **options):
    sgd = partial(torch.optim.SGD, lr=LR)
    return Fit(*_programs(), X, objective=objective, optimizer=sgd, steps=3, progress=False, compile=level, **options)


def _by_hand(objective, loop, state, most=math.inf):
    """Three steps in which every phase moves each parameter by the sum of its gradients in its players' losses."""
    pair = Pair(*_programs()).check(X)
    memory = objective.start(pair, X)
    torch.set_rng_state(state)
    for step in range(3):
        index = loop.random.permutation(len(X), epoch=step)
        batch = loop._batch(step)._replace(data=(X[index],), rows=index)
        for phase in objective(pair, batch, memory):
            total = {}
            by_loss = {}
            for player, loss in phase.losses.items():
                by_loss.setdefault(id(loss), (loss, {}))[1].update({id(p): p for p in pair.players()[player]})
            for loss, parameters in by_loss.values():
                slopes = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True, retain_graph=True)
                norm = torch.cat([slope.flatten() for slope in slopes if slope is not None]).norm()
                share = (most / (norm + 1e-6)).clamp(max=1.0)
                for p, slope in zip(parameters.values(), slopes, strict=True):
                    if slope is not None:
                        total[id(p)] = (p, total.get(id(p), (p, 0.0))[1] + share * slope)
            with torch.no_grad():
                for p, slope in total.values():
                    p -= LR * slope
    return {name: value.detach() for name, value in pair.named_parameters()}


@pytest.mark.parametrize("level", ["never", "graph"])
@pytest.mark.parametrize(
    "objective",
    [WakeSleep(), ReweightedWakeSleep(guide="both"), DReG(num_samples=2), StickingTheLanding(), SGVB()],
    ids=lambda objective: type(objective).__name__,
)
def test_each_phase_moves_it_by_the_sum_of_both_players_gradients(objective, level):
    loop = _loop(objective, level)
    with loop.random:
        state = torch.get_rng_state()
    with torch.random.fork_rng():
        expected = _by_hand(objective, loop, state)
    for _ in loop:
        pass
    found = dict(loop.pair.named_parameters())
    assert abs(float(found["guide.fn.slope"].detach()) - 0.4) > 1e-4
    for name, value in expected.items():
        torch.testing.assert_close(found[name].detach(), value, rtol=1e-6, atol=1e-9)


def test_an_optimizer_outside_the_graph_moves_it_in_every_phase_too():
    rprop = partial(torch.optim.Rprop, lr=LR)  # one the capture has no form of
    with pytest.warns(RuntimeWarning, match="Rprop would move after the whole step"):
        loop = Fit(*_programs(), X, objective=WakeSleep(), optimizer=rprop, steps=2, progress=False, compile="graph")
        for _ in loop:
            pass
    eager = Fit(*_programs(), X, objective=WakeSleep(), optimizer=rprop, steps=2, progress=False, compile="never")
    for _ in eager:
        pass
    assert torch.equal(loop.pair.model.fn.shared, eager.pair.model.fn.shared)


def test_clipping_scales_each_loss_before_they_are_summed():
    objective, most = DReG(num_samples=2), 0.3
    loop = _loop(objective, "never", clip_norm=most)
    with loop.random:
        state = torch.get_rng_state()
    with torch.random.fork_rng():
        expected = _by_hand(objective, loop, state, most)
    for _ in loop:
        pass
    found = dict(loop.pair.named_parameters())
    for name, value in expected.items():
        torch.testing.assert_close(found[name].detach(), value, rtol=1e-6, atol=1e-9)


def test_what_the_model_shares_stays_still_where_the_model_does():
    for objective in (Only(SGVB(), ("guide",)), Only(WakeSleep(), ("guide",))):
        loop = _loop(objective, "never")
        for _ in loop:
            pass
        assert loop.pair.model.fn.shared.tolist() == [0.3, -0.4]
        assert float(loop.pair.guide.fn.slope.detach()) != 0.4


def test_what_the_model_shares_moves_where_the_model_is_trained_alone():
    loop = _loop(MCEM(), "never")
    for _ in loop:
        pass
    assert loop.pair.model.fn.shared.tolist() != [0.3, -0.4]


def test_weights_with_a_posterior_are_not_moved_by_the_guide_beside():
    loop = _loop(FullVB(), "never")
    assert [id(p) for p in loop.players.parameters()["guide"]] == [id(loop.pair.guide.fn.slope)]
    for _ in loop:
        pass
    posterior = FullVB.posterior(loop.memory)
    torch.testing.assert_close(loop.pair.model.fn.shared, posterior["fn.shared"].loc, rtol=0, atol=0)


@pytest.mark.parametrize("objective", [SGVB(), WakeSleep(), DReG(num_samples=2)], ids=lambda o: type(o).__name__)
def test_its_prior_counts_once(objective):
    pair = Pair(*_programs()).check(X)
    memory = objective.start(pair, X)
    batch = _loop(SGVB(), "never")._batch(0)._replace(data=(X,), rows=torch.arange(6), size=100)
    players = [("model",), ("guide",), ("model", "guide")]
    extra = {}
    for names in players:
        slopes = []
        for made in (MAP(objective, scale=0.5, players=names), objective):
            torch.manual_seed(0)
            total = torch.zeros(2, dtype=torch.float64)
            for phase in made(pair, batch, memory):
                for loss in {id(loss): loss for loss in phase.losses.values()}.values():
                    (slope,) = torch.autograd.grad(loss, [pair.model.fn.shared], retain_graph=True, allow_unused=True)
                    total += 0.0 if slope is None else slope
            slopes.append(total)
        extra[names] = slopes[0] - slopes[1]
    expected = pair.model.fn.shared.detach() / (0.5**2 * 100)
    for names in players:
        torch.testing.assert_close(extra[names], expected)


def test_a_prior_over_a_player_that_is_not_trained_is_refused():
    with pytest.raises(ValueError, match=r"players=\('model',\).*FullVB trains: \['guide'\]"):
        MAP(FullVB())
    with pytest.raises(ValueError, match=r"players=\('critic',\)"):
        MAP(SGVB(), players=("critic",))
