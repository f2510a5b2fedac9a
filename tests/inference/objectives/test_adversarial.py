"""Adversarial variational Bayes against closed forms, and as an objective like any other."""

import copy
import math
import warnings
from functools import partial

import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from aevb import guides
from aevb.guides import Implicit, ImplicitDistribution
from aevb.inference import AdversarialVB, Fit, fit
from aevb.inference.evidence import Evidence
from aevb.inference.objectives import Batch, warn_if_above
from aevb.inference.objectives.critic_watch import CriticWatch
from aevb.inference.objectives.critics import InnerProductCritic, ResidualCritic
from aevb.inference.pairs.pair import Pair
from aevb.models import LatentVariableModel, ProbabilisticPCA, eight_schools, likelihoods, networks, priors

SMALL = partial(ResidualCritic, width=32, num_blocks=1)
QUIET = {"device": "cpu", "progress": False}


class HiddenNormal(guides.Normal):
    """A normal guide that keeps its density to itself, so that what a critic should learn is known."""

    def exact(self, x):
        return super().posterior(x)

    def posterior(self, x):
        q = self.exact(x)
        return ImplicitDistribution(
            lambda shape: q.mean + q.stddev * torch.randn(*shape, 2),
            (len(x),),
            (2,),
            moments=lambda: (q.mean, q.variance),
        )


class ExactCritic(nn.Module):
    """log q - log r at the guide's present parameters; r is N(0, I), of contrasted draws or of the latents."""

    def __init__(self, guide, contrast):
        super().__init__()
        self.guide, self.contrast = copy.deepcopy(guide), contrast

    def forward(self, x, z):
        q = self.guide.exact(x)
        reference = dist.Normal(torch.zeros(2), torch.ones(2)).to_event(1).log_prob(z)
        if not self.contrast:
            return q.log_prob(z) - reference
        scale = (q.variance + 1e-4).sqrt()
        return q.log_prob(q.mean + scale * z) + scale.log().sum(-1) - reference


def _linear_gaussian():
    torch.manual_seed(0)
    model, guide = ProbabilisticPCA(3, 2), HiddenNormal(2, networks.MLP(3, hidden=[8]))
    return model, guide, model.simulate(4)


def _phases(pair, x, objective, memory):
    return list(objective(pair, Batch((x,), torch.arange(len(x)), len(x), torch.tensor(0)), memory))


@pytest.mark.parametrize("contrast", [False, True])
def test_under_the_exact_critic_estimate_and_gradients_are_those_of_the_bound(contrast):
    model, guide, x = _linear_gaussian()
    pair = Pair(model, guide).check(x)
    objective = AdversarialVB(
        critic=ExactCritic(guide, contrast), quadratic=0.0, adaptive_contrast=contrast, num_samples=20_000
    )
    phase = _phases(pair, x, objective, objective.start(pair, x))[-1]
    z = guide.exact(x).rsample((20_000,))
    log_weight = model_log_joint(pair, z, x) - guide.exact(x).log_prob(z)
    error = float(log_weight.detach().std()) / math.sqrt(log_weight.numel())
    assert abs(float(phase.report["estimate"] - log_weight.detach().mean())) < 5 * error

    parameters = [p for player in pair.players().values() for p in player]
    ours = torch.autograd.grad(phase.losses["guide"], parameters)
    theirs = torch.autograd.grad(-log_weight.mean(), parameters)
    largest = max(float(g.abs().max()) for g in theirs)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=0.02 * largest, rtol=0.05)


def model_log_joint(pair, z, x):
    return pair.log_joint({"z": z}, x)


def test_the_critic_learns_the_log_ratio():
    model, guide, x = _linear_gaussian()
    objective = AdversarialVB(critic=SMALL, num_samples=64)
    loop = Fit(
        model,
        guide,
        x,
        objective=objective,
        optimizer={p: partial(torch.optim.Adam, lr=3e-3 if p == "critic" else 0.0) for p in objective.trains},
        steps=700,
        **QUIET,
    )
    for _ in loop:
        pass
    with torch.no_grad():
        z = guide.exact(x).sample((400,))
        learned = objective.log_ratio(loop.memory, (x,), z)
        exact = ExactCritic(guide, False)(x, z)
    assert float(torch.corrcoef(torch.stack([learned.flatten(), exact.flatten()]))[0, 1]) > 0.95
    assert abs(float((learned - exact).mean())) < 0.15


def test_players_move_on_their_own_losses():
    model, guide, x = _linear_gaussian()
    pair = Pair(model, guide).check(x)
    objective = AdversarialVB(critic=SMALL, critic_steps=3)
    memory = objective.start(pair, x)
    phases = _phases(pair, x, objective, memory)
    assert [set(phase.losses) for phase in phases] == [{"critic"}] * 3 + [{"model", "guide"}]
    shared = phases[-1].losses
    assert shared["model"] is shared["guide"]
    everyone = [p for player in pair.players().values() for p in player]
    assert all(g is None for g in torch.autograd.grad(phases[0].losses["critic"], everyone, allow_unused=True))
    assert {name for phase in phases for name in phase.report} == {
        "critic_loss",
        "critic_accuracy",
        "estimate",
        "log_ratio",
    }


