"""Every likelihood against SciPy, quadrature, its own samples and the house's contract."""

import inspect
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import product

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch import Tensor, nn

from aevb import registry
from aevb.models import likelihoods
from aevb.models.likelihoods.constraints import Grid
from aevb.models.likelihoods.zero_inflated import ZeroInflated
from aevb.testing import check_likelihood

NUM_PIXELS = 3
STANDARD_ERRORS = 4.5


@dataclass(frozen=True)
class Case:
    """One likelihood: how to make it, and what is true of it."""

    make: Callable[[], nn.Module]
    log_prob: Callable[[Sequence[float], float], float]  # raw parameters of a pixel, x -> log p
    domain: tuple[float, float] | np.ndarray  # an interval, or the points that carry the mass
    inside: Sequence[float]
    outside: Sequence[float]
    extremes: Sequence[float] = field(default=())


def softplus(h):
    return np.logaddexp(0.0, h)


def sigmoid(h):
    return 1 / (1 + np.exp(-h))


def zero_inflated(log_pmf, gate_logit, x):
    gate = sigmoid(gate_logit)
    return np.log(gate * (x == 0) + (1 - gate) * np.exp(log_pmf))


def negative_binomial(mean, total_count, x):
    return stats.nbinom.logpmf(x, total_count, total_count / (total_count + mean))


def on_grid(loc, raw, x, levels=256):
    top, s = levels - 1, softplus(raw) + 1e-4
    above = 1.0 if x > 1 - 0.5 / top else stats.logistic.cdf(x + 0.5 / top, loc, s)
    below = 0.0 if x < 0.5 / top else stats.logistic.cdf(x - 0.5 / top, loc, s)
    return np.log(above - below)


def mixture_on_grid(h, x):
    logits, locs, raws = np.asarray(h).reshape(3, 2)
    weights = np.exp(logits - np.logaddexp.reduce(logits))
    parts = [w * np.exp(on_grid(m, r, x, levels=17)) for w, m, r in zip(weights, locs, raws, strict=True)]
    return np.log(sum(parts))


REALS = (-np.inf, np.inf)
POSITIVE = (0.0, np.inf)
COUNTS = np.arange(4000.0)
LEVELS = np.arange(256) / 255
REAL = {"inside": [-3.0, 0.0, 2.5], "outside": [math.nan], "extremes": [-1e4, 0.0, 1e4]}
ABOVE_ZERO = {
    "inside": [0.01, 1.0, 30.0],
    "outside": [-1.0, 0.0, math.nan],
    "extremes": [1e-30, 1.0, 1e30],
}
UNIT = {"inside": [0.0, 0.3, 1.0], "outside": [-0.1, 1.1, math.nan], "extremes": [0.0, 0.5, 1.0]}
COUNT = {
    "inside": [0.0, 1.0, 7.0],
    "outside": [-1.0, 0.5, math.nan],
    "extremes": [0.0, 1.0, 1e6],
}

