"""Quadrature against closed forms and SciPy."""

import math

import pyro
import pyro.distributions as dist
import pytest
import scipy.integrate
import scipy.stats
import torch

from aevb.inference import log_evidence
from aevb.inference.evidence import Quadrature
from aevb.models import ProbabilisticPCA


@pytest.mark.parametrize("latent_dim", [1, 2, 3])
def test_exact_on_probabilistic_pca(latent_dim):
    torch.manual_seed(latent_dim)
    model = ProbabilisticPCA(6, latent_dim).double()
    with torch.no_grad():
        model.weight.copy_(torch.randn(6, latent_dim) * 2.0)
        model.log_scale.fill_(-0.7)
        x = model.simulate(8).double()
        exact = model.log_evidence(x)
    evidence = log_evidence(model, None, x, Quadrature())
    assert evidence.direction == "exact"
    torch.testing.assert_close(evidence.log_px, exact, rtol=0.0, atol=2e-3)


def test_positive_latent_against_scipy():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Gamma(x.new_tensor(3.0), 2.0))
            pyro.sample("x", dist.Normal(z, 0.5), obs=x)

    x = torch.tensor([0.3, 1.0, 4.0], dtype=torch.float64)
    evidence = log_evidence(model, None, x, Quadrature())
    prior = scipy.stats.gamma(3.0, scale=0.5)
    for value, ours in zip(x.tolist(), evidence.log_px.tolist(), strict=True):
        area, _ = scipy.integrate.quad(lambda z, v=value: prior.pdf(z) * scipy.stats.norm(z, 0.5).pdf(v), 0.0, 30.0)
        assert ours == pytest.approx(math.log(area), abs=1e-4)


def test_two_modes_are_both_counted():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z.square(), 0.2), obs=x)

    x = torch.tensor([1.5], dtype=torch.float64)
    evidence = log_evidence(model, None, x, Quadrature(201))
    area, _ = scipy.integrate.quad(
        lambda z: scipy.stats.norm.pdf(z) * scipy.stats.norm(z * z, 0.2).pdf(1.5), -6.0, 6.0, points=[-1.22, 1.22]
    )
    assert float(evidence.log_px) == pytest.approx(math.log(area), abs=1e-4)


def test_a_coarse_grid_says_so():
    torch.manual_seed(0)
    model = ProbabilisticPCA(4, 2)
    with torch.no_grad():  # two latents that the data hardly tell apart: a long diagonal ridge
        model.weight.copy_(torch.ones(4, 2) * 5.0)
        model.log_scale.fill_(-3.0)
    evidence = log_evidence(model, None, model.simulate(5).detach(), Quadrature(9))
    assert evidence.notes and "moved by more than" in evidence.notes[0]


def test_too_many_latents_are_refused_with_a_way_out():
    model = ProbabilisticPCA(6, 4)
    with pytest.raises(ValueError, match=r"up to three.*has 4.*importance"):
        log_evidence(model, None, torch.zeros(2, 6), Quadrature())
    with pytest.raises(ValueError, match="num_nodes=4"):
        Quadrature(4)
