"""Objectives on several samples per datapoint, against SGVB, Pyro and each other on a pair whose evidence is known."""

import math
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import RenyiELBO, TraceTailAdaptive_ELBO
from pyro.infer import ReweightedWakeSleep as PyroRWS
from torch import nn

from aevb.inference import SGVB, ContractError, Pair, WakeSleep, fit
from aevb.inference.objectives import IWAE, Batch, DReG, Renyi, ReweightedWakeSleep, StickingTheLanding, TailAdaptive
from aevb.inference.training.parameter_groups import Players
from aevb.inference.training.step import EagerStep


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.loc = nn.Parameter(torch.tensor(0.3))

    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z.sum(-1) + self.loc, 1.0), obs=x)


class Guide(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(1, 2)
        self.log_scale = nn.Parameter(torch.tensor([-0.2, 0.1]))

    def forward(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.net(x[:, None]), self.log_scale.exp()).to_event(1))


X = torch.tensor([0.5, -1.0, 2.0, 0.1])


@pytest.fixture
def pair():
    torch.manual_seed(0)
    return Pair(Model(), Guide()).check(X)


def batch(x=X, step=0):
    return Batch((x,), torch.arange(len(x)), 100, torch.tensor(step))


def grads(objective, pair, x=X, seed=1):
    """The phase and the gradient of each player in its own loss."""
    torch.manual_seed(seed)
    (phase,) = objective(pair, batch(x), objective.start(pair, x))
    found = {
        player: torch.autograd.grad(phase.losses[player], parameters, retain_graph=True)
        for player, parameters in pair.players().items()
        if parameters
    }
    return phase, {player: torch.cat([g.flatten() for g in value]) for player, value in found.items()}


@pytest.mark.parametrize(
    "objective", [IWAE(num_samples=1), Renyi(alpha=1.0, num_samples=1), Renyi(alpha=0.4, num_samples=1)]
)
def test_one_sample_is_sgvb_a(pair, objective):
    ours, our_grads = grads(objective, pair)
    sgvb, sgvb_grads = grads(SGVB(estimator="A"), pair)
    torch.testing.assert_close(ours.report["bound"], sgvb.report["bound"])
    for player in sgvb_grads:
        torch.testing.assert_close(our_grads[player], sgvb_grads[player])


@pytest.mark.parametrize("num_samples", [1, 4])
def test_dreg_is_unbiased_for_the_iwae_gradient_and_varies_less(pair, num_samples):
    repeats, many = 200, X.repeat(30)  # a large batch averages within a repeat: cheaper than as many repeats
    iwae, dreg = (
        torch.stack([grads(objective, pair, many, seed=s + offset)[1]["guide"] for s in range(repeats)])
        for objective, offset in ((IWAE(num_samples=num_samples), 0), (DReG(num_samples=num_samples), 5000))
    )
    error = ((iwae.var(0) + dreg.var(0)) / repeats).sqrt()
    assert bool(((iwae.mean(0) - dreg.mean(0)).abs() < 3.5 * error).all())
    assert dreg.var(0).sum() < 0.9 * iwae.var(0).sum()


def test_the_model_gradients_of_iwae_dreg_and_reweighted_wake_sleep_are_one(pair):
    reference = grads(IWAE(num_samples=3), pair)[1]["model"]
    for objective in (DReG(num_samples=3), TailAdaptive(num_samples=3), ReweightedWakeSleep(num_samples=3)):
        torch.testing.assert_close(grads(objective, pair)[1]["model"], reference)


def test_sticking_the_landing_is_unbiased_and_vanishes_at_the_exact_posterior(pair):
    sgvb, stl = (
        torch.stack([grads(objective, pair, X.repeat(100), seed=s + offset)[1]["guide"] for s in range(100)])
        for objective, offset in ((SGVB(estimator="A"), 0), (StickingTheLanding(), 5000))
    )
    error = ((sgvb.var(0) + stl.var(0)) / 100).sqrt()
    assert bool(((sgvb.mean(0) - stl.mean(0)).abs() < 3.5 * error).all())
    exact = Pair(_model_1d, ExactGuide()).check(X)
    assert grads(StickingTheLanding(), exact)[1]["guide"].abs().max() < 1e-5
    assert grads(SGVB(estimator="A"), exact)[1]["guide"].abs().max() > 0.05


