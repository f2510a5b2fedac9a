"""Every guide: support, broadcasting over samples, gradients by name, and its own theorem."""

import inspect
import math
import warnings
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import TraceMeanField_ELBO
from torch import Tensor, nn
from torch.distributions import kl_divergence

from aevb import guides, registry
from aevb.inference.pairs.pair import Pair
from aevb.inference.posterior.local_guide import LocalGuide
from aevb.models import (
    ConditionalModel,
    HierarchicalModel,
    LatentVariableModel,
    ProbabilisticPCA,
    likelihoods,
    networks,
    priors,
)
from aevb.testing import check_guide

STANDARD_ERRORS = 4.5
P, D, B, K = 6, 3, 5, 4


@pytest.fixture(autouse=True)
def _float64_and_seed():
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(torch.float32)


def encoder(width: int = P) -> nn.Module:
    return networks.MLP(width, hidden=[8], activation="tanh")


def linear_model() -> LatentVariableModel:
    return LatentVariableModel(priors.StandardNormal(D), nn.Linear(D, P), likelihoods.Normal(scale=0.5))


def flow(family: str) -> Callable[[], nn.Module]:
    return lambda: guides.Flow(D, encoder(), family, 2, [8])


GUIDES: dict[str, Callable[[], Any]] = {
    "normal": lambda: guides.Normal(D, encoder()),
    "full-covariance": lambda: guides.FullCovarianceNormal(D, encoder()),
    "low-rank": lambda: guides.LowRankNormal(D, encoder()),
    "planar": flow("planar"),
    "iaf": flow("iaf"),
    "maf": flow("maf"),
    "nsf": flow("nsf"),
    "nsf-coupling": flow("nsf-coupling"),
    "realnvp": flow("realnvp"),
    "von-mises-fisher": lambda: guides.VonMisesFisher(D, encoder()),
    "power-spherical": lambda: guides.PowerSpherical(D, encoder()),
    "dirichlet": lambda: guides.Dirichlet(D, encoder()),
    "logistic-normal": lambda: guides.LogisticNormal(D, encoder()),
    "relaxed-categorical": lambda: guides.RelaxedCategorical(D, encoder()),
    "masked": lambda: guides.MaskedNormal(D, encoder(2 * P)),
    "batch-norm": lambda: guides.BatchNormNormal(D, encoder()),
    "batch-norm-two-sided": lambda: guides.BatchNormNormal(D, encoder(), two_sided=True),
    "minimum-rate": lambda: guides.MinimumRateNormal(D, encoder()),
    "semi-amortized": lambda: guides.SemiAmortized(D, encoder(), linear_model()),
    "mean-field": lambda: guides.MeanField(B, D),
}
# Those that take more than x, or have no density.
OTHERS: dict[str, Callable[[], Any]] = {
    "conditional": lambda: guides.ConditionalNormal(D, encoder(P + 3), num_classes=3),
    "hierarchical": lambda: guides.Hierarchical(D, encoder(), hidden=[5]),
    "concatenated-noise": lambda: guides.ConcatenatedNoise(D, encoder(), noise_dim=3, hidden=[5]),
    "noise-basis": lambda: guides.NoiseBasis(D, encoder(), num_bases=3, noise_dim=3, basis_hidden=[5]),
}
PRIOR_ON = {
    "real": priors.StandardNormal,
    "sphere": priors.UniformSphere,
    "simplex": priors.Dirichlet,
}


def test_every_guide_is_in_the_table():
    assert {type(make()).name for make in (GUIDES | OTHERS).values()} == registry.own("guides")


def _partners(name: str, x: Tensor) -> tuple[tuple[Tensor, ...], Any]:
    """The arguments of a guide, and the model that it goes with if it is a particular one."""
    decoder, likelihood = networks.MLP(D, P, hidden=[5]), likelihoods.Normal()
    if name == "masked":
        return (torch.where(torch.eye(B, P).bool(), torch.nan, x),), None
    if name == "mean-field":
        return (x, torch.arange(B)), None
    if name == "conditional":
        wider = networks.MLP(D + 3, P, hidden=[5])
        return (x, torch.arange(B) % 3), ConditionalModel(priors.StandardNormal(D), wider, likelihood, num_classes=3)
    if name == "hierarchical":
        return (x,), HierarchicalModel(D, decoder, likelihood, hidden=[5])
    if name == "semi-amortized":
        return (x,), LatentVariableModel(priors.StandardNormal(D), decoder, likelihood)
    return (x,), None