CASES = {
    "bernoulli": Case(
        likelihoods.Bernoulli,
        lambda h, x: stats.bernoulli.logpmf(x, sigmoid(h[0])),
        np.array([0.0, 1.0]),
        **UNIT,
    ),
    "beta": Case(
        likelihoods.Beta,
        lambda h, x: stats.beta.logpdf(x, softplus(h[0]) + 1e-3, softplus(h[1]) + 1e-3),
        (0.0, 1.0),
        inside=[1e-6, 0.3, 1 - 1e-6],
        outside=[-0.1, 0.0, 1.0, math.nan],
        extremes=[1e-30, 0.5, 1 - 1e-7],
    ),
    "categorical": Case(
        lambda: likelihoods.Categorical(num_classes=4),
        lambda h, x: h[int(x)] - np.logaddexp.reduce(h),
        np.arange(4.0),
        inside=[0.0, 2.0, 3.0],
        outside=[-1.0, 0.5, 4.0, math.nan],
        extremes=[0.0, 1.0, 3.0],
    ),
    "continuous-bernoulli": Case(
        likelihoods.ContinuousBernoulli,
        lambda h, x: h[0] * x - np.log(np.expm1(h[0]) / h[0]),
        (0.0, 1.0),
        **UNIT,
    ),
    "discretized-logistic": Case(
        likelihoods.DiscretizedLogistic,
        lambda h, x: on_grid(h[0], h[1], x),
        LEVELS,
        inside=[0.0, 7 / 255, 1.0],
        outside=[-1 / 255, 7 / 256, 0.5, 256 / 255, math.nan],
        extremes=[0.0, 100 / 255, 1.0],
    ),
    "discretized-logistic-mixture": Case(
        lambda: likelihoods.DiscretizedLogisticMixture(num_components=2, levels=17),
        mixture_on_grid,
        np.arange(17) / 16,
        inside=[0.0, 7 / 16, 1.0],
        outside=[-1 / 16, 7 / 17, 17 / 16, math.nan],
        extremes=[0.0, 0.5, 1.0],
    ),
    "gamma": Case(
        likelihoods.Gamma,
        lambda h, x: stats.gamma.logpdf(x, softplus(h[0]) + 1e-3, scale=1 / (softplus(h[1]) + 1e-3)),
        POSITIVE,
        **ABOVE_ZERO,
    ),
    "laplace": Case(
        lambda: likelihoods.Laplace(scale=0.5),
        lambda h, x: stats.laplace.logpdf(x, h[0], 0.5),
        REALS,
        **REAL,
    ),
    "laplace-learned": Case(
        lambda: likelihoods.Laplace(scale="learned", mean="sigmoid"),
        lambda h, x: stats.laplace.logpdf(x, sigmoid(h[0]), 1.0 + 1e-4),
        REALS,
        **REAL,
    ),
    "laplace-per-pixel": Case(
        lambda: likelihoods.Laplace(scale="per-pixel"),
        lambda h, x: stats.laplace.logpdf(x, h[0], softplus(h[1]) + 1e-4),
        REALS,
        **REAL,
    ),
    "log-normal": Case(
        lambda: likelihoods.LogNormal(scale=0.5),
        lambda h, x: stats.lognorm.logpdf(x, 0.5, scale=np.exp(h[0])),
        POSITIVE,
        **ABOVE_ZERO,
    ),
    "log-normal-learned": Case(
        lambda: likelihoods.LogNormal(scale="learned"),
        lambda h, x: stats.lognorm.logpdf(x, 1.0 + 1e-4, scale=np.exp(h[0])),
        POSITIVE,
        **ABOVE_ZERO,
    ),
    "log-normal-per-pixel": Case(
        lambda: likelihoods.LogNormal(scale="per-pixel"),
        lambda h, x: stats.lognorm.logpdf(x, softplus(h[1]) + 1e-4, scale=np.exp(h[0])),
        POSITIVE,
        **ABOVE_ZERO,
    ),
    "negative-binomial": Case(
        likelihoods.NegativeBinomial,
        lambda h, x: negative_binomial(softplus(h[0]) + 1e-6, softplus(h[1]) + 1e-6, x),
        COUNTS,
        **COUNT,
    ),
    "normal": Case(
        lambda: likelihoods.Normal(scale=0.5),
        lambda h, x: stats.norm.logpdf(x, h[0], 0.5),
        REALS,
        **REAL,
    ),
    "normal-learned": Case(
        lambda: likelihoods.Normal(scale="learned", mean="sigmoid"),
        lambda h, x: stats.norm.logpdf(x, sigmoid(h[0]), 1.0),
        REALS,
        **REAL,
    ),
    "normal-per-pixel": Case(
        lambda: likelihoods.Normal(scale="per-pixel", min_scale=1e-3),
        lambda h, x: stats.norm.logpdf(x, h[0], np.exp(h[1] / 2) + 1e-3),
        REALS,
        **REAL,
    ),
    "poisson": Case(
        likelihoods.Poisson,
        lambda h, x: stats.poisson.logpmf(x, softplus(h[0]) + 1e-6),
        COUNTS,
        **COUNT,
    ),
    "student-t": Case(
        lambda: likelihoods.StudentT(scale=0.5, df=5.0),
        lambda h, x: stats.t.logpdf(x, 5.0, h[0], 0.5),
        REALS,
        **REAL,
    ),
    "student-t-learned": Case(
        lambda: likelihoods.StudentT(scale="learned", mean="sigmoid"),
        lambda h, x: stats.t.logpdf(x, 4.0, sigmoid(h[0]), 1.0 + 1e-4),
        REALS,
        **REAL,
    ),
    "student-t-per-pixel": Case(
        lambda: likelihoods.StudentT(scale="per-pixel"),
        lambda h, x: stats.t.logpdf(x, 4.0, h[0], softplus(h[1]) + 1e-4),
        REALS,
        **REAL,
    ),
    "zero-inflated-negative-binomial": Case(
        likelihoods.ZeroInflatedNegativeBinomial,
        lambda h, x: zero_inflated(negative_binomial(softplus(h[0]) + 1e-6, softplus(h[1]) + 1e-6, x), h[2], x),
        COUNTS,
        **COUNT,
    ),
    "zero-inflated-poisson": Case(
        likelihoods.ZeroInflatedPoisson,
        lambda h, x: zero_inflated(stats.poisson.logpmf(x, softplus(h[0]) + 1e-6), h[1], x),
        COUNTS,
        **COUNT,
    ),
}

