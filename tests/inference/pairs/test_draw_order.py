"""A guide may draw the latents in any order: every objective is held to closed forms with and against the model's."""

import math
from functools import partial

import pyro
import pytest
import torch
import worlds
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from torch import nn

from aevb import guides
from aevb.inference import EM, MAP, MCEM, SGVB, Pair, PyroELBO, WakeSleep, fit, log_evidence
from aevb.inference.diagnostics.elbo_surgery import elbo_surgery
from aevb.inference.diagnostics.latent_usage import latent_usage
from aevb.inference.evidence import ELBO, ImportanceSampling
from aevb.inference.objectives import (
    IWAE,
    AdversarialVB,
    Batch,
    DReG,
    FreeBits,
    FullVB,
    KLAnnealing,
    Renyi,
    ReweightedWakeSleep,
    StickingTheLanding,
    TailAdaptive,
)
from aevb.inference.objectives.only import Only
from aevb.models import HierarchicalModel, likelihoods

ORDERS = ("against_the_order", "in_the_order")
X = torch.tensor(1.3, dtype=torch.float64)
LOG_2PI = math.log(2 * math.pi)


def _loosened(order):
    """The chain with a guide that is off the posterior in mean, slope and scale."""
    world = worlds.make(order)
    with torch.no_grad():
        world.guide.slope1.sub_(0.1)
        world.guide.slope2.add_(0.05)
        world.guide.log_scale1.add_(0.2)
        world.guide.log_scale2.sub_(0.1)
    return world, Pair(world.model, world.guide).check(world.data)


def _moments(guide, x):
    """Means and factor of the guide's joint normal of (z1, z2)."""
    s1, s2 = guide.log_scale1.exp(), guide.log_scale2.exp()
    zero = torch.zeros_like(s1)
    if hasattr(guide, "weight1"):  # z2 first
        mean2 = guide.slope2 * x
        mean1, factor = guide.slope1 * x + guide.weight1 * mean2, [[guide.weight1 * s2, s1], [s2, zero]]
    else:
        mean1 = guide.slope1 * x
        mean2, factor = guide.slope2 * mean1, [[s1, zero], [guide.slope2 * s1, s2]]
    factor = torch.stack([torch.stack(row) for row in factor])
    return mean1, mean2, factor @ factor.T


def _square(variance, mean, spread):
    """E log N(r; 0, variance) of a residual r with that mean and variance."""
    return -0.5 * (LOG_2PI + variance.log() + (mean**2 + spread) / variance)


def _expected_log_joint(world, x):
    m, (mean1, mean2, cov) = world.model, _moments(world.guide, x)
    inner, noise, one = (2 * m.log_inner).exp(), (2 * m.log_noise).exp(), torch.ones_like(x)
    spread = cov[0, 0] - 2 * m.weight * cov[0, 1] + m.weight**2 * cov[1, 1]
    prior = _square(one, mean2, cov[1, 1]) + _square(inner, mean1 - m.weight * mean2, spread)
    return prior, _square(noise, x - mean1, cov[0, 0])


def _exact_bound(world, x=X):
    entropy = 1 + LOG_2PI + world.guide.log_scale1 + world.guide.log_scale2
    return sum(_expected_log_joint(world, x)) + entropy


def _batch(x, rows=1000):
    data = x.expand(rows).clone()
    return Batch((data,), torch.arange(rows), 10**9, torch.tensor(0))


def _phases(objective, pair, batch, memory=None):
    memory = objective.start(pair, batch.data[0]) if memory is None else memory
    return list(objective(pair, batch, memory))


def _estimates(objective, pair, player, parameters, blocks=20, memory=None):
    """Bound and gradient of a player's loss on many blocks: means and standard errors ``[1 + parameters]``."""
    batch, found = _batch(X), []
    for _ in range(blocks):
        phase = next(p for p in reversed(_phases(objective, pair, batch, memory)) if player in p.losses)
        slopes = torch.autograd.grad(phase.losses[player], parameters)
        found.append(torch.stack([phase.losses[player].detach(), *slopes]))
    found = torch.stack(found)
    return found.mean(0), found.std(0) / blocks**0.5


def _agree(found, expected, most=4.5):
    mean, error = found
    assert ((mean - expected).abs() <= most * error + 1e-9).all(), (mean, expected, error)