@pytest.mark.parametrize("name", GUIDES | OTHERS)
def test_guide_holds_what_every_guide_holds(name):
    data, model = _partners(name, torch.rand(B, P))
    make = (GUIDES | OTHERS)[name]
    if name == "semi-amortized":  # refined on the very model that it is a guide of

        def make() -> nn.Module:
            return guides.SemiAmortized(D, encoder(), model)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", RuntimeWarning)
        check_guide(make, *data, model=model)
    said = [str(warning.message) for warning in caught if "uncaptured" in str(warning.message)]
    # One draws until a draw is accepted, the other's halves are picked by a mask.
    assert bool(said) == (name in ("von-mises-fisher", "realnvp")), said


@pytest.mark.parametrize("size", [0.0, 1e3, 1e6])
@pytest.mark.parametrize("name", [name for name in GUIDES if name != "mean-field"])
def test_values_and_gradients_are_finite_on_extreme_inputs(name, size):
    torch.set_default_dtype(torch.float32)
    guide = GUIDES[name]()
    for module in guide.modules():
        if isinstance(module, nn.Tanh):
            guide.encoder = _LinearEncoder(guide.encoder.layers[0])
    q = guide.posterior(size * torch.randn(B, P))
    z = q.rsample((20,))
    log_q = q.log_prob(z)
    assert z.isfinite().all() and log_q.isfinite().all()
    log_q.mean().backward()
    for parameter, value in guide.named_parameters():
        assert value.grad is None or value.grad.isfinite().all(), parameter


class _LinearEncoder(nn.Module):
    """An encoder without a squashing last layer, so that extremes reach the heads."""

    def __init__(self, linear: nn.Linear):
        super().__init__()
        self.linear = linear
        self.out_features = linear.out_features

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x)


@pytest.mark.parametrize("name", [name for name in GUIDES if name != "mean-field"])
def test_pathwise_gradient_agrees_with_the_score_function(name):
    """d/da E_{q(z|ax)}[f(z)] two ways: through the draws, and E[f(z) d/da log q(z|ax)]."""
    guide = GUIDES[name]().eval()
    x, copies, draws = torch.randn(P), 60, 500

    def f(z: Tensor) -> Tensor:
        return (z * torch.arange(1.0, D + 1)).sum(-1).sin() + z.square().sum(-1) / 4 + z[..., 0]

    estimates = []
    for pathwise in (True, False):
        a = torch.ones(copies, 1, requires_grad=True)
        q = guide.posterior(a * x)
        if pathwise:
            value = f(q.rsample((draws,)))
        else:
            z = q.sample((draws,))
            values = f(z)
            value = (values - values.mean()) * q.log_prob(z)
        (slopes,) = torch.autograd.grad(value.mean(0).sum(), a)
        estimates.append((slopes.mean(), slopes.std() / copies**0.5))
    (path, path_error), (score, score_error) = estimates
    assert abs(path - score) < STANDARD_ERRORS * (path_error**2 + score_error**2) ** 0.5 + 1e-9


@pytest.mark.parametrize("name", guides.__all__)
def test_arguments_are_kept_and_the_source_is_named(name):
    guide_class = getattr(guides, name)
    assert "References:" in inspect.getdoc(guide_class)
    if name == "AmortizedGuide" or not issubclass(guide_class, nn.Module):
        return
    model = linear_model()
    given = {
        "latent_dim": D,
        "encoder": encoder(),
        "num_points": B,
        "num_classes": 2,
        "model": model,
        "network": nn.Linear(P, D),
    }
    wanted = inspect.signature(guide_class).parameters
    guide = guide_class(**{key: value for key, value in given.items() if key in wanted})
    for key in wanted:
        assert getattr(guide, key) is not None
        if key in given:
            assert getattr(guide, key) is given[key]


def test_encoder_without_a_width_gets_lazy_heads():
    guide = guides.Normal(D, nn.Sequential(nn.Linear(P, 7), nn.Tanh()))
    assert guide.posterior(torch.zeros(B, P)).batch_shape == (B,)
    assert guide.mean.in_features == 7
    with pytest.raises(ValueError, match="encoder: expected a network with the attribute"):
        guides.Flow(D, nn.Sequential(nn.Linear(P, 7)))