every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


def decoder_output(likelihood: nn.Module, *batch: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    size = (*batch, likelihood.num_params * NUM_PIXELS)
    return torch.randn(size, generator=generator, dtype=torch.float64)


def data_like(case: Case, *batch: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Numbers of the support, cycled through ``[*batch, NUM_PIXELS]``."""
    size = math.prod(batch) * NUM_PIXELS
    values = torch.tensor([case.inside[i % len(case.inside)] for i in range(size)], dtype=dtype)
    return values.reshape(*batch, NUM_PIXELS)


def test_every_likelihood_is_in_the_table():
    tested = {type(case.make()).__name__ for case in CASES.values()}
    wrapper = {"Standardized"}  # around any of them, with columns of its own; with the tables it is for
    assert tested | wrapper == set(likelihoods.__all__)
    assert {type(case.make()).name for case in CASES.values()} == registry.own("likelihoods")


@every_case
def test_log_prob_is_scipys(case):
    likelihood = case.make().double()
    h, x = decoder_output(likelihood, 4), data_like(case, 4)
    pixels = h.reshape(4, likelihood.num_params, NUM_PIXELS).numpy()
    # Grey values under a Bernoulli have no probability: SciPy is asked about the binary ones.
    x = x.round() if isinstance(likelihood, likelihoods.Bernoulli) else x
    for n in range(4):
        terms = [case.log_prob(pixels[n, :, i], float(x[n, i])) for i in range(NUM_PIXELS)]
        got = likelihood(h[n]).log_prob(x[n]).item()
        assert got == pytest.approx(sum(terms), rel=1e-9, abs=1e-9)


def moment(case: Case, p_x, power: int) -> float:
    """The exact E[x ** power] of a law over one pixel, by a sum or by quadrature."""

    def weigh(x):
        value = torch.tensor([x], dtype=torch.float64)
        return p_x.log_prob(value).exp().item() * x**power

    if isinstance(case.domain, np.ndarray):
        points = torch.from_numpy(case.domain)
        return (p_x.log_prob(points.unsqueeze(-1)).exp() * points**power).sum().item()
    low, high = case.domain
    middle = p_x.mean[0].item()
    halves = ((low, middle), (middle, high))
    return sum(integrate.quad(weigh, *half, limit=200)[0] for half in halves)


@every_case
def test_likelihood_holds_what_every_likelihood_holds(case):
    points = isinstance(case.domain, np.ndarray)
    check_likelihood(case.make, domain=torch.from_numpy(case.domain) if points else case.domain)


@every_case
def test_support_tells_data_from_other_numbers(case):
    likelihood = case.make()
    support = likelihood(torch.zeros(likelihood.num_params)).support
    for value in case.inside:
        assert support.check(torch.tensor([value])), value
    for value in case.outside:
        assert not support.check(torch.tensor([value])), value


@every_case
def test_mean_is_the_mean_of_samples(case):
    torch.manual_seed(0)
    likelihood = case.make().double()
    p_x = likelihood(0.5 * decoder_output(likelihood, 4))
    x = p_x.sample((20_000,))
    error = x.std(0) / math.sqrt(len(x))
    assert ((x.mean(0) - p_x.mean).abs() < STANDARD_ERRORS * error).all()


@every_case
def test_expanding_changes_nothing_even_after_use(case):
    likelihood = case.make().double()
    p_x, x = likelihood(decoder_output(likelihood, 4)), data_like(case, 4)
    before = p_x.log_prob(x)
    assert p_x.mean.shape == p_x.sample().shape
    torch.testing.assert_close(p_x.log_prob(x), before)
    expanded = p_x.expand((2, 4))
    assert expanded.sample().shape == (2, 4, NUM_PIXELS)
    torch.testing.assert_close(expanded.log_prob(x), before.expand(2, 4))
    torch.testing.assert_close(expanded.mean, p_x.mean.expand(2, 4, NUM_PIXELS))


@every_case
def test_extreme_outputs_and_data_have_finite_gradients(case):
    likelihood = case.make()
    rows = product([-1e4, 0.0, 1e4], repeat=min(likelihood.num_params, 6))
    raw = torch.tensor([row for row in rows])  # [rows, num_params]
    h = raw.repeat_interleave(NUM_PIXELS, -1).requires_grad_()
    log_prob = likelihood(h).log_prob(torch.tensor(case.extremes))
    assert log_prob.isfinite().all()
    log_prob.sum().backward()
    assert h.grad.isfinite().all()


@every_case
def test_arguments_are_kept_under_their_names(case):
    likelihood = case.make()
    names = list(inspect.signature(type(likelihood)).parameters)
    arguments = json.loads(json.dumps({name: getattr(likelihood, name) for name in names}))
    again = type(likelihood)(**arguments)
    assert {name: getattr(again, name) for name in names} == arguments
    assert again.num_params == likelihood.num_params
    again.load_state_dict(likelihood.state_dict())


@every_case
def test_a_decoder_of_the_wrong_width_is_named(case):
    likelihood = case.make()
    if likelihood.num_params > 1:
        with pytest.raises(ValueError, match=r"\* P\], got .* out_features"):
            likelihood(torch.zeros(2, likelihood.num_params * NUM_PIXELS + 1))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: likelihoods.Normal(scale="free"), "'learned' or 'per-pixel', got 'free'"),
        (lambda: likelihoods.Normal(scale=0.0), "scale to be a positive number"),
        (lambda: likelihoods.Normal(mean="tanh"), "'identity' or 'sigmoid', got 'tanh'"),
        (lambda: likelihoods.Laplace(min_scale=-1.0), "Laplace: expected min_scale >= 0"),
        (lambda: likelihoods.StudentT(df=0.0), "expected df > 0"),
        (lambda: likelihoods.Poisson(floor=-1.0), "expected floor >= 0"),
        (lambda: likelihoods.Categorical(num_classes=1), "num_classes >= 2, got 1"),
        (lambda: likelihoods.DiscretizedLogistic(levels=1), "levels >= 2, got 1"),
        (lambda: likelihoods.DiscretizedLogisticMixture(0), "num_components >= 1, got 0"),
    ],
)
def test_wrong_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_bernoulli_scores_grey_pixels_by_their_cross_entropy():
    h, x = torch.randn(5, 7), torch.rand(5, 7)
    p_x = likelihoods.Bernoulli()(h)
    entropy = nn.functional.binary_cross_entropy_with_logits(h, x, reduction="none").sum(-1)
    torch.testing.assert_close(p_x.log_prob(x), -entropy)
    assert set(p_x.sample().unique().tolist()) <= {0.0, 1.0}
    assert p_x.base_dist.enumerate_support(expand=False).flatten().tolist() == [0.0, 1.0]


def test_fixed_scale_is_the_squared_error_and_a_constant():
    h, x = torch.randn(5, 7), torch.randn(5, 7)
    squared = (x - h).square().sum(-1)
    constant = 0.5 * 7 * math.log(2 * math.pi)
    torch.testing.assert_close(likelihoods.Normal()(h).log_prob(x), -0.5 * squared - constant)


def test_best_learned_scale_is_the_root_mean_square_error():
    likelihood = likelihoods.Normal(scale="learned").double()
    h, x = torch.randn(50, 7).double(), torch.randn(50, 7).double()
    likelihood.log_scale.data = 0.5 * (x - h).square().mean().log()
    likelihood(h).log_prob(x).sum().backward()
    assert abs(float(likelihood.log_scale.grad)) < 1e-10


def test_frey_face_decoder_has_means_inside_and_a_free_log_variance():
    h = torch.randn(5, 2 * 560)
    p_x = likelihoods.Normal(scale="per-pixel", mean="sigmoid")(h)
    torch.testing.assert_close(p_x.mean, h[:, :560].sigmoid())
    torch.testing.assert_close(p_x.variance, h[:, 560:].exp())


def test_without_a_floor_a_vanishing_scale_is_an_error_not_a_clamp():
    with pytest.raises(ValueError, match="scale"):
        likelihoods.Normal(scale="per-pixel")(torch.tensor([0.0, -1e4]))


@pytest.mark.parametrize("logit", [-300.0, -40.0, -0.6, -1e-3, 0.0, 0.4999, 0.5, 40.0, 300.0])
def test_continuous_bernoulli_at_any_logit_in_float32(logit):
    exact = likelihoods.ContinuousBernoulli()(torch.tensor([logit], dtype=torch.float64))
    p_x = likelihoods.ContinuousBernoulli()(torch.tensor([logit]))
    # A density e^(hx) changes by h dx between nodes: the grid is fine enough for |h| = 300.
    x = torch.linspace(0, 1, 20_001).unsqueeze(-1)
    total = torch.trapezoid(p_x.log_prob(x).double().exp(), dx=1 / 20_000)
    assert float(total) == pytest.approx(1.0, abs=1e-4)
    for name in ("mean", "variance"):
        want, got = getattr(exact, name), getattr(p_x, name)
        torch.testing.assert_close(got.double(), want, rtol=2e-5, atol=0)
    if abs(logit) <= 40:
        mean, square = (moment(CASES["continuous-bernoulli"], exact, n) for n in (1, 2))
        assert exact.mean.item() == pytest.approx(mean, rel=1e-7)
        assert exact.variance.item() == pytest.approx(square - mean**2, rel=1e-5)
    base = p_x.base_dist
    levels = torch.linspace(0.01, 0.99, 50)
    torch.testing.assert_close(base.cdf(base.icdf(levels)), levels, rtol=1e-4, atol=1e-5)


def test_continuous_bernoulli_learns_from_a_zero_logit():
    h = torch.zeros(1, requires_grad=True)
    likelihoods.ContinuousBernoulli()(h).log_prob(torch.tensor([0.8])).backward()
    assert float(h.grad) == pytest.approx(0.3)


def test_every_8_bit_pixel_lies_on_the_grid_and_other_scalings_do_not():
    levels = torch.arange(256)
    assert Grid(256).check(levels.float() / 255).all()
    assert not Grid(256).check(levels[1:].float() / 256).any()
    assert repr(Grid(256)) == "Grid(levels=256)"


def test_a_mixture_of_one_is_its_component():
    h, x = torch.randn(5, 2 * 4), torch.randint(256, (5, 4)) / 255
    logits = torch.randn(5, 4)
    one = likelihoods.DiscretizedLogisticMixture(1)(torch.cat([logits, h], -1))
    torch.testing.assert_close(one.log_prob(x), likelihoods.DiscretizedLogistic()(h).log_prob(x))


def test_a_certain_gate_stays_finite_after_sampling():
    law = ZeroInflated(likelihoods.Poisson()(torch.tensor([0.0])).base_dist, torch.tensor([90.0]))
    law.sample()
    x, rate = torch.tensor([3.0]), math.log(2) + 1e-6
    want = stats.poisson.logpmf(3, rate) - 90.0  # log(1 - g) = -softplus(90) = -90 in float32
    assert float(law.log_prob(x)) == pytest.approx(want, rel=1e-6)


def test_beta_draws_stay_inside_even_where_they_round_to_the_ends():
    torch.manual_seed(0)
    p_x = likelihoods.Beta()(torch.tensor([-5.0, 20.0, 20.0, -5.0]))
    x = p_x.sample((1000,))
    assert p_x.support.check(x).all()
    assert p_x.log_prob(x).isfinite().all()


@pytest.mark.parametrize("name", ["categorical", "normal-per-pixel", "zero-inflated-poisson"])
def test_variance_is_the_second_central_moment(name):
    case = CASES[name]
    likelihood = case.make().double()
    p_x = likelihood(decoder_output(likelihood)[: likelihood.num_params])
    variance = moment(case, p_x, 2) - moment(case, p_x, 1) ** 2
    assert p_x.variance.item() == pytest.approx(variance, rel=1e-6)
