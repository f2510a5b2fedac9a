"""Exact answers: a model's own, by enumeration, on a grid, or a refusal that says what would do."""

import pyro
import pyro.distributions as dist
import pytest
import torch

from aevb.inference import log_evidence
from aevb.inference.evidence import Exact
from aevb.models import GaussianMixture, ProbabilisticPCA


def test_a_models_own_answer_is_taken():
    model = ProbabilisticPCA(20, 12)
    x = model.simulate(7)
    evidence = log_evidence(model, None, x, Exact())
    torch.testing.assert_close(evidence.log_px.float(), model.log_evidence(x).detach())
    assert evidence.direction == "exact" and evidence.monte_carlo_error == 0.0
    assert evidence.notes == ("the model's own closed form",)


def test_a_mixture_is_enumerated_to_its_closed_form():
    mixture = GaussianMixture(3, num_components=4)
    with torch.no_grad():
        mixture.logits.copy_(torch.randn(4))
    x = mixture.simulate(6)

    def program(x):  # hides the method
        return mixture(x)

    evidence = log_evidence(program, None, x, Exact())
    assert evidence.notes == ("by enumeration of 4 states",) and evidence.num_samples == 4
    torch.testing.assert_close(evidence.log_px.float(), mixture.log_evidence(x).detach(), rtol=0, atol=1e-5)


def test_several_discrete_latents_are_enumerated_together():
    table = torch.randn(3, 2, 2)

    def model(x):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Categorical(torch.tensor([0.2, 0.3, 0.5])))
            b = pyro.sample("b", dist.Bernoulli(torch.tensor([0.6, 0.1])).to_event(1))
            b = b.long()
            pyro.sample("x", dist.Normal(table[a, b[..., 0], b[..., 1]], 0.5), obs=x)

    x = torch.randn(5)
    total = torch.zeros(5)
    for a, p in enumerate((0.2, 0.3, 0.5)):
        for b, q in enumerate((0.4, 0.6)):
            for c, r in enumerate((0.9, 0.1)):
                total += p * q * r * dist.Normal(table[a, b, c], 0.5).log_prob(x).exp()
    evidence = log_evidence(model, None, x, Exact())
    assert evidence.num_samples == 12
    torch.testing.assert_close(evidence.log_px.float(), total.log(), rtol=1e-4, atol=1e-5)


def test_two_continuous_latents_are_integrated():
    pca = ProbabilisticPCA(5, 2)
    x = pca.simulate(4)
    evidence = log_evidence(lambda x: pca(x), None, x, Exact())
    assert evidence.notes == (f"by quadrature on {evidence.num_samples} points",) and evidence.direction == "exact"
    assert evidence.monte_carlo_error < 1e-4
    torch.testing.assert_close(evidence.log_px.float(), pca.log_evidence(x).detach(), rtol=0, atol=2e-3)


def _many(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(9), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z.square().sum(-1), 1.0), obs=x)


def test_a_linear_gaussian_program_of_many_latents_is_solved():
    pca = ProbabilisticPCA(20, 9)
    x = pca.simulate(7)
    evidence = log_evidence(lambda x: pca(x), None, x, Exact())
    assert "linear-Gaussian" in evidence.notes[0] and evidence.monte_carlo_error == 0.0
    torch.testing.assert_close(evidence.log_px.float(), pca.log_evidence(x).detach(), rtol=0, atol=1e-3)


def _mixed(x):
    with pyro.plate("data", len(x)):
        c = pyro.sample("c", dist.Bernoulli(0.5))
        z = pyro.sample("z", dist.Normal(c, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def _endless(x):
    with pyro.plate("data", len(x)):
        c = pyro.sample("c", dist.Poisson(3.0))
        pyro.sample("x", dist.Normal(c, 1.0), obs=x)


def _wide(x):
    with pyro.plate("data", len(x)):
        c = pyro.sample("c", dist.Bernoulli(torch.full((30,), 0.5)).to_event(1))
        pyro.sample("x", dist.Normal(c.sum(-1), 1.0), obs=x)


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (_many, "has 9 latent dimensions and is not linear and Gaussian"),
        (_mixed, r"\['c'\] are discrete.*\['z'\] are continuous"),
        (_endless, "'c' takes values without end"),
        (_wide, f"{2**30} states"),
    ],
)
def test_where_nothing_is_exact_the_error_says_what_would_do(model, why):
    with pytest.raises(ValueError, match=rf"{why}.*annealed importance sampling"):
        log_evidence(model, None, torch.randn(3), Exact())


def _bent(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(x.new_zeros(4), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z + 3.0 * torch.relu(z - 1.0), 0.5).to_event(1), obs=x)


@pytest.mark.parametrize("last", [-1.0, 2.0])
def test_what_is_gaussian_around_most_rows_alone_is_refused(last):
    x = torch.full((61, 4), -1.0)
    x[-1] = last
    with pytest.raises(ValueError, match="not linear and Gaussian"):
        log_evidence(_bent, None, x, Exact())


def test_an_integral_that_has_not_converged_is_an_estimate():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z + 1414.0, 1.0), obs=x)

    found = log_evidence(model, None, torch.zeros(2), Exact())
    assert found.direction == "estimate" and found.method == "exact"
    assert "not exact on 2 of 2 datapoints" in found.notes[1] and found.monte_carlo_error > 0.01
