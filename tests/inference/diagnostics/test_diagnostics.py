"""Latent usage, ELBO surgery, paired comparison and the gradient microscope, each against a known answer."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
import worlds

from aevb.inference import Pair
from aevb.inference.diagnostics.elbo_surgery import elbo_surgery
from aevb.inference.diagnostics.gradient_noise import gradient_microscope
from aevb.inference.diagnostics.latent_usage import latent_usage
from aevb.inference.diagnostics.model_comparison import compare
from aevb.inference.evidence import Evidence
from aevb.inference.objectives import EM, IWAE, SGVB, DReG, StickingTheLanding
from aevb.models import GaussianMixture


def model(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z[..., 0], 1.0), obs=x)


def guide(x):
    """Exact: one dimension follows the data, two are the prior."""
    loc = torch.stack([x / 2, torch.zeros_like(x), torch.zeros_like(x)], -1)
    scale = torch.tensor([0.5**0.5, 1.0, 1.0])
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(loc, scale).to_event(1))


def collapsed(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))


@pytest.fixture
def x():
    torch.manual_seed(0)
    return math.sqrt(2) * torch.randn(400)


def test_usage_is_the_closed_form(x):
    usage = latent_usage(Pair(model, guide).check(x), x)
    use = usage.sites["z"]
    kl = 0.5 * ((x / 2) ** 2 + 0.5 - 1 - math.log(0.5))
    torch.testing.assert_close(
        use.rate, torch.stack([kl.mean(), torch.tensor(0.0), torch.tensor(0.0)]), atol=1e-5, rtol=0
    )
    torch.testing.assert_close(use.activity, torch.tensor([float((x / 2).var()), 0.0, 0.0]), atol=1e-5, rtol=1e-4)
    assert use.active.tolist() == [True, False, False]
    assert usage.num_active == 1
    assert usage.bound == pytest.approx(float(dist.Normal(0.0, math.sqrt(2)).log_prob(x).mean()), abs=0.02)
    assert 0 < usage.rate_share < 1
    assert "uses 1 of its 3" in usage.warnings[0]


def test_a_collapsed_guide_is_told_so_in_words(x):
    (sentence,) = latent_usage(Pair(model, collapsed).check(x), x).warnings
    assert "collapsed" in sentence
    assert "KLAnnealing" in sentence


def test_a_latent_without_a_known_mean_is_not_called_active_by_its_noise(x):
    class Blind(dist.Normal):
        @property
        def mean(self):
            raise NotImplementedError

    def blind(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", Blind(torch.zeros(len(x), 3), 1.0).to_event(1))

    use = latent_usage(Pair(model, blind).check(x), x, num_samples=30).sites["z"]
    assert not bool(use.active.any())


def test_surgery_adds_up_and_knows_its_ceiling(x):
    cut = elbo_surgery(Pair(model, guide).check(x), x, num_draws=4000)
    assert cut.rate == pytest.approx(cut.marginal_kl + cut.index_information, abs=1e-6)
    # x ~ N(0, 2) makes the aggregate posterior the prior, so all of the rate is information: log(2)/2.
    assert abs(cut.marginal_kl) < 0.02
    assert cut.index_information == pytest.approx(0.5 * math.log(2), abs=0.04)

    def sharp(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.stack([x] * 3, -1), 1e-6).to_event(1))

    sharply = elbo_surgery(Pair(model, sharp).check(x), x, num_draws=400)
    assert sharply.index_information == pytest.approx(math.log(400), abs=0.05)
    assert sharply.index_information <= math.log(400) + 1e-4
    assert "log N" in sharply.sentence


def test_a_comparison_is_paired():
    torch.manual_seed(0)
    hard = 10 * torch.randn(100)
    evidence = {
        "b": Evidence("elbo", "lower bound", hard - 1.0 + 0.1 * torch.randn(100), 1),
        "a": Evidence("elbo", "lower bound", hard, 1),
    }
    table = compare(evidence, assume_alike=True)
    assert list(table.index) == ["a", "b"]
    assert table.loc["b", "difference"] == pytest.approx(-1.0, abs=0.05)
    assert table.loc["b", "difference_error"] < 0.02 < 0.5 < table.loc["b", "standard_error"]
    with pytest.raises(ValueError, match="rows"):
        compare({**evidence, "c": Evidence("elbo", "lower bound", hard[:5], 1)}, assume_alike=True)


class LearnedGuide(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.slope = torch.nn.Parameter(torch.tensor([0.5, 0.05, -0.05]))
        self.log_scale = torch.nn.Parameter(torch.tensor([-0.3, 0.0, 0.1]))

    def forward(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x[:, None] * self.slope, self.log_scale.exp()).to_event(1))


def test_the_microscope_sees_path_derivatives_vary_less(x):
    pair = Pair(model, LearnedGuide()).check(x)
    objectives = {
        "sgvb": SGVB(estimator="A"),
        "stl": StickingTheLanding(),
        "iwae": IWAE(num_samples=5),
        "dreg": DReG(num_samples=5),
    }
    table = gradient_microscope(pair, objectives, x[:20], num_repeats=200)
    assert set(table["block"]) == {"slope", "log_scale"}
    total = table.groupby("objective")[["variance", "variance_low", "variance_high"]].sum()
    assert total.loc["stl", "variance_high"] < total.loc["sgvb", "variance_low"]
    assert total.loc["dreg", "variance_high"] < total.loc["iwae", "variance_low"]
    assert (table["snr"] > 0).all()


def test_the_microscope_leaves_the_parameters_alone():
    x = torch.randn(20, 2)
    mixture = GaussianMixture(2, 3)
    before = mixture.means.detach().clone()
    gradient_microscope(Pair(mixture).check(x), {"em": EM()}, x, num_repeats=3)
    torch.testing.assert_close(mixture.means.detach(), before)


def test_a_latent_whose_modes_part_with_the_data_is_used_though_its_mean_stays():
    world = worlds.make("two_modes")
    usage = latent_usage(Pair(world.model, world.guide).check(world.data), world.data)
    assert usage.num_active == 0 and usage.rate > 2.0 and usage.warnings == usage.unused == ()