def test_a_learned_prior_gets_the_gradient_of_its_log_density():
    torch.manual_seed(0)
    model = LatentVariableModel(priors.LearnedNormal(2), networks.MLP(2, 3, hidden=[8]), likelihoods.Bernoulli())
    guide, x = HiddenNormal(2, networks.MLP(3, hidden=[8])), torch.rand(4, 3).round()
    pair = Pair(model, guide).check(x)
    objective = AdversarialVB(critic=ExactCritic(guide, False), quadratic=0.0, num_samples=5000)
    loss = _phases(pair, x, objective, objective.start(pair, x))[-1].losses["model"]
    parameters = list(model.prior.parameters())
    z = guide.exact(x).sample((5000,))
    expected = torch.autograd.grad(-model.prior().log_prob(z).mean(), parameters)
    for a, b in zip(torch.autograd.grad(loss, parameters), expected, strict=True):
        torch.testing.assert_close(a, b, atol=0.05, rtol=0.05)


def test_several_sites_and_a_constrained_support_need_nothing_of_their_own():
    def model(x):
        with pyro.plate("data", len(x)):
            scale = pyro.sample("scale", dist.LogNormal(0.0, 0.5))
            mean = pyro.sample("mean", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
            pyro.sample("x", dist.Normal(mean, scale.unsqueeze(-1)).to_event(1), obs=x)

    def guide(x):
        pyro.module("network", network)
        with pyro.plate("data", len(x)):
            draw = ImplicitDistribution(lambda shape: network(torch.randn(*shape, 4)), (len(x),), (3,))
            joint = pyro.sample("joint", draw, infer={"is_auxiliary": True})
            pyro.sample("scale", dist.Delta(joint[..., 0].exp()))
            pyro.sample("mean", dist.Delta(joint[..., 1:], event_dim=1))

    for contrast in (False, True):
        network = nn.Linear(4, 3)
        run = fit(
            model,
            guide,
            torch.randn(20, 2),
            objective=AdversarialVB(critic=SMALL, adaptive_contrast=contrast),
            epochs=60,
            optimizer=partial(torch.optim.Adam, lr=1e-2),
            **QUIET,
        )
        (start, *_, end) = (row["estimate"] for row in run.rows)
        assert (
            end > start + 1.0
        )  # what such a critic estimates of several sites is in inference/objectives/test_objectives_on_worlds.py


def test_eight_schools_is_one_datapoint():
    y, sigma = torch.randn(1, 8), torch.ones(1, 8)
    pair = Pair(eight_schools).check((y, sigma))
    assert [site.name for site in pair.latents] == ["mu", "tau", "eta"]
    z = {"mu": torch.randn(5, 1), "tau": torch.randn(5, 1), "eta": torch.randn(5, 1, 8)}
    mirrored = {"mu": z["mu"], "tau": -z["tau"], "eta": -z["eta"]}
    torch.testing.assert_close(pair.log_joint(z, (y, sigma)), pair.log_joint(mirrored, (y, sigma)))


@pytest.mark.parametrize("contrast", [False, True])
def test_resumes_to_the_bit(contrast, tmp_path):
    def run(**options):
        torch.manual_seed(0)
        model = LatentVariableModel(priors.StandardNormal(2), networks.MLP(2, 4, hidden=[8]), likelihoods.Bernoulli())
        guide = Implicit(networks.MLP(4 + 3, 2, hidden=[8]), 2, 3)
        objective = AdversarialVB(critic=SMALL, critic_steps=2, adaptive_contrast=contrast)
        return fit(model, guide, torch.eye(4), objective=objective, batch_size=2, seed=3, **QUIET, **options)

    whole = run(epochs=4)
    run(epochs=2, checkpoint=tmp_path / "a.pt")
    resumed = run(epochs=4, checkpoint=tmp_path / "a.pt", resume=True)
    for (name, a), b in zip(whole.pair.state_dict().items(), resumed.pair.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    pd.testing.assert_frame_equal(whole.history.drop(columns="seconds"), resumed.history.drop(columns="seconds"))
    assert "bound" not in whole.history


def test_two_runs_of_one_objective_do_not_share_a_critic():
    model, guide, x = _linear_gaussian()
    critic = ResidualCritic(3, 2, width=4)
    before = copy.deepcopy(critic.state_dict())
    fit(model, guide, x, objective=AdversarialVB(critic=critic), steps=2, **QUIET)
    assert all(torch.equal(a, b) for a, b in zip(before.values(), critic.state_dict().values(), strict=True))


@pytest.mark.parametrize(
    "make", [partial(ResidualCritic, 5, 2), partial(InnerProductCritic, 5, 2, hidden=[8], inner_dim=4)]
)
def test_critics_take_all_arguments_and_any_number_of_draws(make):
    critic = make()
    x, label, z = torch.randn(3, 2, 2), torch.tensor([0, 1, -1]), torch.randn(7, 3, 2)
    assert critic(x, label, z).shape == (7, 3)
    torch.testing.assert_close(critic(x, label, z)[:, 1:2], critic(x[1:2], label[1:2], z[:, 1:2]))


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"critic_loss": 1e-5, "critic_accuracy": 1.0, "log_ratio": 30.0}, "adaptive_contrast"),
        ({"critic_loss": 50.0, "critic_accuracy": 0.5, "log_ratio": 3.0}, "learning rate"),
        ({"critic_loss": 1.0, "critic_accuracy": 0.5, "log_ratio": -1e6}, "critic_steps"),
    ],
)
def test_a_failed_critic_stops_the_run_and_says_what_to_change(row, said):
    class Loop:
        history, stopped = [], None

        def stop(self, reason):
            self.stopped = reason

    loop, watch = Loop(), CriticWatch(patience=20)
    loop.history = [row | {"step": 10}]
    watch(loop)
    assert loop.stopped is None
    loop.history.append(row | {"step": 20})
    with pytest.warns(RuntimeWarning, match=said):
        watch(loop)
    assert said in loop.stopped
    healthy = {"critic_loss": 1.2, "critic_accuracy": 0.6, "log_ratio": 0.5, "step": 30}
    loop.history.append(healthy)
    watch(loop)
    assert watch.state_dict() == {"bad_since": None}


