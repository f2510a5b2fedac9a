"""Where the bound is lost, against closed forms of probabilistic PCA, and the guides that it must be able to move."""

import math
import re

import pyro
import pyro.distributions as dist
import pytest
import torch

from aevb import guides
from aevb.inference import ContractError, Pair, log_evidence, refine
from aevb.inference.diagnostics.inference_gaps import Gaps, gaps
from aevb.inference.evidence import ELBO, Evidence
from aevb.inference.posterior.local_guide import fit_local
from aevb.models import HierarchicalModel, LatentVariableModel, ProbabilisticPCA, likelihoods, networks, priors


@pytest.fixture
def known():
    torch.manual_seed(0)
    model = ProbabilisticPCA(6, 3)
    with torch.no_grad():
        model.weight.mul_(2.0)
    return model, model.simulate(20)


def full(model, shift=0.0, scale=1.0):
    def guide(x):
        exact = model.posterior(x)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.MultivariateNormal(exact.mean + shift, scale_tril=scale * exact.scale_tril))

    return guide


def diagonal(model, shift=0.0, scale=1.0):
    def guide(x):
        exact = model.posterior(x)
        best = exact.precision_matrix.diagonal(dim1=-2, dim2=-1).rsqrt().expand_as(exact.mean)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(exact.mean + shift, scale * best).to_event(1))

    return guide


def mean_field_gap(model, x):
    """KL of the best diagonal normal from the posterior, 1/2 (sum_j log P_jj - log |P|) of its precision P."""
    precision = model.posterior(x).precision_matrix.detach()
    return 0.5 * (precision.diagonal(dim1=-2, dim2=-1).log().sum(-1) - torch.logdet(precision))


def test_an_exact_guide_loses_nothing(known):
    model, x = known
    found = gaps(Pair(model, full(model)).check(x), x, num_draws=200)
    assert found.method == "exact"
    for gap in (found.approximation, found.amortization, found.total):
        assert bool((gap.values.abs() < 1e-5 + 4 * gap.errors).all()) and gap.errors.max() < 1e-3
    assert "next to nothing" in found.sentence


def test_the_family_loses_its_closed_form_and_the_encoder_nothing(known):
    model, x = known
    found = gaps(Pair(model, diagonal(model)).check(x), x, num_draws=4000)
    exact = mean_field_gap(model, x).double()
    assert float(exact.mean()) > 0.2
    assert found.approximation.mean == pytest.approx(float(exact.mean()), rel=0.05)
    assert bool(((found.approximation.values - exact).abs() < 4.5 * found.approximation.errors).all())
    assert abs(found.amortization.mean) < 4 * found.amortization.monte_carlo_error
    assert "richer family" in found.sentence


def test_a_bad_encoder_is_told_from_a_poor_family(known):
    model, x = known
    found = gaps(Pair(model, diagonal(model, shift=1.0, scale=2.0)).check(x), x, num_draws=4000)
    assert found.approximation.mean == pytest.approx(float(mean_field_gap(model, x).mean()), rel=0.05)
    # KL of the guide less the KL of the best: shift^2 sum P_ij / 2 + 3 (4 - 1 - 2 log 2) / 2, in closed form.
    precision = model.posterior(x).precision_matrix.detach()[0]
    encoder = 0.5 * float(precision.sum()) + 0.5 * 3 * (4 - 1 - 2 * math.log(2))
    assert found.amortization.mean == pytest.approx(encoder, rel=0.05)
    assert found.total.mean == pytest.approx(found.approximation.mean + found.amortization.mean)
    assert "larger encoder" in found.sentence
    assert list(found.table["total"]) == pytest.approx(found.total.values.tolist())


def test_a_full_family_recovers_from_a_bad_encoder(known):
    model, x = known
    found = gaps(Pair(model, full(model, shift=2.0, scale=0.3)).check(x), x, num_draws=500)
    assert bool((found.approximation.values - 4 * found.approximation.errors < 0.02).all())
    assert found.approximation.values.abs().mean() < 0.01 > found.approximation.errors.max()
    assert found.amortization.mean > 1.0