class ExactGuide(nn.Module):
    def __init__(self):
        super().__init__()
        self.slope, self.scale = nn.Parameter(torch.tensor(0.5)), nn.Parameter(torch.tensor(0.5).sqrt())

    def forward(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.slope * x, self.scale))


def _model_1d(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def _wide_guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x / 2, 1.2))


def test_bounds_rise_with_k_towards_the_evidence():
    pair = Pair(_model_1d, _wide_guide).check(X)
    exact = dist.Normal(0.0, math.sqrt(2)).log_prob(X).mean()
    torch.manual_seed(0)
    x = X.repeat(500)
    bounds = [next(IWAE(num_samples=k)(pair, batch(x), nn.Module())).report["bound"] for k in (1, 5, 200)]
    assert bounds[0] < bounds[1] < bounds[2] < exact + 0.01
    assert abs(bounds[2] - exact) < 0.01


@pytest.mark.parametrize("alpha", [0.0, 0.5, 2.0])
def test_renyi_is_pyros_where_nothing_is_scaled(pair, alpha):
    torch.manual_seed(3)
    pyros = RenyiELBO(alpha=alpha, num_particles=6, vectorize_particles=True, max_plate_nesting=1).loss(
        pair.model, pair.guide, X
    )
    ours, _ = grads(Renyi(alpha=alpha, num_samples=6), pair, seed=3)
    assert -pyros / len(X) == pytest.approx(float(ours.report["renyi_bound"]), rel=1e-5)


def test_pyros_renyi_leaves_the_evidence_behind_under_a_scale_and_ours_does_not():
    x = X.repeat(10)
    exact = float(dist.Normal(0.0, math.sqrt(2)).log_prob(x).mean())
    elbo = RenyiELBO(alpha=0.0, num_particles=1000, vectorize_particles=True, max_plate_nesting=1)
    torch.manual_seed(0)
    scaled = [poutine.scale(program, 10.0) for program in (_model_1d, _wide_guide)]
    assert -elbo.loss(*scaled, x) / 10.0 / len(x) > exact + 0.3  # "a lower bound", above the evidence
    with pytest.raises(ContractError, match="carries a scale"):
        Pair(*scaled).check(x)
    pair = Pair(_model_1d, _wide_guide).check(x)
    ours = next(IWAE(num_samples=1000)(pair, batch(x), nn.Module())).report["bound"]
    assert float(ours) == pytest.approx(exact, abs=0.02)


@pytest.mark.parametrize(("which", "insomnia"), [("wake", 1.0), ("sleep", 0.0), ("both", 0.5)])
def test_reweighted_wake_sleep_is_pyros_on_a_batch_of_one(pair, which, insomnia):
    one = X[:1]
    pyros = PyroRWS(
        num_particles=5, insomnia=insomnia, num_sleep_particles=1, vectorize_particles=True, max_plate_nesting=1
    )

    def guide(x, observations=None):  # Pyro hands the dream over by this argument
        return pair.guide(x if not observations else observations["x"])

    torch.manual_seed(2)
    theta, phi = pyros.loss(lambda x, observations=None: pair.model(x), guide, one)
    ours, _ = grads(ReweightedWakeSleep(num_samples=5, guide=which), pair, one, seed=2)
    assert float(theta) == pytest.approx(float(ours.losses["model"]), rel=1e-4)
    assert float(phi) == pytest.approx(float(ours.losses["guide"]), rel=1e-4)


def test_reweighted_wake_sleep_weighs_datapoints_not_batches(pair):
    torch.manual_seed(4)
    (phase,) = ReweightedWakeSleep(num_samples=7)(pair, batch(), nn.Module())
    torch.manual_seed(4)
    with torch.no_grad():
        cloud = pair.cloud(X, 7)
    weights = cloud.log_weight.exp() / cloud.log_weight.exp().sum(0)
    expected = -(weights * cloud.log_q).sum(0).mean()
    torch.testing.assert_close(phase.losses["guide"].detach(), expected)
    torch.testing.assert_close(phase.report["bound"], cloud.log_weight.exp().mean(0).log().mean())