class _ExactRatio(nn.Module):
    """log q(z|x) - log p(z) of the chain; the latents come in the model's order."""

    def __init__(self, world):
        super().__init__()
        self.world = (world,)  # no submodule: a critic owns no number of the pair

    def forward(self, x, u):
        (world,) = self.world
        z2, z1 = u.unbind(-1)
        numbers = {name: value.detach() for name, value in world.guide.named_parameters()}
        s1, s2 = numbers["log_scale1"].exp(), numbers["log_scale2"].exp()
        if "weight1" in numbers:
            loc1, loc2 = numbers["slope1"] * x + numbers["weight1"] * z2, numbers["slope2"] * x
        else:
            loc1, loc2 = numbers["slope1"] * x, numbers["slope2"] * z1
        log_q = torch.distributions.Normal(loc1, s1).log_prob(z1) + torch.distributions.Normal(loc2, s2).log_prob(z2)
        inner = torch.distributions.Normal(world.model.weight.detach() * z2, world.model.log_inner.detach().exp())
        return log_q - inner.log_prob(z1) - torch.distributions.Normal(0.0, 1.0).log_prob(z2)


# ------------------------------------------------------------------------------------- off the posterior: the bound

OF_THE_BOUND = {
    "SGVB A": SGVB(estimator="A"),
    "SGVB B": SGVB(),
    "SGVB B, three samples": SGVB(num_samples=3),
    "MAP": MAP(SGVB(), scale=1e6),
    "KLAnnealing": KLAnnealing(schedule="constant"),
    "FreeBits": FreeBits(floor=0.0),
    "StickingTheLanding": StickingTheLanding(),
    "IWAE": IWAE(num_samples=1),
    "DReG": DReG(num_samples=1),
    "Renyi": Renyi(alpha=1.0, num_samples=2),
    "TailAdaptive": TailAdaptive(num_samples=1),
}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", OF_THE_BOUND)
def test_value_and_gradients_are_those_of_the_exact_bound(name, order):
    world, pair = _loosened(order)
    for player, program in (("guide", world.guide), ("model", world.model)):
        parameters = list(program.parameters())
        loss = -_exact_bound(world)
        expected = torch.stack([loss.detach(), *torch.autograd.grad(loss, parameters)])
        _agree(_estimates(OF_THE_BOUND[name], pair, player, parameters, blocks=12), expected)


@pytest.mark.parametrize("order", ORDERS)
def test_full_vb_with_a_certain_model_is_the_bound(order):
    world, pair = _loosened(order)
    parameters = list(world.guide.parameters())
    loss = -_exact_bound(world)
    expected = torch.stack([loss.detach(), *torch.autograd.grad(loss, parameters)])
    _agree(_estimates(FullVB(init_scale=1e-7), pair, "guide", parameters), expected)


@pytest.mark.parametrize("order", ORDERS)
def test_an_adversarial_pair_with_the_exact_ratio_descends_the_bound(order):
    world, pair = _loosened(order)
    objective = AdversarialVB(critic=_ExactRatio(world), quadratic=0.0)
    memory = nn.Module()
    memory.critic, memory.learned_prior = _ExactRatio(world), True
    for player, program in (("guide", world.guide), ("model", world.model)):
        parameters = list(program.parameters())
        loss = -_exact_bound(world)
        expected = torch.stack([loss.detach(), *torch.autograd.grad(loss, parameters)])
        _agree(_estimates(objective, pair, player, parameters, memory=memory), expected)


@pytest.mark.parametrize("order", ORDERS)
def test_wake_follows_the_model_under_the_guide(order):
    world, pair = _loosened(order)
    parameters = list(world.model.parameters())
    loss = -sum(_expected_log_joint(world, X))
    expected = torch.stack([loss.detach(), *torch.autograd.grad(loss, parameters)])
    _agree(_estimates(WakeSleep(), pair, "model", parameters), expected)


@pytest.mark.parametrize("order", ORDERS)
def test_dreg_and_iwae_have_one_gradient(order):
    world, pair = _loosened(order)
    parameters = list(world.guide.parameters())
    (a, error_a), (b, error_b) = (_estimates(o(num_samples=4), pair, "guide", parameters) for o in (DReG, IWAE))
    _agree((a - b, (error_a**2 + error_b**2).sqrt()), torch.zeros_like(a))


@pytest.mark.parametrize("order", ORDERS)
def test_the_rate_of_usage_and_surgery_is_the_exact_divergence(order):
    world, pair = _loosened(order)
    fit_term = float(_expected_log_joint(world, X)[1].detach())
    rate = fit_term - float(_exact_bound(world).detach())
    data = X.expand(2000).clone()
    usage = latent_usage(pair, data, num_samples=50)
    assert usage.rate == pytest.approx(rate, abs=0.02)
    assert usage.bound == pytest.approx(float(_exact_bound(world).detach()), abs=0.02)
    assert elbo_surgery(pair, X.expand(50).clone(), num_draws=20_000).rate == pytest.approx(rate, abs=0.03)


# ---------------------------------------------------------------------------------------- at the posterior: log p(x)

