"""Annealing and free bits: what they weigh, and that they keep a latent alive that the plain bound gives up."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from aevb import guides
from aevb.inference import SGVB, Pair, fit
from aevb.inference.diagnostics.latent_usage import latent_usage
from aevb.inference.objectives import Batch, FreeBits, KLAnnealing
from aevb.inference.pairs.divergence import rates
from aevb.models.networks import MLP


class Model(nn.Module):
    """A decoder that can, but need not, use its latents."""

    def __init__(self, data_dim=3, latent_dim=2):
        super().__init__()
        self.latent_dim = latent_dim
        self.decoder = nn.Linear(latent_dim, data_dim)

    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(self.latent_dim), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(z), 2.0).to_event(1), obs=x)


class Guide(nn.Module):
    def __init__(self, data_dim=3, latent_dim=2):
        super().__init__()
        self.head = nn.Linear(data_dim, 2 * latent_dim)

    def forward(self, x):
        loc, log_scale = self.head(x).chunk(2, -1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


def phase(objective, pair, x, step=0, seed=0):
    torch.manual_seed(seed)
    batch = Batch((x,), torch.arange(len(x)), len(x), torch.tensor(step))
    return next(objective(pair, batch, objective.start(pair, x)))


@pytest.fixture
def pair_and_x():
    torch.manual_seed(0)
    x = torch.randn(8, 3)
    return Pair(Model(), Guide()).check(x), x


def test_the_rate_by_dimension_is_the_closed_form(pair_and_x):
    pair, x = pair_and_x
    _, by_site = rates(pair, x, 3)
    loc, log_scale = pair.guide.fn.head(x).chunk(2, -1)
    expected = 0.5 * (loc**2 + (2 * log_scale).exp() - 1 - 2 * log_scale)
    torch.testing.assert_close(by_site["z"], expected)


def test_the_rate_of_a_mixture_prior_is_one_column_and_right():
    def model(x):
        prior = dist.MixtureSameFamily(
            dist.Categorical(torch.ones(2)), dist.Normal(torch.tensor([[-1.0] * 2, [1.0] * 2]), 1.0).to_event(1)
        )
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", prior)
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x, 0.5).to_event(1))

    x = torch.zeros(3, 2)
    pair = Pair(model, guide).check(x)
    torch.manual_seed(0)
    cloud, by_site = rates(pair, x, 50)
    assert by_site["z"].shape == (3, 1)
    torch.testing.assert_close(by_site["z"][:, 0], (cloud.log_q - cloud.log_prior).mean(0))


@pytest.mark.parametrize("objective", [KLAnnealing(schedule="constant"), FreeBits(floor=0.0)])
def test_beta_one_and_no_floor_are_the_plain_bound(pair_and_x, objective):
    pair, x = pair_and_x
    reference = phase(SGVB(estimator="B"), pair, x)
    ours = phase(objective, pair, x)
    torch.testing.assert_close(ours.losses["guide"], reference.losses["guide"])
    torch.testing.assert_close(ours.report["bound"], reference.report["bound"])


@pytest.mark.parametrize(
    ("schedule", "step", "weight"),
    [("linear", 0, 0.0), ("linear", 25, 0.5), ("linear", 900, 2.0), ("cyclical", 25, 1.0), ("cyclical", 75, 2.0),
     ("cyclical", 100, 0.0), ("cyclical", 125, 1.0), ("constant", 3, 2.0)],
)  # fmt: skip
def test_the_schedules(pair_and_x, schedule, step, weight):
    pair, x = pair_and_x
    annealing = KLAnnealing(schedule=schedule, beta=2.0, steps=100)
    found = phase(annealing, pair, x, step)
    assert float(annealing.weight(torch.tensor(step))) == pytest.approx(weight)
    fit_term = found.report["bound"] + found.report["rate"]
    torch.testing.assert_close(found.losses["model"].detach(), -(fit_term - weight * found.report["rate"]))


def test_the_reported_bound_is_never_annealed(pair_and_x):
    pair, x = pair_and_x
    annealing = KLAnnealing(steps=100)
    torch.testing.assert_close(
        phase(annealing, pair, x, 0).report["bound"], phase(annealing, pair, x, 5000).report["bound"]
    )


def test_free_bits_hold_the_rate_above_the_floor_where_the_bound_collapses():
    torch.manual_seed(1)
    x = torch.randn(200, 3)  # less spread than the decoder's noise: the best use of z is none
    train = {"steps": 600, "batch_size": 200, "progress": False, "optimizer": _adam, "device": "cpu"}
    by_objective = {}
    for objective in (SGVB(estimator="B"), FreeBits(floor=0.5)):
        torch.manual_seed(2)
        run = fit(Model(), Guide(), x, objective=objective, **train)
        with run.pair.evaluation():
            by_objective[type(objective).__name__] = rates(run.pair, x)[1]["z"].mean(0)
    assert by_objective["SGVB"].max() < 0.02
    assert by_objective["FreeBits"].min() > 0.45


@pytest.mark.parametrize("two_sided", [False, True], ids=["one-sided", "two-sided"])
def test_batch_normalised_means_hold_the_rate_above_their_bound_where_the_bound_collapses(two_sided):
    """The stated bounds: D gamma^2 / 2 a batch, and of the two-sided variant D tau / 2 in the means alone."""
    torch.manual_seed(1)
    x = torch.randn(200, 3)
    train = {"steps": 600, "batch_size": 200, "progress": False, "optimizer": _adam, "device": "cpu"}
    by_guide = {}
    for name in ("Normal", "BatchNormNormal"):
        torch.manual_seed(2)
        options = {"two_sided": two_sided, "gamma": 0.6} if name == "BatchNormNormal" else {}
        guide = getattr(guides, name)(2, MLP(3, hidden=[8]), **options)
        run = fit(Model(), guide, x, objective=SGVB(estimator="B"), **train)
        run.pair.train()  # one batch is all the data: its own statistics are the bound's
        with torch.no_grad():
            by_guide[name] = rates(run.pair, x)[1]["z"].sum(-1).mean()
            means = run.guide.fn.posterior(x).mean.square().sum(-1).mean() / 2
    floor = 2 * 0.5 / 2 if two_sided else 2 * 0.6**2 / 2
    assert by_guide["Normal"] < 0.02 < floor - 0.02
    assert means >= floor - 1e-4
    assert by_guide["BatchNormNormal"] >= floor - 1e-4


def test_a_collapsed_fit_warns_and_a_sound_one_does_not():
    torch.manual_seed(1)
    train = {"steps": 600, "batch_size": 200, "progress": False, "optimizer": _adam, "device": "cpu"}
    for scale, collapsed in ((1.0, True), (10.0, False)):
        x = scale * torch.randn(200, 3)
        torch.manual_seed(2)
        run = fit(Model(), Guide(), x, objective=SGVB(estimator="B"), **train)
        usage = latent_usage(run.pair, x)
        assert usage.sites["z"].rate.shape == usage.sites["z"].share.shape == (2,)
        assert any("has collapsed" in said for said in usage.warnings) == collapsed
        assert usage.num_active == (0 if collapsed else 2)
        assert (usage.rate_share < 0.02) == collapsed


def _adam(parameters):
    return torch.optim.Adam(parameters, lr=0.01)


@pytest.mark.parametrize("wrong", [dict(schedule="quadratic"), dict(beta=-1.0), dict(steps=0)])
def test_annealing_says_what_is_wrong(wrong):
    (name,) = wrong
    with pytest.raises(ValueError, match=name):
        KLAnnealing(**wrong)