# --------------------------------------------------------------- the guide that can be exact


def exact_guide(model: ProbabilisticPCA) -> guides.FullCovarianceNormal:
    """The full-covariance guide whose heads are set to PPCA's posterior."""
    guide = guides.FullCovarianceNormal(model.latent_dim, nn.Linear(P, P))
    zero, columns = model.posterior(torch.zeros(1, P)), model.posterior(torch.eye(P))
    scale_tril = zero.scale_tril[0]
    scale = scale_tril.diagonal()
    relative = scale_tril / scale.unsqueeze(-1)  # row i of L is s_i times (I + C)'s row
    with torch.no_grad():
        guide.encoder.weight.copy_(torch.eye(P))
        guide.encoder.bias.zero_()
        guide.mean.weight.copy_((columns.mean - zero.mean).mT)
        guide.mean.bias.copy_(zero.mean[0])
        guide.log_scale.weight.zero_()
        guide.log_scale.bias.copy_(scale.log())
        guide.coupling.weight.zero_()
        guide.coupling.bias.copy_(relative[guide.rows, guide.columns])
    return guide


def test_full_covariance_guide_can_be_the_exact_posterior():
    model = ProbabilisticPCA(P, D)
    x = model.simulate(B)
    guide = exact_guide(model)
    torch.testing.assert_close(
        kl_divergence(guide.posterior(x), model.posterior(x)), torch.zeros(B), atol=1e-10, rtol=0
    )
    weights = Pair(model, guide).check(x).cloud(x, num_samples=K).log_weight
    torch.testing.assert_close(weights, model.log_evidence(x).expand(K, B))


def test_full_covariance_guide_is_trained_to_the_exact_posterior():
    model = ProbabilisticPCA(P, 2)
    x = model.simulate(100)
    guide = guides.FullCovarianceNormal(2, encoder=_LinearEncoder(nn.Linear(P, P)))
    optimizer = torch.optim.Adam(guide.parameters(), lr=0.02)
    for _ in range(600):
        optimizer.zero_grad()
        q = guide.posterior(x)
        # The closed-form divergence: no noise, so no tolerance for it.
        kl_divergence(q, model.posterior(x)).mean().backward()
        optimizer.step()
    assert kl_divergence(guide.posterior(x), model.posterior(x)).mean() < 1e-3


def test_the_gap_of_a_diagonal_guide_is_the_closed_form_and_the_full_one_has_none():
    """PPCA's posterior precision is L: the best diagonal normal has 1 / L_jj as variances, and loses
    KL = 1/2 (sum_j log L_jj - log det L) nats at every x, whatever is done. Both are trained on the bound itself."""
    model = ProbabilisticPCA(P, 2)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 0.9]] * P) + 0.3 * torch.randn(P, 2))
        model.log_scale.fill_(-0.3)
    x = model.simulate(100)
    precision = torch.linalg.inv(model.posterior(x[:1]).covariance_matrix[0])
    least = float((precision.diagonal().log().sum() - torch.logdet(precision)).detach() / 2)
    assert least > 0.3  # the posterior is correlated
    gaps = {}
    for family in (guides.Normal, guides.FullCovarianceNormal):
        guide = family(2, encoder=_LinearEncoder(nn.Linear(P, P)))
        optimizer = torch.optim.Adam(guide.parameters(), lr=0.05)
        decay = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.99)
        for _ in range(400):
            optimizer.zero_grad()
            _gap(model, guide, x).mean().backward()
            optimizer.step()
            decay.step()
        gaps[family] = float(_gap(model, guide, x).mean().detach())
        # measured on draws: log p(x) - E_q[log p(x, z) - log q(z|x)], no closed form of the divergence in it
        weights = Pair(model, guide).check(x).cloud(x, num_samples=10_000).log_weight.detach()
        measured = model.log_evidence(x).detach() - weights.mean(0)
        error = float(weights.std(0).mean()) / (100 * 10_000) ** 0.5
        assert error < 0.005 * least
        assert abs(float(measured.mean()) - gaps[family]) < STANDARD_ERRORS * error + 1e-9
    assert gaps[guides.FullCovarianceNormal] < 0.01
    assert gaps[guides.Normal] == pytest.approx(least, rel=0.02)
    assert gaps[guides.Normal] >= least - 1e-9