OF_MANY_SAMPLES = {
    "IWAE": IWAE(num_samples=4),
    "DReG": DReG(num_samples=4),
    "Renyi": Renyi(alpha=0.5, num_samples=4),
    "TailAdaptive": TailAdaptive(num_samples=4),
    "StickingTheLanding": StickingTheLanding(),
    "SGVB A": SGVB(estimator="A"),
    "WakeSleep": WakeSleep(),
    "ReweightedWakeSleep": ReweightedWakeSleep(guide="both"),
}


@pytest.mark.parametrize("name", [*ORDERS, "auxiliary", "collider"])
@pytest.mark.parametrize("objective", OF_MANY_SAMPLES)
def test_the_exact_guide_gives_log_px_in_any_order(objective, name):
    world = worlds.once(name)
    pair = Pair(world.model, world.guide).check(world.data)
    batch = Batch(world.data, torch.arange(4), 4, torch.tensor(0))
    report = {k: v for phase in _phases(OF_MANY_SAMPLES[objective], pair, batch) for k, v in phase.report.items()}
    assert float(report["bound"]) == pytest.approx(float(world.log_px.mean()), abs=1e-9)


@pytest.mark.parametrize("name", [*ORDERS, "auxiliary"])
def test_path_derivatives_vanish_at_the_exact_guide(name):
    world = worlds.once(name)
    pair = Pair(world.model, world.guide).check(world.data)
    batch = Batch(world.data, torch.arange(4), 4, torch.tensor(0))
    for objective in (StickingTheLanding(num_samples=3), DReG(num_samples=3), TailAdaptive(num_samples=3)):
        (phase,) = _phases(objective, pair, batch)
        slopes = torch.autograd.grad(phase.losses["guide"], list(world.guide.parameters()))
        assert max(float(slope.abs().max()) for slope in slopes) < 1e-9


@pytest.mark.parametrize("order", ORDERS)
def test_sleep_is_at_rest_at_the_exact_guide(order):
    world = worlds.once(order)
    pair = Pair(world.model, world.guide).check(world.data)
    for objective in (WakeSleep(), ReweightedWakeSleep(guide="sleep")):
        mean, error = _estimates(objective, pair, "guide", list(world.guide.parameters()))
        assert ((mean / error)[1:].abs() < 4.5).all()


def test_exact_em_and_chains_need_no_guide_and_see_one_model():
    world = worlds.once("against_the_order")
    pair = Pair(world.model).check(world.data)
    batch = Batch(world.data, torch.arange(4), 4, torch.tensor(0))
    assert float(_phases(EM(), pair, batch)[-1].report["bound"]) == pytest.approx(float(world.log_px.mean()), abs=1e-9)
    chains, many = MCEM(step_size=0.3, num_updates=1, num_leapfrog=5), _batch(X, 2000)
    memory = chains.start(pair, many.data[0])
    for _ in range(25):
        (phase,) = _phases(chains, pair, many, memory)
    exact = worlds.make("against_the_order")
    expected = float(sum(_expected_log_joint(exact, X)).detach())
    assert float(phase.report["log_joint"]) == pytest.approx(expected, abs=5 / 2000**0.5)  # two squares: variance one


# ------------------------------------------------------------------------------------------------------ estimator B


def test_estimator_b_is_pyros_where_the_order_is_the_models():
    world, pair = _loosened("in_the_order")
    parameters = list(world.guide.parameters())
    found = []
    for objective in (SGVB(), PyroELBO(TraceMeanField_ELBO())):
        torch.manual_seed(0)
        (phase,) = _phases(objective, pair, _batch(X, 5))
        found.append([phase.losses["guide"].detach(), *torch.autograd.grad(phase.losses["guide"], parameters)])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


@pytest.mark.parametrize("num_samples", [1, 3])
def test_estimator_b_takes_trace_elbos_term_at_the_draw_of_a_site_out_of_order(num_samples):
    world, pair = _loosened("against_the_order")
    assert {site.name: site.has_closed_form for site in pair.latents} == {"z2": True, "z1": False}
    losses = []
    for estimator in "AB":
        torch.manual_seed(1)
        (phase,) = _phases(SGVB(estimator=estimator, num_samples=num_samples), pair, _batch(X, 5))
        losses.append(phase.losses["model"])
    torch.manual_seed(1)
    z = pair.sample_guide(_batch(X, 5).data, num_samples)
    q2 = torch.distributions.Normal(world.guide.slope2 * z["z1"], world.guide.log_scale2.exp())
    p2 = torch.distributions.Normal(torch.zeros_like(z["z2"]), 1.0)
    sampled = q2.log_prob(z["z2"]) - p2.log_prob(z["z2"])
    closed = torch.distributions.kl_divergence(q2, p2)
    torch.testing.assert_close(losses[1] - losses[0], (closed - sampled).mean())