def test_the_evidence_may_be_given_and_must_fit(known):
    model, x = known
    pair = Pair(model, full(model)).check(x)
    given = Evidence("mine", "estimate", model.log_evidence(x).detach() + 1.0, 1)
    assert gaps(pair, x, log_px=given, num_draws=50, num_steps=5).approximation.mean == pytest.approx(1.0, abs=1e-3)
    assert gaps(pair, x[:3], log_px=ELBO(50), num_draws=50, num_steps=5).method == "elbo"
    with pytest.raises(ValueError, match="20 datapoints"):
        gaps(pair, x[:3], log_px=given)
    others = log_evidence(pair.model, pair.guide, x.flip(0), ELBO(5))
    with pytest.raises(ValueError, match="log_px judges other rows at 'x' than this pair"):
        gaps(pair, x, log_px=others)
    mine = log_evidence(pair.model, pair.guide, x, ELBO(5))
    assert gaps(pair, x, log_px=mine, num_draws=5, num_steps=1).method == "elbo"


def gamma_pair():
    """The posterior is a Gamma, which the family holds; the guide is off."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Gamma(x.new_tensor(3.0), 0.5))
            pyro.sample("x", dist.Poisson(z), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Gamma(0.4 * (3.0 + x), 0.6))

    return model, guide, torch.tensor([0.0, 3.0, 9.0, 4.0])


def test_a_positive_latent_finds_its_conjugate_posterior():
    model, guide, x = gamma_pair()
    pair = Pair(model, guide).check(x)
    found = gaps(pair, x, num_draws=500)
    assert found.approximation.values.abs().max() < 0.01
    assert float(found.amortization.values.min()) > 0.1
    with pair.evaluation():
        draws = fit_local(pair, (x,)).pair.sample_guide(x, 4000)["z"]
    torch.testing.assert_close(draws.mean(0), (3.0 + x) / 1.5, rtol=0.05, atol=0.0)


GAP = 1.149  # of the best diagonal normal, on every row


def far_off_pair():
    """Posteriors N(m(x), P^-1), all of one shape, and a diagonal guide that is off by another amount on every row."""
    correlation = math.sqrt(1 - math.exp(-2 * GAP))
    precision = 10 * torch.linalg.inv(torch.tensor([[1.0, correlation], [correlation, 1.0]], dtype=torch.float64))
    factor = torch.linalg.cholesky(precision - torch.eye(2)).mT

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ factor.mT, 1.0).to_event(1), obs=x)

    def guide(x):
        mean = x @ factor @ torch.linalg.inv(precision)
        with pyro.plate("data", len(x)):
            off = 0.5 * x.sin()
            pyro.sample("z", dist.Normal(mean + off, 0.2 + 0.3 * x.cos().abs()).to_event(1))

    torch.manual_seed(0)
    x = torch.randn(6, 2, dtype=torch.float64) @ factor.mT + torch.randn(6, 2, dtype=torch.float64)
    return Pair(model, guide).check(x), x


def test_each_row_of_a_batch_loses_what_it_loses_alone():
    pair, x = far_off_pair()
    together = gaps(pair, x, num_steps=200).approximation
    alone = gaps(pair, x[4:5], num_steps=200).approximation
    for gap in (together, alone):
        assert bool(((gap.values - GAP).abs() < 0.05 + 4 * gap.errors).all()), gap.values
        assert float(gap.errors.max()) < 0.1


def test_a_refined_row_is_as_good_in_a_batch_as_alone():
    pair, x = far_off_pair()
    together = refine(pair, x, num_steps=100).bound
    alone = torch.cat([refine(pair, x[row : row + 1], num_steps=100).bound for row in (5,)])
    torch.testing.assert_close(together[5:], alone, rtol=0, atol=0.3)


def test_a_guide_of_one_distribution_for_all_is_moved_row_by_row():
    def model(x):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Normal(torch.zeros(()), 1.0))
            b = pyro.sample("b", dist.Normal(torch.zeros(1), 1.0))
            pyro.sample("x", dist.Normal(a + b, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Normal(0.0, 1.0))  # the same for every row, and for every draw
            pyro.sample("b", dist.Normal(-a / 2, torch.ones(1)))  # for every row, not for every draw

    x = torch.tensor([-3.0, 0.0, 3.0, 6.0])
    pair = Pair(model, guide).check(x)
    with pair.evaluation():
        z = fit_local(pair, (x,), num_steps=200).pair.sample_guide(x, 4000)
    for site in "ab":
        torch.testing.assert_close(z[site].mean(0), x / 3, rtol=0, atol=0.15)


def sure(values, errors=0.0):
    """Numbers [N] with their errors."""
    return torch.tensor(values, dtype=torch.float64), torch.full((len(values),), errors, dtype=torch.float64)


@pytest.mark.parametrize(
    ("log_px", "local", "bound", "direction", "said"),
    [
        (sure([0.01, 0.0]), sure([0.0, 0.0]), sure([0.0, 0.0]), "exact", "next to nothing is lost."),
        (sure([0.01, 0.0]), sure([0.0, 0.0]), sure([0.0, 0.0]), "estimate", "nothing is lost that ais could see"),
        (
            sure([0.01, 0.0], 2.0),
            sure([0.0, 0.0]),
            sure([0.0, 0.0]),
            "estimate",
            r"\(4.2\) hides whether anything is lost",
        ),
        (sure([0.01, 0.0], math.nan), sure([0.0, 0.0]), sure([0.0, 0.0]), "estimate", "the error of log p"),
        (sure([9.0, 9.0]), sure([0.0, 0.0], 9.0), sure([-1.0, -1.0]), "exact", "Monte Carlo error hides"),
        (
            sure([9.0, 9.0]),
            sure([0.0, 0.0]),
            sure([-1.0, -1.0]),
            "lower bound",
            "at least, since ais is.*richer family",
        ),
        (sure([9.0, 9.0]), sure([0.0, 0.0]), sure([2.0, 2.0]), "exact", "has not reached the guide's own bound"),
    ],
)
def test_the_sentence_says_no_more_than_the_errors_allow(log_px, local, bound, direction, said):
    found = Gaps(*log_px, *local, *bound, "ais", direction)
    assert re.search(said, found.sentence), found.sentence
    assert ("next to nothing" in found.sentence) == ("nothing is lost" in said)


def house(guide, latent_dim=3, prior=None):
    decoder = networks.MLP(latent_dim, 8, hidden=[7])
    return LatentVariableModel(prior or priors.StandardNormal(latent_dim), decoder, likelihoods.Bernoulli()), guide


def encoder():
    return networks.MLP(8, hidden=[6])


FAMILIES = {
    "normal": lambda: house(guides.Normal(3, encoder())),
    "full": lambda: house(guides.FullCovarianceNormal(3, encoder())),
    "low rank": lambda: house(guides.LowRankNormal(3, encoder())),
    "flow": lambda: house(guides.Flow(3, encoder())),
    "simplex": lambda: house(guides.LogisticNormal(3, encoder()), prior=priors.LogisticNormal(3)),
    "dirichlet": lambda: house(guides.Dirichlet(3, encoder()), prior=priors.Dirichlet(3)),
    "relaxed": lambda: house(guides.RelaxedCategorical(3, encoder()), prior=priors.RelaxedCategorical(3)),
    "sphere": lambda: house(guides.PowerSpherical(3, encoder()), prior=priors.UniformSphere(3)),
    "two layers": lambda: (
        HierarchicalModel(3, networks.MLP(3, 8, hidden=[7]), likelihoods.Bernoulli(), hidden=[5]),
        guides.Hierarchical(3, encoder(), hidden=[5]),
    ),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_can_be_moved_and_does_not_lose(name):
    torch.manual_seed(0)
    model, guide = FAMILIES[name]()
    x = (torch.rand(6, 8) < 0.5).float()
    pair = Pair(model, guide).check(x)
    before = {key: value.clone() for key, value in pair.state_dict().items()}
    found = gaps(pair, x, log_px=ELBO(10), num_steps=60, num_draws=500)
    assert bool((found.amortization.values > -4 * found.amortization.errors).all())
    assert found.amortization.mean > 2 * found.amortization.monte_carlo_error
    for key, value in pair.state_dict().items():
        torch.testing.assert_close(value, before[key])


def test_a_datapoint_is_fitted_by_itself(known):
    model, x = known
    pair = Pair(model, diagonal(model, shift=1.0)).check(x)
    far = x.clone()
    far[1:] += 100.0
    with pair.evaluation():
        torch.manual_seed(1)
        alone = fit_local(pair, (x,), num_steps=40).pair.sample_guide(x, 3000)["z"][:, 0].mean(0)
        torch.manual_seed(1)
        beside = fit_local(pair, (far,), num_steps=40).pair.sample_guide(far, 3000)["z"][:, 0].mean(0)
    torch.testing.assert_close(alone, beside)


def test_what_cannot_be_moved_is_named():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Bernoulli(0.3))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Bernoulli(torch.sigmoid(x)))

    x = torch.zeros(3)
    with pytest.raises(ContractError, match="no rsample"):
        gaps(Pair(model, guide).check(x), x)


class Odd(dist.Uniform):
    """A family whose parameters nobody can see."""

    arg_constraints = {}


def test_a_family_without_parameters_is_named():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Beta(torch.ones(()), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", Odd(torch.zeros(len(x)), 1.0))

    x = torch.zeros(3)
    with pytest.raises(ContractError, match="'z' is a Odd"):
        gaps(Pair(model, guide).check(x), x)