def _gap(model: ProbabilisticPCA, guide: Any, x: Tensor) -> Tensor:
    """log p(x) - L = KL(q(z|x) || p(z|x)) of two normals, `[batch]`."""
    q = guide.posterior(x)
    if isinstance(guide, guides.Normal):
        base = q.base_dist
        q = dist.MultivariateNormal(base.loc, scale_tril=base.scale.diag_embed())
    return kl_divergence(q, model.posterior(x))


@pytest.mark.parametrize("name", ["full-covariance", "low-rank"])
def test_divergence_of_correlated_normals_to_a_diagonal_one(name):
    p = GUIDES[name]().posterior(torch.randn(B, P))
    q = dist.Normal(torch.randn(D), 0.5 + torch.rand(D)).to_event(1)
    dense = dist.MultivariateNormal(q.base_dist.loc, covariance_matrix=torch.diag(q.base_dist.scale**2))
    dense_p = dist.MultivariateNormal(p.mean, covariance_matrix=p.covariance_matrix)
    torch.testing.assert_close(kl_divergence(p, q), kl_divergence(dense_p, dense))


@pytest.mark.parametrize("name", ["full-covariance", "von-mises-fisher", "logistic-normal"])
def test_pyro_finds_the_analytic_divergence(name):
    """With a divergence in closed form the bound's noise comes from the likelihood alone."""
    guide = GUIDES[name]()
    prior = {
        "full-covariance": priors.StandardNormal(D),
        "von-mises-fisher": priors.UniformSphere(D),
        "logistic-normal": priors.LogisticNormal(D),
    }[name]
    model = LatentVariableModel(prior, nn.Linear(D, P), likelihoods.Normal(scale=1.0))
    with torch.no_grad():
        model.decoder.weight.zero_()
    x = torch.randn(B, P)
    losses = [TraceMeanField_ELBO().loss(model, guide, x) for _ in range(3)]
    assert losses[0] == pytest.approx(losses[1]) == pytest.approx(losses[2])
    exact = kl_divergence(guide.posterior(x), prior()).sum()
    expected = exact - likelihoods.Normal(scale=1.0)(model.decoder.bias).log_prob(x).sum()
    assert losses[0] == pytest.approx(float(expected.detach()))


def test_low_rank_covariance():
    guide = guides.LowRankNormal(D, encoder(), rank=1)
    q = guide.posterior(torch.randn(B, P))
    scale = q.cov_diag.sqrt()
    v = q.cov_factor / scale.unsqueeze(-1)
    inner = torch.eye(D) + v @ v.mT
    torch.testing.assert_close(q.covariance_matrix, scale.unsqueeze(-1) * inner * scale.unsqueeze(-2))
    with pytest.raises(ValueError, match="rank: expected at least 1; got 0"):
        guides.LowRankNormal(D, encoder(), rank=0)


# --------------------------------------------------------------- against posterior collapse


def diagonal_divergence(q: Any) -> Tensor:
    return kl_divergence(q, priors.StandardNormal(D)())


@pytest.mark.parametrize("gamma", [0.3, 1.0])
def test_batch_normalised_means_keep_the_divergence_up(gamma):
    guide = guides.BatchNormNormal(D, encoder(), gamma=gamma)
    with torch.no_grad():
        guide.log_scale.weight.zero_()
        guide.log_scale.bias.zero_()
    x = torch.randn(200, P)
    rate = diagonal_divergence(guide.posterior(x)).mean()
    assert float(rate.detach()) == pytest.approx(D * gamma**2 / 2, rel=1e-5)


def test_two_sided_normalisation_matches_the_priors_moments():
    guide = guides.BatchNormNormal(D, encoder(), two_sided=True, tau=0.4)
    with torch.no_grad():
        guide.share.copy_(torch.tensor([-30.0, 0.0, 2.0]))
    q = guide.posterior(torch.randn(500, P)).base_dist
    torch.testing.assert_close(q.loc.mean(0), torch.zeros(D), atol=1e-6, rtol=0)
    total = q.loc.square().mean(0) + q.scale.square().mean(0)
    torch.testing.assert_close(total, torch.ones(D), atol=2e-4, rtol=0)
    assert float(q.loc.square().mean(0)[0].detach()) == pytest.approx(0.4, rel=1e-4)


