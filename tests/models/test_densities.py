"""Every prior and guide family: support, normalisation, broadcasting, gradients, and SciPy's word."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from scipy import stats
from torch import Tensor, nn
from torch.distributions import kl_divergence

from aevb import registry
from aevb.models import distributions, networks, priors
from aevb.models.distributions.planar import PlanarTransform
from aevb.testing import check_prior

STANDARD_ERRORS = 4.5


@pytest.fixture(autouse=True)
def _float64_and_seed():
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(torch.float32)


def unit(*shape: int) -> Tensor:
    return nn.functional.normalize(torch.randn(*shape), dim=-1)


def vamp(latent_dim: int) -> nn.Module:
    from aevb import guides

    return priors.VampPrior(guides.Normal(latent_dim, networks.MLP(4, hidden=[5])), 4, 5)


PRIORS: dict[str, Callable[[int], nn.Module]] = {
    "standard-normal": priors.StandardNormal,
    "learned-normal": priors.LearnedNormal,
    "laplace": priors.Laplace,
    "student-t": priors.StudentT,
    "mixture": lambda d: priors.MixtureOfGaussians(d, 4),
    "vamp": vamp,
    "flow-maf": lambda d: priors.Flow(d, "maf", 2, [8]),
    "flow-nsf": lambda d: priors.Flow(d, "nsf", 2, [8]),
    "flow-iaf": lambda d: priors.Flow(d, "iaf", 2, [8]),
    "flow-nsf-coupling": lambda d: priors.Flow(d, "nsf-coupling", 2, [8]),
    "flow-realnvp": lambda d: priors.Flow(d, "realnvp", 2, [8]),
    "uniform-sphere": priors.UniformSphere,
    "dirichlet": lambda d: priors.Dirichlet(d, 0.7),
    "logistic-normal": priors.LogisticNormal,
    "relaxed-categorical": priors.RelaxedCategorical,
}
LABELLED = {"class-conditional": lambda d: priors.ClassConditional(d, 3)}  # p(z|y)

FAMILIES: dict[str, Callable[[int], Any]] = {
    "von-mises-fisher": lambda d: distributions.VonMisesFisher(unit(d), torch.tensor(3.0)),
    "power-spherical": lambda d: distributions.PowerSpherical(unit(d), torch.tensor(3.0)),
    "logistic-normal": lambda d: distributions.LogisticNormal(torch.randn(d - 1), 0.5 + torch.rand(d - 1)),
    "relaxed-one-hot": lambda d: distributions.RelaxedOneHotCategorical(torch.tensor(0.8), logits=torch.randn(d)),
}


def shaken(prior: nn.Module) -> nn.Module:
    """The prior away from its starting point, where a wrong formula could hide."""
    for parameter in prior.parameters():
        with torch.no_grad():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return prior


def real_grid(n: int = 500) -> tuple[Tensor, Tensor]:
    """Points of the plane and their areas, from the midpoints of a square through the tangent."""
    u = math.pi * ((torch.arange(n) + 0.5) / n - 0.5)
    points = torch.cartesian_prod(2 * u.tan(), 2 * u.tan())
    slope = 2 * math.pi / n / u.cos() ** 2
    return points, torch.cartesian_prod(slope, slope).prod(-1)


def simplex_grid() -> tuple[Tensor, Tensor]:
    """Points of the simplex of three coordinates and their areas in the first two."""
    y, area = real_grid()
    z = nn.functional.pad(y, (0, 1)).softmax(-1).clamp(min=1e-300)
    return z, area * z.prod(-1)


def sphere_grid(n: int = 400) -> tuple[Tensor, Tensor]:
    """Points of the sphere in three dimensions and their areas."""
    angle = math.pi * (torch.arange(n) + 0.5) / n
    theta, phi = torch.cartesian_prod(angle, 2 * angle).unbind(-1)
    z = torch.stack([theta.sin() * phi.cos(), theta.sin() * phi.sin(), theta.cos()], -1)
    return z, theta.sin() * 2 * math.pi**2 / n**2


def total_mass(q: Any, support: str) -> float:
    points, area = {"real": real_grid, "simplex": simplex_grid, "sphere": sphere_grid}[support]()
    return float((q.log_prob(points) + area.log()).exp().sum())


def support_of(q: Any) -> str:
    if q.support is dist.constraints.sphere:
        return "sphere"
    return "simplex" if q.support is dist.constraints.simplex else "real"


def test_every_prior_is_in_the_table():
    made = [make(3) for make in (*PRIORS.values(), *LABELLED.values())]
    assert {type(prior).name for prior in made} == registry.own("priors")


@pytest.mark.parametrize("name", [*PRIORS, *LABELLED])
@pytest.mark.filterwarnings("ignore:the training step runs uncaptured")  # of a spline, a mask has a shape of its own
def test_prior_holds_what_every_prior_holds(name):
    torch.set_default_dtype(torch.float32)
    owner = {"vamp": lambda prior: prior.posterior.__self__}
    check_prior((PRIORS | LABELLED)[name], guide=owner.get(name))


@pytest.mark.parametrize("name", PRIORS)
def test_prior_is_a_normalised_density_on_the_support_it_names(name):
    prior = shaken(PRIORS[name](2))
    if prior.support != "real":
        prior = shaken(PRIORS[name](3))
    q = prior()
    assert support_of(q) == prior.support
    assert q.support.check(q.sample((1000,))).all()
    with torch.no_grad():
        assert total_mass(q, prior.support) == pytest.approx(1.0, abs=2e-3)


@pytest.mark.parametrize("name", FAMILIES)
def test_family_is_a_normalised_density(name):
    q = FAMILIES[name](3)
    assert q.support.check(q.sample((1000,))).all()
    assert total_mass(q, support_of(q)) == pytest.approx(1.0, abs=2e-3)


@pytest.mark.parametrize("name", FAMILIES)
def test_family_expands_and_keeps_its_draws_scorable(name):
    q = FAMILIES[name](4)
    wide = q.expand([3, 5])
    z = wide.rsample()
    assert z.shape == (3, 5, 4) and wide.rsample((2,)).shape == (2, 3, 5, 4)
    torch.testing.assert_close(wide.log_prob(z), q.log_prob(z))


@pytest.mark.parametrize("name", PRIORS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_are_finite_at_extreme_latents(name, dtype):
    prior = PRIORS[name](3).to(dtype)
    if isinstance(prior, priors.VampPrior):
        prior.posterior.__self__.to(dtype)
    rows = {
        "real": [[0, 0, 0], [1e4, -1e4, 1e4], [1e-30, 0, -1e-30]],
        "sphere": [[1, 0, 0], [0, -1, 0], [0, 0, 1]],
        "simplex": [[1 / 3, 1 / 3, 1 / 3], [1 - 2e-30, 1e-30, 1e-30], [1e-20, 0.5, 0.5]],
    }
    z = torch.tensor(rows[prior.support], dtype=dtype, requires_grad=True)
    log_p = prior().log_prob(z)
    assert log_p.dtype == dtype and log_p.isfinite().all()
    if log_p.requires_grad:
        for gradient in torch.autograd.grad(log_p.sum(), [z, *prior.parameters()]):
            assert gradient.isfinite().all()


def test_priors_agree_with_scipy():
    z = torch.randn(7, 3) * 3
    expected = {
        priors.StandardNormal(3): stats.norm.logpdf(z).sum(-1),
        priors.Laplace(3, scale=0.7): stats.laplace(scale=0.7).logpdf(z).sum(-1),
        priors.StudentT(3, df=2.5): stats.t(df=2.5).logpdf(z).sum(-1),
    }
    for prior, log_p in expected.items():
        np.testing.assert_allclose(prior().log_prob(z), log_p, rtol=1e-12)
    simplex = priors.Dirichlet(3, 0.4)().sample((7,))
    np.testing.assert_allclose(
        priors.Dirichlet(3, 0.4)().log_prob(simplex),
        stats.dirichlet([0.4] * 3).logpdf(simplex.numpy().T),
        rtol=1e-7,
    )


@pytest.mark.parametrize("dim", [2, 3, 10, 60])
@pytest.mark.parametrize("kappa", [1e-3, 1.0, 50.0, 1e4])
def test_von_mises_fisher_agrees_with_scipy(dim, kappa):
    loc = unit(dim)
    q = distributions.VonMisesFisher(loc, torch.tensor(kappa))
    reference = stats.vonmises_fisher(loc.numpy(), kappa)
    z = q.sample((6,))
    np.testing.assert_allclose(q.log_prob(z), reference.logpdf(z.numpy()), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(q.entropy(), reference.entropy(), rtol=1e-9, atol=1e-9)
    single = distributions.VonMisesFisher(loc.float(), torch.tensor(kappa, dtype=torch.float32))
    np.testing.assert_allclose(single.log_prob(z.float()), reference.logpdf(z.numpy()), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", [distributions.VonMisesFisher, distributions.PowerSpherical])
@pytest.mark.parametrize("dim", [2, 3, 20])
@pytest.mark.parametrize("kappa", [0.1, 5.0, 1e3])
def test_spherical_draws_have_the_mean_and_its_gradient(family, dim, kappa):
    """E<mu, z> and its derivative in kappa, from the draws and from the closed form."""
    loc, copies = unit(dim), 50
    kappas = torch.full((copies,), kappa, requires_grad=True)
    cosines = (family(loc, kappas).rsample((800,)) * loc).sum(-1)
    scalar = torch.tensor(kappa, requires_grad=True)
    mean = (family(loc, scalar).mean * loc).sum()
    (slope,) = torch.autograd.grad(mean, scalar)
    (slopes,) = torch.autograd.grad(cosines.mean(0).sum(), kappas)
    for draws, truth in ((cosines.mean(0), mean), (slopes, slope)):
        error = draws.std() / copies**0.5
        assert abs(draws.mean() - truth) < STANDARD_ERRORS * error


@pytest.mark.parametrize("family", [distributions.VonMisesFisher, distributions.PowerSpherical])
@pytest.mark.parametrize("kappa", [0.1, 20.0, 1e4])
def test_spherical_divergence_to_the_uniform(family, kappa):
    q = family(unit(5), torch.tensor(kappa))
    p = priors.UniformSphere(5)()
    z = q.sample((4000,))
    ratio = q.log_prob(z) - p.log_prob(z)
    exact = kl_divergence(q, p)
    assert abs(ratio.mean() - exact) < STANDARD_ERRORS * ratio.std() / 4000**0.5
    assert exact > 0


def test_power_spherical_keeps_its_digits_in_float32():
    for kappa in (1.0, 1e2, 1e4):
        loc = unit(8)
        z = distributions.PowerSpherical(loc, torch.tensor(kappa)).sample((5,))
        exact = distributions.PowerSpherical(loc, torch.tensor(kappa)).log_prob(z)
        narrow = distributions.PowerSpherical(loc.float(), torch.tensor(kappa).float())
        torch.testing.assert_close(narrow.log_prob(z.float()).double(), exact, rtol=1e-4, atol=1e-3)


def test_logistic_normals_have_the_divergence_of_their_normals():
    p = distributions.LogisticNormal(torch.randn(5, 2), 0.3 + torch.rand(5, 2))
    q = distributions.LogisticNormal(torch.zeros(2), torch.ones(2))
    normals = kl_divergence(p.base_dist, q.base_dist)
    torch.testing.assert_close(kl_divergence(p, q), normals)
    z = p.sample((4000,))
    ratio = p.log_prob(z) - q.log_prob(z)
    error = ratio.std(0) / 4000**0.5
    assert ((ratio.mean(0) - normals).abs() < STANDARD_ERRORS * error).all()


def test_relaxed_one_hot_stays_off_the_boundary_at_low_temperature():
    logits = torch.tensor([10.0, -10.0, 0.0], dtype=torch.float32, requires_grad=True)
    q = distributions.RelaxedOneHotCategorical(torch.tensor(0.1), logits=logits)
    z = q.rsample((2000,))
    log_q = q.log_prob(z)
    (gradient,) = torch.autograd.grad(log_q.sum(), logits)
    assert log_q.isfinite().all() and gradient.isfinite().all()


@pytest.mark.parametrize("size", [0.1, 1.0, 30.0])
def test_planar_layer_inverts(size):
    u, w, b = size * torch.randn(6, 4), size * torch.randn(6, 4), size * torch.randn(6, 1)
    layer = PlanarTransform(u, w, b)
    z = torch.randn(100, 6, 4)
    y = layer(z)
    torch.testing.assert_close(layer._inverse(y), z, atol=1e-6 * (1 + size**2), rtol=1e-6)
    jacobian = torch.autograd.functional.jacobian(PlanarTransform(u[0], w[0], b[0]), z[0, 0])
    expected = torch.linalg.slogdet(jacobian).logabsdet
    torch.testing.assert_close(layer.log_abs_det_jacobian(z, y)[0, 0], expected)


def test_planar_inverse_has_the_implicit_gradient():
    def invert(y, u, w, b):
        return PlanarTransform(u, w, b)._inverse(y)

    inputs = [torch.randn(3, 2, requires_grad=True) for _ in range(3)]
    assert torch.autograd.gradcheck(invert, (*inputs, torch.randn(3, 1, requires_grad=True)))


def test_importing_flows_leaves_argument_checks_on():
    priors.Flow(2)
    with pytest.raises(ValueError, match="scale"):
        torch.distributions.Normal(0.0, -1.0, validate_args=None)


# The three families of reparameterization of Kingma & Welling (2014), section 2.4: on a member of
# each, d/dtheta E[f(z)] by pathwise draws against the derivative known in closed form.
INVERSE_CDF = {
    "exponential": (lambda t: dist.Exponential(t), torch.square, lambda t: -4 / t**3),
    "weibull": (lambda t: dist.Weibull(t, 2.0), torch.square, lambda t: 2 * t),
    "gumbel": (lambda t: dist.Gumbel(0.5, t), lambda z: z, lambda t: np.euler_gamma),
    "logistic": (
        lambda t: dist.Logistic(0.3, t),
        torch.square,
        lambda t: 2 * t * math.pi**2 / 3,
    ),
}
LOCATION_SCALE = {
    "normal": (lambda t: dist.Normal(0.3, t), torch.square, lambda t: 2 * t),
    "laplace": (lambda t: dist.Laplace(0.3, t), torch.square, lambda t: 4 * t),
    "student-t": (lambda t: dist.StudentT(7.0, 0.3, t), torch.square, lambda t: 2.8 * t),
    "uniform": (lambda t: dist.Uniform(-t, t), torch.square, lambda t: 2 * t / 3),
}
COMPOSITION = {
    "log-normal": (
        lambda t: dist.LogNormal(t, 0.5),
        lambda z: z,
        lambda t: math.exp(t + 0.125),
    ),
    "gamma": (lambda t: dist.Gamma(t, 2.0), torch.square, lambda t: (2 * t + 1) / 4),
    "beta": (lambda t: dist.Beta(t, 2.0), lambda z: z, lambda t: 2 / (t + 2) ** 2),
    "dirichlet": (
        lambda t: dist.Dirichlet(torch.stack([t, 0 * t + 1, 0 * t + 1], -1)),
        lambda z: z[..., 0],
        lambda t: 2 / (t + 2) ** 2,
    ),
}
REPARAMETERIZATIONS = INVERSE_CDF | LOCATION_SCALE | COMPOSITION


@pytest.mark.parametrize("name", REPARAMETERIZATIONS)
def test_reparameterized_gradient_of_an_expectation(name):
    make, f, derivative = REPARAMETERIZATIONS[name]
    theta, copies = 1.3, 100
    thetas = torch.full((copies,), theta, requires_grad=True)
    values = f(make(thetas).rsample((1000,)))
    (slopes,) = torch.autograd.grad(values.mean(0).sum(), thetas)
    error = slopes.std() / copies**0.5
    assert abs(slopes.mean() - derivative(theta)) < STANDARD_ERRORS * error