def test_pyros_own_estimator_is_refused_out_of_order_and_taken_in_order():
    data = worlds.once("in_the_order").data[0]
    for order in ORDERS:
        world, pair = _loosened(order)
        PyroELBO(Trace_ELBO()).start(pair, data)
        if order == "in_the_order":
            PyroELBO(TraceMeanField_ELBO()).start(pair, data)
            continue
        with pytest.raises(ValueError, match=r"divergence of \['z1'\].*SGVB\(estimator=\"B\"\)"):
            fit(world.model, world.guide, data, objective=PyroELBO(TraceMeanField_ELBO()), steps=1, progress=False)


def test_a_mask_of_one_program_alone_is_no_case_for_a_closed_form():
    from pyro import poutine
    from pyro.distributions import Normal

    seen = torch.tensor([True, False])

    def model(x, there):
        with pyro.plate("data", len(x)):
            with poutine.mask(mask=there):
                z = pyro.sample("z", Normal(x.new_zeros(()), 1.0))
            pyro.sample("x", Normal(z, 1.0), obs=x)

    def guide(x, there):
        with pyro.plate("data", len(x)), poutine.mask(mask=there):
            pyro.sample("z", Normal(x / 3, 0.5))

    def unmasked(x, there):
        with pyro.plate("data", len(x)):
            pyro.sample("z", Normal(x / 3, 0.5))

    x = torch.tensor([0.4, -1.0])
    q, p = Normal(x / 3, 0.5), Normal(torch.zeros(2), 1.0)
    batch = Batch((x, seen), torch.arange(2), 2, torch.tensor(0))
    for program, closed in ((guide, True), (unmasked, False)):
        pair = Pair(model, program).check((x, seen))
        assert pair.latents[0].has_closed_form is closed
        for objective in (SGVB(), KLAnnealing(schedule="constant")):
            torch.manual_seed(0)
            (phase,) = _phases(objective, pair, batch)
            torch.manual_seed(0)
            cloud = pair.cloud((x, seen))
            rate = torch.distributions.kl_divergence(q, p) * seen if closed else (cloud.log_q - cloud.log_prior)[0]
            torch.testing.assert_close(phase.losses["model"], -(cloud.log_lik[0] - rate).mean())


# --------------------------------------------------------------------------------------------------------- training


@pytest.mark.parametrize(
    ("objective", "compile_level"),
    [(SGVB(), "never"), (SGVB(), "graph"), (KLAnnealing(schedule="constant"), "graph"), (FreeBits(floor=0.0), "graph")],
)
def test_training_reaches_the_posterior_against_the_order(objective, compile_level):
    world = worlds.make("against_the_order")
    with torch.no_grad():
        for parameter in world.guide.parameters():
            parameter.zero_()
    x = world.data[0].repeat(50)
    options = {"optimizer": partial(torch.optim.Adam, lr=0.03), "batch_size": 200, "progress": False}
    objective = Only(objective, ("guide",))
    fit(world.model, world.guide, x, objective=objective, steps=200, compile=compile_level, **options)
    gap = torch.stack([p - _exact_bound(world, x) for x, p in zip(world.data[0], world.log_px, strict=True)])
    gap = gap.detach()
    assert (gap > 0).all() and float(gap.max()) < 0.1  # closed forms in the wrong place end half a nat below


def test_the_hierarchical_model_and_guide_train_to_the_models_evidence():
    model = HierarchicalModel(1, nn.Linear(1, 1), likelihoods.Normal(scale=0.5), top_dim=1, hidden=[]).double()
    middle = model.middle.layers[0]
    with torch.no_grad():  # z1 ~ N(2 z2, .3^2), x ~ N(z1, .5^2), the scales whatever z2 and z1
        middle.weight.copy_(torch.tensor([[2.0], [0.0]]))
        middle.bias.copy_(torch.tensor([0.0, math.log(0.3)]))
        model.decoder.weight.fill_(1.0)
        model.decoder.bias.zero_()
    world = worlds.once("against_the_order")
    x = world.data[0].unsqueeze(-1)
    guide = guides.Hierarchical(1, nn.Linear(1, 2), top_dim=1, hidden=[]).double()
    options = {"optimizer": partial(torch.optim.Adam, lr=0.03), "batch_size": 200, "progress": False}
    run = fit(model, guide, x.repeat(50, 1), objective=Only(SGVB(), ("guide",)), steps=300, **options)
    bound = log_evidence(run.model, run.guide, x, ELBO(4000))
    weighed = log_evidence(run.model, run.guide, x, ImportanceSampling(4000))
    torch.testing.assert_close(bound.log_px, world.log_px, atol=0.05, rtol=0)
    torch.testing.assert_close(weighed.log_px, world.log_px, atol=0.02, rtol=0)
    assert run.history["bound"].tail(20).mean() == pytest.approx(float(world.log_px.mean()), abs=0.06)
