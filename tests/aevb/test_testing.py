"""The shared suite: every block of the package holds what it asks, and blocks that are wrong are told how."""

import math
from dataclasses import dataclass

import pyro.distributions as dist
import pytest
import torch
from torch import nn

from aevb import guides, registry
from aevb.inference import objectives
from aevb.inference.evidence import (
    ELBO,
    AnnealedImportanceSampling,
    BidirectionalMonteCarlo,
    DensityFit,
    Evidence,
    Exact,
    ImportanceSampling,
    ParetoSmoothedImportanceSampling,
    Quadrature,
)
from aevb.inference.objectives import Phase
from aevb.models import ConditionalModel, HierarchicalModel, LatentVariableModel, likelihoods, networks, priors
from aevb.testing import check_estimator, check_guide, check_likelihood, check_objective, check_prior

P, D, N = 4, 3, 4


def _net(width=P):
    return networks.MLP(width, hidden=[5])


PRIORS = {
    "standard-normal": priors.StandardNormal,
    "learned-normal": priors.LearnedNormal,
    "laplace": priors.Laplace,
    "student-t": priors.StudentT,
    "mixture-of-gaussians": lambda d: priors.MixtureOfGaussians(d, 3),
    "vamp-prior": lambda d: priors.VampPrior(guides.Normal(d, _net()), data_dim=P, num_pseudo_inputs=3),
    "flow": lambda d: priors.Flow(d, hidden_features=[8]),
    "uniform-sphere": priors.UniformSphere,
    "dirichlet": lambda d: priors.Dirichlet(d, 1.5),
    "logistic-normal": priors.LogisticNormal,
    "relaxed-categorical": priors.RelaxedCategorical,
    "class-conditional": lambda d: priors.ClassConditional(d, 3),
}
LIKELIHOODS = {
    "bernoulli": (likelihoods.Bernoulli, torch.tensor([0, 1])),
    "continuous-bernoulli": (likelihoods.ContinuousBernoulli, None),
    "beta": (likelihoods.Beta, None),
    "normal": (lambda: likelihoods.Normal(scale="per-pixel"), None),
    "laplace": (lambda: likelihoods.Laplace(scale="learned"), None),
    "student-t": (lambda: likelihoods.StudentT(scale="per-pixel"), None),
    "log-normal": (lambda: likelihoods.LogNormal(scale=0.5), None),
    "gamma": (likelihoods.Gamma, None),
    "poisson": (likelihoods.Poisson, None),
    "negative-binomial": (likelihoods.NegativeBinomial, None),
    "zero-inflated-poisson": (likelihoods.ZeroInflatedPoisson, None),
    "zero-inflated-negative-binomial": (likelihoods.ZeroInflatedNegativeBinomial, None),
    "categorical": (lambda: likelihoods.Categorical(num_classes=3), None),
    "discretized-logistic": (lambda: likelihoods.DiscretizedLogistic(levels=8), torch.arange(8) / 7),
    "discretized-logistic-mixture": (
        lambda: likelihoods.DiscretizedLogisticMixture(num_components=2, levels=8),
        torch.arange(8) / 7,
    ),
}
X = torch.rand(N, P, generator=torch.Generator().manual_seed(0))
LABELS, HOLES = torch.arange(N) % 3, torch.where(torch.eye(N, P).bool(), torch.nan, X)
LINEAR = LatentVariableModel(priors.StandardNormal(D), nn.Linear(D, P), likelihoods.Normal(0.5)).double()
CONDITIONAL = ConditionalModel(priors.StandardNormal(D), networks.MLP(D + 3, P), likelihoods.Normal(), num_classes=3)
GUIDES = {
    "normal": (lambda: guides.Normal(D, _net()), X),
    "full-covariance-normal": (lambda: guides.FullCovarianceNormal(D, _net()), X),
    "low-rank-normal": (lambda: guides.LowRankNormal(D, _net()), X),
    "flow": (lambda: guides.Flow(D, _net(), hidden_features=[8]), X),
    "batch-norm-normal": (lambda: guides.BatchNormNormal(D, _net()), X),
    "minimum-rate-normal": (lambda: guides.MinimumRateNormal(D, _net()), X),
    "semi-amortized": (lambda: guides.SemiAmortized(D, _net(), LINEAR), X, LINEAR),
    "von-mises-fisher": (lambda: guides.VonMisesFisher(D, _net()), X),
    "power-spherical": (lambda: guides.PowerSpherical(D, _net()), X),
    "dirichlet": (lambda: guides.Dirichlet(D, _net()), X),
    "logistic-normal": (lambda: guides.LogisticNormal(D, _net()), X),
    "relaxed-categorical": (lambda: guides.RelaxedCategorical(D, _net()), X),
    "masked-normal": (lambda: guides.MaskedNormal(D, _net(2 * P)), HOLES),
    "mean-field": (lambda: guides.MeanField(N, D), (X, torch.arange(N))),
    "conditional-normal": (lambda: guides.ConditionalNormal(D, _net(P + 3), 3), (X, LABELS), CONDITIONAL),
    "hierarchical": (
        lambda: guides.Hierarchical(D, _net(), hidden=[5]),
        X,
        HierarchicalModel(D, networks.MLP(D, P), likelihoods.Normal(), hidden=[5]),
    ),
    "implicit": (lambda: guides.ConcatenatedNoise(D, _net(), noise_dim=3, hidden=[5]), X),
    "noise-basis": (lambda: guides.NoiseBasis(D, _net(), num_bases=3, noise_dim=3, basis_hidden=[5]), X),
}
OBJECTIVES = {name: registry.find("objectives", name) for name in registry.OBJECTIVES}
SHORT = {"num_leapfrog": 3, "num_tuning": 5, "progress": False}
ESTIMATORS = {
    "elbo": lambda: ELBO(60),
    "importance": lambda: ImportanceSampling(200),
    "psis": lambda: ParetoSmoothedImportanceSampling(200),
    "ais": lambda: AnnealedImportanceSampling(20, 8, **SHORT),
    "bdmc": lambda: BidirectionalMonteCarlo(10, 4, **SHORT),
    "density-fit": lambda: DensityFit(warmup=50, thin=2),
    "exact": Exact,
    "quadrature": Quadrature,
}


def test_every_block_has_a_case():
    tables = {"priors": PRIORS, "likelihoods": LIKELIHOODS, "guides": GUIDES, "evidence": ESTIMATORS}
    for kind, table in (tables | {"objectives": OBJECTIVES}).items():
        assert set(table) == registry.own(kind), kind


@pytest.mark.parametrize("name", PRIORS)
def test_priors(name):
    owner = {"vamp-prior": lambda prior: prior.posterior.__self__}
    check_prior(PRIORS[name], guide=owner.get(name))


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_likelihoods(name):
    make, domain = LIKELIHOODS[name]
    check_likelihood(make, domain=domain)


@pytest.mark.parametrize("name", GUIDES)
def test_guides(name):
    make, data, *model = GUIDES[name]
    check_guide(make, *(data if isinstance(data, tuple) else (data,)), model=model[0] if model else None)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_objectives(name):
    check_objective(OBJECTIVES[name])


@pytest.mark.parametrize("name", ESTIMATORS)
def test_estimators(name):
    check_estimator(ESTIMATORS[name])