def test_batch_norm_guide_depends_on_the_batch_only_in_training():
    guide = guides.BatchNormNormal(D, encoder())
    x = torch.randn(B, P)
    for _ in range(10):
        guide.posterior(x)
    guide.eval()
    torch.testing.assert_close(guide.posterior(x).mean[:1], guide.posterior(x[:1]).mean)
    guide.train()
    with pytest.raises(ValueError, match="at least 2 datapoints .*training mode"):
        guide.posterior(x[:1])
    with pytest.raises(ValueError, match="gamma: expected a positive number"):
        guides.BatchNormNormal(D, encoder(), gamma=0.0)


@pytest.mark.parametrize("rate", [0.0, 0.1, 3.0, 40.0])
def test_minimum_rate_is_a_floor_and_is_attained(rate):
    guide = guides.MinimumRateNormal(D, encoder(), rate=rate)
    for size in (0.1, 1.0, 1e3):
        assert (diagonal_divergence(guide.posterior(size * torch.randn(50, P))) >= rate).all()
    with torch.no_grad():
        for head in (guide.mean, guide.scale):
            head.weight.zero_()
            head.bias.zero_()
        guide.scale.bias.fill_(100.0)
    floor = diagonal_divergence(guide.posterior(torch.randn(1, P)))
    assert float(floor.detach()) == pytest.approx(rate, abs=1e-3)
    with pytest.raises(ValueError, match="rate: expected a number of nats"):
        guides.MinimumRateNormal(D, encoder(), rate=-1.0)


# --------------------------------------------------------------- other arguments, other costs


def test_mean_field_finds_rows_by_index():
    guide = guides.MeanField(num_points=10, latent_dim=D)
    index = torch.tensor([7, 0, 3])
    q = guide.posterior(torch.randn(3, P), index)
    assert torch.equal(q.mean, guide.means[index])
    data = (torch.randn(3, P), index)
    cloud = Pair(linear_model(), guide).check(data).cloud(data, num_samples=K)
    assert cloud.log_weight.shape == (K, 3)
    with pytest.raises(ValueError, match=r"index = torch.arange\(len\(x\)\)"):
        guide.posterior(torch.randn(3, P))
    with pytest.raises(ValueError, match="index: expected integers"):
        guide.posterior(torch.randn(3, P), torch.zeros(3))


def test_semi_amortized_refinement_reaches_the_best_diagonal_normal():
    """For a Gaussian posterior: the exact mean, and the inverse diagonal precision as variance."""
    model = linear_model()
    guide = guides.SemiAmortized(D, encoder(), model, num_steps=200, num_noise=2000)
    x = torch.randn(B, P)
    w = model.decoder.weight
    precision = torch.eye(D) + w.mT @ w / 0.5**2
    mean = torch.linalg.solve(precision, w.mT @ (x - model.decoder.bias).mT / 0.5**2).mT
    q = guide.posterior(x).base_dist
    torch.testing.assert_close(q.loc, mean.detach(), atol=0.05, rtol=0)
    variance = precision.diagonal().reciprocal().detach()
    torch.testing.assert_close(q.scale**2, variance.expand(B, D), rtol=0.1, atol=0)


def test_semi_amortized_guide_is_a_function_of_x_and_leaves_the_model_alone():
    model = linear_model()
    guide = guides.SemiAmortized(D, encoder(), model, num_steps=3)
    x = torch.randn(B, P)
    torch.testing.assert_close(guide.posterior(x).mean[2:], guide.posterior(x[2:]).mean)
    start = guides.Normal(D, guide.encoder)
    start.mean, start.log_scale = guide.mean, guide.log_scale
    bound = {
        name: Pair(model, q).check(x).cloud(x, num_samples=2000).log_weight.mean()
        for name, q in (("start", start), ("refined", guide))
    }
    assert bound["refined"] > bound["start"] + 1.0
    guide.posterior(x).rsample().sum().backward()
    assert all(p.grad is None for p in model.parameters())
    assert not any(name.startswith("model") for name in guide.state_dict())
    with torch.no_grad():
        assert not guide.posterior(x).mean.requires_grad
    with pytest.raises(ValueError, match=r"model: expected a method log_joint\(z, x\)"):
        guides.SemiAmortized(D, encoder(), nn.Linear(2, 2))