def test_tail_adaptive_weighs_by_rank_and_sticks_the_landing_without(pair):
    log_weight = torch.tensor([[-3.0, 5.0], [900.0, 5.0], [1.0, -2.0], [1.5, 5.0]])
    expected = torch.tensor([[1 / 4, 1 / 3], [1.0, 1 / 3], [1 / 3, 1 / 4], [1 / 2, 1 / 3]])  # ties count as one
    torch.testing.assert_close(TailAdaptive().weights(log_weight), expected / expected.sum(0))
    landing = grads(StickingTheLanding(num_samples=6), pair)[1]["guide"]
    torch.testing.assert_close(grads(TailAdaptive(num_samples=6, beta=0.0), pair)[1]["guide"], landing)
    assert (grads(TailAdaptive(num_samples=6), pair)[1]["guide"] - landing).abs().max() > 1e-2
    with pytest.raises(ValueError, match=r"beta=-1.0 must be at least 0"):
        TailAdaptive(beta=-1.0)


def test_pyros_tail_adaptive_takes_the_sorting_permutation_for_the_ranks(pair):
    """Why ours is our own: on a single datapoint, unscaled, with five samples."""
    elbo = TraceTailAdaptive_ELBO(num_particles=5, vectorize_particles=True, max_plate_nesting=1)
    torch.manual_seed(5)
    parameters = list(pair.guide.parameters())
    pyros = torch.autograd.grad(elbo.differentiable_loss(pair.model, pair.guide, X[:1]), parameters)
    torch.manual_seed(5)
    log_weight = pair.cloud(X[:1], 5).log_weight[:, 0]
    order = log_weight.argsort()
    ranks = order.argsort()
    assert not torch.equal(order, ranks)
    gamma = 1.0 / (order + 1.0)
    surrogate = -(gamma * log_weight).sum() / gamma.sum() / 5  # Pyro divides by the number of particles once more
    torch.testing.assert_close(pyros, torch.autograd.grad(surrogate, parameters))
    assert gamma.argmax() != log_weight.argmax() == TailAdaptive().weights(log_weight[:, None])[:, 0].argmax()


