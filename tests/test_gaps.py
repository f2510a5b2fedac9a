"""Where the bound is lost, against closed forms of probabilistic PCA, and the guides that it must be able to move."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch

from aevb import guides
from aevb.inference import ContractError, Pair, log_evidence
from aevb.inference.evidence import ELBO, Evidence
from aevb.inference.gaps import gaps
from aevb.inference.local_guide import fit_local
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
        assert gap.values.abs().max() < 1e-3
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
    assert found.approximation.values.abs().max() < 0.02
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
        draws = fit_local(pair, (x,)).sample_guide(x, 4000)["z"]
    torch.testing.assert_close(draws.mean(0), (3.0 + x) / 1.5, rtol=0.05, atol=0.0)


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
        alone = fit_local(pair, (x,), num_steps=40).sample_guide(x, 3000)["z"][:, 0].mean(0)
        torch.manual_seed(1)
        beside = fit_local(pair, (far,), num_steps=40).sample_guide(far, 3000)["z"][:, 0].mean(0)
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