def test_a_guide_far_off_the_prior_saturates_the_critic_in_a_real_run():
    model, guide, x = _linear_gaussian()
    nn.init.constant_(guide.log_scale.bias, -6.0)
    nn.init.constant_(guide.mean.bias, 8.0)
    objective = AdversarialVB(critic=SMALL, num_samples=64, patience=50)
    still = {p: partial(torch.optim.Adam, lr=1e-2 if p == "critic" else 0.0) for p in objective.trains}
    with pytest.warns(RuntimeWarning, match="saturated"):
        run = fit(model, guide, x, objective=objective, optimizer=still, steps=1000, **QUIET)
    assert "adaptive_contrast" in run.settings["stopped"]
    assert run.settings["steps"] < 1000


def test_an_estimate_above_the_evidence_is_warned_of():
    evidence = Evidence("annealed", "lower bound", torch.tensor([-90.0, -91.0, -89.0]), 8)
    with pytest.warns(RuntimeWarning, match="6.40 nats above"):
        assert warn_if_above(pd.DataFrame({"estimate": [-83.6]}), evidence) == pytest.approx(6.4, abs=1e-4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_if_above(pd.DataFrame({"estimate": [-96.3]}), evidence)
    with pytest.raises(ValueError, match="estimate"):
        warn_if_above(pd.DataFrame({"bound": [-96.3]}), evidence)


def test_wrong_settings_are_named():
    with pytest.raises(ValueError, match="critic_steps=0"):
        AdversarialVB(critic_steps=0)
    with pytest.raises(ValueError, match="quadratic"):
        AdversarialVB(quadratic=-1.0)
    with pytest.raises(ValueError, match="patience=0"):
        CriticWatch(patience=0)


@pytest.mark.parametrize("contrast", [False, True])
def test_a_captured_step_is_the_eager_step(contrast):
    def run(level):
        torch.manual_seed(0)
        model = LatentVariableModel(priors.StandardNormal(2), networks.MLP(2, 4, hidden=[8]), likelihoods.Bernoulli())
        guide = guides.NoiseBasis(2, networks.MLP(4, hidden=[8]), num_bases=2, noise_dim=3, basis_hidden=[8])
        objective = AdversarialVB(critic=SMALL, critic_steps=2, adaptive_contrast=contrast)
        return fit(
            model, guide, torch.eye(4).repeat(5, 1), objective=objective, steps=6, batch_size=8, compile=level, **QUIET
        )

    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # what cannot be captured is warned of
        captured, eager = run("graph"), run("never")
    for (name, a), b in zip(eager.pair.state_dict().items(), captured.pair.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, msg=name)


class Filling(nn.Module):
    """A critic that is shown zeros where entries are missing, and beside them where that is."""

    def __init__(self, data_dim, latent_dim):
        super().__init__()
        self.inner = SMALL(2 * data_dim, latent_dim)

    def forward(self, x, z):
        return self.inner(x.nan_to_num(), x.isnan(), z)


@pytest.mark.parametrize("hole", [(0, 1), (30, 2)])
def test_holes_in_the_data_are_told_before_the_critic_is_blown_up_by_them(hole):
    """What was blamed for them was the learning rate."""
    x = torch.randn(40, 3)
    x[hole] = math.nan
    model = LatentVariableModel(
        priors.StandardNormal(2), networks.MLP(2, 3, hidden=[4]), likelihoods.Normal(), missing=True
    )
    guide = guides.MaskedNormal(2, networks.MLP(6, hidden=[4]))
    options = {"steps": 2, "batch_size": 40, **QUIET}
    with pytest.raises(ValueError, match=r"shows its critic the data, which hold NaN.*nan_to_num"):
        fit(model, guide, x, objective=AdversarialVB(critic=SMALL), **options)
    run = fit(model, guide, x, objective=AdversarialVB(critic=Filling), **options)
    assert run.history[["estimate", "critic_loss"]].map(math.isfinite).all(axis=None)