def test_tail_adaptive_covers_what_the_elbo_leaves_out():
    """A scale mixture, whose tails a normal guide of the ELBO is too narrow for."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.StudentT(2.0, torch.zeros(len(x)), 1.0))
            pyro.sample("x", dist.Normal(z, 50.0), obs=x)

    def scale_of(objective):
        guide = ExactGuide()
        options = {"steps": 400, "batch_size": 100, "progress": False, "device": "cpu", "compile": "graph"}
        adam = partial(torch.optim.Adam, lr=0.02)
        fit(model, guide, torch.zeros(100), objective=objective, optimizer=adam, **options)
        return float(guide.scale.detach())

    assert scale_of(TailAdaptive(num_samples=10)) > 1.1 * scale_of(StickingTheLanding(num_samples=10))


def test_duplicating_a_batch_leaves_the_bound_in_expectation(pair):
    def mean(x):
        torch.manual_seed(0)
        with torch.no_grad():
            values = torch.stack(
                [next(IWAE(num_samples=5)(pair, batch(x), nn.Module())).report["bound"] for _ in range(80)]
            )
        return values.mean(), values.std() / 80**0.5

    x = X.repeat(20)

    (once, once_error), (twice, twice_error) = mean(x), mean(torch.cat([x, x]))
    assert abs(once - twice) < 4 * (once_error**2 + twice_error**2) ** 0.5


def test_a_discrete_latent_is_refused_with_the_way_out():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Bernoulli(0.3))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Bernoulli(torch.sigmoid(x)))

    discrete = Pair(model, guide).check(X)
    for objective in (IWAE(), DReG(), StickingTheLanding(), Renyi(), TailAdaptive()):
        with pytest.raises(ValueError, match="ReweightedWakeSleep"):
            objective.start(discrete, X)
    next(ReweightedWakeSleep(guide="both")(discrete, batch(), nn.Module()))


@pytest.mark.parametrize(
    "objective",
    [
        IWAE(num_samples=4),
        Renyi(alpha=0.5, num_samples=4),
        DReG(num_samples=4),
        StickingTheLanding(),
        TailAdaptive(num_samples=4),
        ReweightedWakeSleep(num_samples=4, guide="wake"),
        ReweightedWakeSleep(num_samples=4, guide="sleep"),
        ReweightedWakeSleep(num_samples=4, guide="both"),
    ],
    ids=repr,
)
def test_every_objective_finds_the_exact_posterior_of_a_conjugate_model(objective):
    torch.manual_seed(0)
    x = math.sqrt(2) * torch.randn(200)
    start = ExactGuide()
    with torch.no_grad():
        start.slope.fill_(0.0)
        start.scale.fill_(1.3)
    options = {"steps": 400, "batch_size": 100, "progress": False, "device": "cpu", "compile": "graph"}
    fit(_model_1d, start, x, objective=objective, optimizer=lambda p: torch.optim.Adam(p, lr=0.01), **options)
    assert float(start.slope) == pytest.approx(0.5, abs=0.05)
    assert float(start.scale) == pytest.approx(0.5**0.5, abs=0.05)


def test_a_parameter_that_model_and_guide_share_descends_the_sum_of_their_losses():
    shared = Guide()

    class Shared(Model):
        """A prior made of the guide's network, as the VampPrior's."""

        def __init__(self):
            super().__init__()
            self.guide = shared

        def forward(self, x):
            with pyro.plate("data", len(x)):
                prior = dist.Normal(self.guide.net(torch.ones(1)), self.guide.log_scale.exp()).to_event(1)
                z = pyro.sample("z", prior)
                pyro.sample("x", dist.Normal(z.sum(-1) + self.loc, 1.0), obs=x)

    pair, objective = Pair(Shared(), shared).check(X), DReG(num_samples=3)
    torch.manual_seed(0)
    (phase,) = objective(pair, batch(), nn.Module())
    parts = [torch.autograd.grad(loss, shared.log_scale, retain_graph=True)[0] for loss in phase.losses.values()]
    assert all(part.abs().max() > 1e-3 for part in parts)

    def with_rate_one(parameters):
        return torch.optim.SGD(parameters, lr=1.0)

    before = shared.log_scale.detach().clone()
    step = EagerStep(objective, pair, nn.Module(), Players(pair, nn.Module(), objective, with_rate_one))
    torch.manual_seed(0)
    step(batch())
    torch.testing.assert_close(before - shared.log_scale.detach(), parts[0] + parts[1])


class DroppingGuide(Guide):
    """A guide that drops its mean out now and then while it trains."""

    def __init__(self, rate):
        super().__init__()
        self.dropout = nn.Dropout(rate)

    def forward(self, x):
        with pyro.plate("data", len(x)):
            loc = self.dropout(self.net(x[:, None]))
            pyro.sample("z", dist.Normal(loc, self.log_scale.exp()).to_event(1))


@pytest.mark.parametrize("objective", [StickingTheLanding(), DReG(), TailAdaptive()])
def test_a_guide_with_dropout_has_another_density_in_a_second_run_and_is_refused(objective):
    pair, without = (Pair(Model(), DroppingGuide(rate)).check(X) for rate in (0.3, 0.0))
    state = torch.get_rng_state()
    with pytest.raises(ValueError, match="have not one density"):
        objective.start(pair, X)
    objective.start(without, X)
    pair.guide.fn.dropout.eval()  # a dropout at rest is none
    objective.start(pair, X)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("objective", [WakeSleep(), ReweightedWakeSleep()])
def test_wake_scores_its_draws_in_the_run_that_made_them(objective):
    pair = Pair(Model(), DroppingGuide(0.3)).check(X)
    pair.guide.fn.net.bias.data.add_(3.0)  # what is dropped out is far from what is not
    x = X.repeat(500)
    bounds = []
    for one in (objective, IWAE(num_samples=getattr(objective, "num_samples", 1))):
        torch.manual_seed(4)
        phase = next(iter(one(pair, batch(x), nn.Module())))
        bounds.append(float(phase.report["bound"]))
    assert bounds[0] == pytest.approx(bounds[1], abs=1e-4)  # the same draws, the same weights
    assert bounds[0] < float(dist.Normal(0.3, 3**0.5).log_prob(x).mean())
