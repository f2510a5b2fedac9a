"""Batched HMC: right in distribution, one decision a chain, and a test that can fail."""

import math

import pytest
import scipy.integrate
import torch

from aevb.inference import MCEM, fit
from aevb.inference.posterior import hmc
from aevb.inference.posterior.hmc import sample, transition
from aevb.models import ProbabilisticPCA

COVARIANCE = torch.tensor([[1.0, 0.8], [0.8, 2.0]], dtype=torch.float64)
MEAN = torch.tensor([3.0, -1.0], dtype=torch.float64)


def _gaussian(u):
    centred = u - MEAN
    return -0.5 * (centred @ torch.linalg.inv(COVARIANCE) * centred).sum(-1)


def _quartic(u):
    return -(u.squeeze(-1) ** 4) + u.squeeze(-1)


def _quartic_second_moment(draws):
    def weight(u):
        return math.exp(-(u**4) + u)

    total = scipy.integrate.quad(weight, -5, 5)[0]
    exact = scipy.integrate.quad(lambda u: u * u * weight(u), -5, 5)[0] / total
    chains = draws.square().mean((0, 2))  # independent chains: their spread is the error
    return (chains.mean() - exact) / (chains.std() / len(chains) ** 0.5)


def test_recovers_a_correlated_gaussian():
    chains = sample(_gaussian, torch.zeros(300, 2, dtype=torch.float64), num_samples=60, warmup=150)
    means, squares = chains.u.mean(0), (chains.u - MEAN).square().mean(0)
    assert ((means.mean(0) - MEAN).abs() < 4 * means.std(0) / 300**0.5).all()
    assert ((squares.mean(0) - COVARIANCE.diagonal()).abs() < 4 * squares.std(0) / 300**0.5).all()
    torch.testing.assert_close(chains.u.flatten(0, 1).T.cov(), COVARIANCE, rtol=0.1, atol=0.1)


def test_recovers_a_density_that_is_no_normal():
    chains = sample(_quartic, torch.zeros(400, 1, dtype=torch.float64), num_samples=40, step_size=0.3, warmup=100)
    assert abs(_quartic_second_moment(chains.u)) < 4


def test_without_the_accept_step_the_same_test_fails(monkeypatch):
    monkeypatch.setattr(hmc, "_choose", lambda accepted, new, old: new)  # every proposal passes
    start = torch.zeros(400, 1, dtype=torch.float64)
    chains = sample(_quartic, start, num_samples=60, step_size=0.5, warmup=0, num_leapfrog=3)
    assert not abs(_quartic_second_moment(chains.u)) < 4


def test_chains_decide_for_themselves():
    def density(u):  # the second chain's density throws every trajectory out
        scale = torch.tensor([1.0, 1e-6], dtype=torch.float64)
        return -0.5 * (u.squeeze(-1) / scale).square()

    start = torch.tensor([[0.5], [1e-7]], dtype=torch.float64)
    accepted = torch.zeros(2)
    u = start
    for _ in range(50):
        moved = transition(density, u, torch.tensor(0.3, dtype=torch.float64), 5)
        accepted += (moved.u != u).any(-1)
        u = moved.u
    assert accepted[0] > 40 and accepted[1] == 0


def test_a_trajectory_that_leaves_the_numbers_is_rejected():
    def density(u):
        return torch.where(u.squeeze(-1).abs() > 1, torch.nan, -u.squeeze(-1).square())

    u = torch.zeros(20, 1, dtype=torch.float64)
    moved = transition(density, u, torch.tensor(50.0, dtype=torch.float64), 3)
    assert torch.isfinite(moved.u).all() and (moved.accept_prob == 0).all()


def test_mcem_tunes_its_step_to_the_acceptance_asked_for():
    torch.manual_seed(0)
    truth = ProbabilisticPCA(6, 2)
    x = truth.simulate(100).detach()
    run = fit(ProbabilisticPCA(6, 2), None, x, objective=MCEM(num_updates=1), steps=150, progress=False)
    assert run.history["acceptance"].tail(20).mean() == pytest.approx(0.9, abs=0.05)