def test_masked_guide_sees_what_is_there_and_what_is_missing():
    guide = guides.MaskedNormal(D, encoder(2 * P))
    x = torch.zeros(2, P)
    x[1, 0] = torch.nan
    q = guide.posterior(x)
    assert q.mean.isfinite().all()
    assert not torch.allclose(q.mean[0], q.mean[1])


def test_conditional_guide_tells_the_classes_apart():
    guide = guides.ConditionalNormal(D, encoder(P + 2), num_classes=2)
    y = torch.tensor([0, 1, -1])
    q = guide.posterior(torch.zeros(3, P), y)
    assert len({tuple(row) for row in q.mean.tolist()}) == 3
    with pyro.plate("samples", K, dim=-2):
        assert guide(torch.zeros(3, P), y).shape == (K, 3, D)
    with pytest.raises(ValueError, match="y: expected labels from 0 to 1, or -1"):
        guide.posterior(torch.zeros(3, P), y + 1)
    with pytest.raises(ValueError, match="y: expected class numbers of an integer type"):
        guide.posterior(torch.zeros(3, P), y.double())


def test_spherical_guides_refuse_the_two_point_sphere():
    for family in (guides.VonMisesFisher, guides.PowerSpherical):
        with pytest.raises(ValueError, match="The sphere of R\\^1 is two points"):
            family(1, encoder())


def test_unknown_flow_family_is_named():
    with pytest.raises(ValueError, match="family: expected one of .* got 'sylvester'"):
        guides.Flow(D, encoder(), "sylvester")


def test_flow_guide_starts_near_its_normal_and_bends_it():
    """A planar layer with u = 0 is the identity: then the flow is the diagonal normal."""
    guide = guides.Flow(D, encoder(), "planar", 1)
    x = torch.randn(B, P)
    with torch.no_grad():
        layer = guide.flow[0].parameters_of
        layer.weight.zero_()
        layer.bias.zero_()
    features = guide.encoder(x)
    scale = guide.log_scale(features).exp()
    normal = dist.Normal(guide.mean(features), scale).to_event(1)
    z = normal.sample((K,))
    torch.testing.assert_close(guide.posterior(x).log_prob(z), normal.log_prob(z))
    assert math.isfinite(float(guide.posterior(x).log_prob(z).mean().detach()))


def test_heads_are_one_product_where_all_are_linear():
    from aevb.guides.amortized import through

    features = torch.randn(4, B, 8)
    heads = [nn.Linear(8, 3), nn.Linear(8, 1)]
    for head, made in zip(heads, through(features, *heads), strict=True):
        torch.testing.assert_close(made, head(features))
    other = nn.Sequential(nn.Linear(8, 2), nn.Softplus())
    assert torch.equal(through(features, heads[0], other)[1], other(features))
    lazy = nn.LazyLinear(2)
    assert through(features, lazy, heads[1])[0].shape == (4, B, 2)
    assert torch.equal(through(features, heads[1], other)[0], heads[1](features))


@pytest.mark.parametrize("name", GUIDES)
def test_what_is_fitted_to_one_datapoint_moves_no_other(name):
    x = torch.rand(B, P)
    guide = GUIDES[name]().eval()
    model = LatentVariableModel(PRIOR_ON[guide.support](D), nn.Linear(D, P), likelihoods.Normal(scale=1.0))
    pair = Pair(model, guide).check(x)
    with pair.evaluation():
        local = LocalGuide(pair, (x,))
        z = pair.sample_guide(x, K)
        for shift in local.tensors():
            assert shift.shape[0] == B
            shift[2] += 0.3 * torch.rand(shift.shape[1:])
        change = (local.guide().log_guide(z, x) - pair.log_guide(z, x)).abs().amax(0)
    assert change[2] > 1e-3
    assert change[[0, 1, 3, 4]].max() < 1e-6


def test_every_guide_with_a_density_is_fitted_to_single_datapoints_somewhere():
    elsewhere = {"conditional-normal", "hierarchical"}  # inference/diagnostics/test_inference_gaps.py
    names = {guides_named.__name__ for guides_named in (type(make()) for make in GUIDES.values())}
    for name in registry.GUIDES:
        kind = registry.find("guides", name)
        if name not in elsewhere and not issubclass(
            kind, guides.Implicit | guides.NoiseBasis | guides.ConcatenatedNoise
        ):
            assert kind.__name__ in names, name
