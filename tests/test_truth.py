"""The objectives and the evidence against closed forms, and against Pyro's own SVI on the same seed."""

import math
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO, TraceMeanField_ELBO
from torch import nn

from aevb import guides
from aevb.inference import MCEM, SGVB, Pair, WakeSleep, fit, log_evidence
from aevb.inference.evidence import ImportanceSampling
from aevb.inference.objectives import Batch
from aevb.models import LatentVariableModel, ProbabilisticPCA, likelihoods, networks, priors

# ---------------------------------------------------------------------- maximum likelihood is reached


def _simulated(latent_dim, seed=0, points=500, width=8):
    torch.manual_seed(seed)
    truth = ProbabilisticPCA(width, latent_dim)
    with torch.no_grad():
        truth.weight.copy_(torch.randn(width, latent_dim))
        truth.log_scale.fill_(-0.7)
    return truth.simulate(points).detach()


def _shortfall(objective, latent_dim, steps, guided=True):
    """The share of the way from the initial to the maximum log-likelihood that is left after training."""
    x = _simulated(latent_dim)
    torch.manual_seed(1)
    model = ProbabilisticPCA(x.shape[1], latent_dim)
    guide = guides.Normal(latent_dim, nn.Linear(x.shape[1], x.shape[1])) if guided else None

    def likelihood(m):
        return float(m.log_evidence(x).mean().detach())

    best = likelihood(ProbabilisticPCA.maximum_likelihood(x, latent_dim))
    start = likelihood(model)
    programs = model, guide
    for lr in (1e-2, 1e-3):  # the second, smaller step averages the gradient's noise out
        adam = partial(torch.optim.Adam, lr=lr)
        run = fit(*programs, x, objective=objective, optimizer=adam, steps=steps // 2, progress=False)
        programs = run.model, run.guide
    assert best > start
    return (best - likelihood(model)) / (best - start)


@pytest.mark.parametrize("estimator", ["A", "B"])
def test_sgvb_reaches_maximum_likelihood(estimator):
    assert abs(_shortfall(SGVB(estimator=estimator), latent_dim=2, steps=1600)) < 0.01


def test_mcem_reaches_maximum_likelihood():
    assert abs(_shortfall(MCEM(), latent_dim=2, steps=500, guided=False)) < 0.01


def test_wake_sleep_reaches_it_with_one_latent():
    assert abs(_shortfall(WakeSleep(), latent_dim=1, steps=1600)) < 0.01


def test_wake_sleep_with_two_latents_is_on_record(record_property):
    left = _shortfall(WakeSleep(), latent_dim=2, steps=1000)
    record_property("wake_sleep_shortfall", left)
    assert -1e-3 < left < 1.0


# ---------------------------------------------------------------------- gradients


@pytest.fixture
def linear_gaussian():
    """A PPCA pair in float64 with a diagonal guide away from the optimum."""
    torch.manual_seed(0)
    x = torch.randn(6, 5, dtype=torch.float64)
    model = ProbabilisticPCA(5, 2).double()
    guide = guides.Normal(2, nn.Linear(5, 5)).double()
    with torch.no_grad():
        model.weight.copy_(torch.randn(5, 2))
        guide.log_scale.bias.fill_(-0.5)
    return model, guide, x


def _closed_form_bound(model, guide, x):
    """E_q[log p(x|z)] - KL(q||p) of a linear-Gaussian model with a diagonal guide, averaged over the batch."""
    q = guide.posterior(x).base_dist
    mean, scale = q.mean, q.stddev
    variance = (2 * model.log_scale).exp()
    residual = (x - model.mean - mean @ model.weight.T).square().sum(-1)
    spread = (scale.square() @ model.weight.T.square()).sum(-1)
    reconstruction = -0.5 * ((residual + spread) / variance + x.shape[1] * (math.log(2 * math.pi) + variance.log()))
    minus_kl = 0.5 * (1 + 2 * scale.log() - mean.square() - scale.square()).sum(-1)  # eq. (10)
    return (reconstruction + minus_kl).mean()


def _gradients(pair, x, estimator, groups, draws):
    """Gradients of the loss from ``groups`` independent estimates of ``draws`` samples each, ``[groups, P]``."""
    objective = SGVB(estimator=estimator, num_samples=draws)
    batch = Batch((x,), torch.arange(len(x)), len(x), torch.tensor(0))
    parameters = list(pair.parameters())
    rows = []
    for _ in range(groups):
        (phase,) = objective(pair, batch, nn.Module())
        gradient = torch.autograd.grad(phase.losses["model"], parameters)
        rows.append(torch.cat([g.flatten() for g in gradient]))
    return torch.stack(rows)


def _exact_gradient(pair, model, guide, x):
    gradient = torch.autograd.grad(-_closed_form_bound(model, guide, x), list(pair.parameters()))
    return torch.cat([g.flatten() for g in gradient])


@pytest.mark.parametrize("estimator", ["A", "B"])
def test_gradient_agrees_with_the_closed_form(linear_gaussian, estimator):
    model, guide, x = linear_gaussian
    pair = Pair(model, guide).check(x)
    exact = _exact_gradient(pair, model, guide, x)
    torch.manual_seed(2)
    rows = _gradients(pair, x, estimator, groups=100, draws=100)  # 10,000 draws
    error = rows.std(0) / len(rows) ** 0.5
    z = (rows.mean(0) - exact) / error.clamp(min=1e-12)
    noiseless = error < 1e-12  # a parameter that no draw touches must be exact
    assert (z[~noiseless].abs() < 3.0).float().mean() > 0.98  # 3 standard errors; one in 370 lies beyond by chance
    assert z[~noiseless].abs().max() < 4.5
    torch.testing.assert_close(rows.mean(0)[noiseless], exact[noiseless])


def test_b_has_no_larger_variance_at_the_optimum():
    x = _simulated(2, points=50).double()
    model = ProbabilisticPCA.maximum_likelihood(x, 2).double()
    guide = guides.Normal(2, nn.Linear(8, 8)).double()
    with torch.no_grad():  # the exact posterior: ML's posterior covariance is diagonal
        exact = model.posterior(x)
        assert exact.covariance_matrix[0, 0, 1].abs() < 1e-6
        guide.encoder.weight.copy_(torch.eye(8))
        guide.encoder.bias.zero_()
        variance = (2 * model.log_scale).exp()
        gain = torch.linalg.solve(model.weight.T @ model.weight + variance * torch.eye(2).double(), model.weight.T)
        guide.mean.weight.copy_(gain)
        guide.mean.bias.copy_(-gain @ model.mean)
        guide.log_scale.weight.zero_()
        guide.log_scale.bias.copy_(exact.stddev[0].log())
    pair = Pair(model, guide).check(x)
    torch.manual_seed(0)
    a, b = (_gradients(pair, x, estimator, groups=300, draws=1).var(0).sum() for estimator in "AB")
    assert b <= a


# ---------------------------------------------------------------------- Pyro's own SVI


class TutorialVAE(nn.Module):
    """Written as Pyro's VAE tutorial writes it: bound methods, pyro.module, a plate of the batch."""

    def __init__(self):
        super().__init__()
        self.decoder = nn.Sequential(nn.Linear(3, 8), nn.Softplus(), nn.Linear(8, 6))
        self.encoder = nn.Sequential(nn.Linear(6, 8), nn.Softplus(), nn.Linear(8, 6))

    def model(self, x):
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("latent", dist.Normal(x.new_zeros(x.shape[0], 3), x.new_ones(x.shape[0], 3)).to_event(1))
            pyro.sample("obs", dist.Bernoulli(logits=self.decoder(z)).to_event(1), obs=x.reshape(-1, 6))

    def guide(self, x):
        pyro.module("encoder", self.encoder)
        with pyro.plate("data", x.shape[0]):
            mean, log_scale = self.encoder(x).chunk(2, -1)
            pyro.sample("latent", dist.Normal(mean, log_scale.exp()).to_event(1))


def _tutorial():
    vae = TutorialVAE()
    return vae.model, vae.guide


def _blocks():
    model = LatentVariableModel(priors.StandardNormal(3), networks.MLP(3, 6, hidden=[8]), likelihoods.Bernoulli())
    guide = guides.Normal(3, networks.MLP(6, hidden=[8]))

    def model_with_store(x):
        pyro.module("model", model)
        return model(x)

    def guide_with_store(x):
        pyro.module("guide", guide)
        return guide(x)

    return model_with_store, guide_with_store


def _scalar():
    def model(x):
        rate = pyro.param("scale", torch.tensor(0.7), constraint=dist.constraints.positive)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z.unsqueeze(-1), rate).expand([*z.shape, 6]).to_event(1), obs=x)

    def guide(x):
        slope = pyro.param("slope", torch.tensor(0.3))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(slope * x.sum(-1), 0.8))

    return model, guide


@pytest.mark.parametrize("make", [_tutorial, _blocks, _scalar])
@pytest.mark.parametrize("num_samples", [1, 4])
@pytest.mark.parametrize(("estimator", "elbo"), [("A", Trace_ELBO), ("B", TraceMeanField_ELBO)])
def test_bound_and_gradient_are_those_of_svi(make, num_samples, estimator, elbo):
    torch.manual_seed(0)
    x = torch.bernoulli(torch.full((7, 6), 0.5))
    model, guide = make()
    pyro.clear_param_store()
    reference = elbo(num_particles=num_samples, vectorize_particles=num_samples > 1, max_plate_nesting=1)
    svi = SVI(model, guide, pyro.optim.SGD({"lr": 0.0}), loss=reference)
    torch.manual_seed(3)
    loss = svi.loss_and_grads(svi.model, svi.guide, x)
    gradients = {p: p.grad.clone() for _, p in pyro.get_param_store().named_parameters() if p.grad is not None}
    pyro.clear_param_store()

    pair = Pair(model, guide).check(x)
    batch = Batch((x,), torch.arange(7), 7, torch.tensor(0))
    torch.manual_seed(3)
    (phase,) = SGVB(estimator=estimator, num_samples=num_samples)(pair, batch, nn.Module())
    assert 7 * float(phase.losses["guide"].detach()) == pytest.approx(loss, rel=1e-5)
    ours = torch.autograd.grad(phase.losses["model"], list(pair.parameters()))
    norms = sorted(float(g.norm()) * 7 for g in ours)
    expected = sorted(float(gradient.norm()) for gradient in gradients.values())
    assert norms == pytest.approx(expected, rel=1e-4, abs=1e-5)
    for parameter, gradient in zip(pair.parameters(), ours, strict=True):
        if parameter in gradients:  # a module's own parameters are the very same tensors on both sides
            torch.testing.assert_close(7 * gradient, gradients[parameter], rtol=1e-4, atol=1e-5)


# ---------------------------------------------------------------------- evidence


def test_importance_sampling_is_within_its_error_of_the_exact_evidence():
    x = _simulated(2, points=300)
    model = ProbabilisticPCA.maximum_likelihood(x, 2)

    def guide(x):  # the exact posterior, widened: weights vary, but safely
        posterior = model.posterior(x)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.MultivariateNormal(posterior.mean, 1.7 * posterior.covariance_matrix))

    evidence = log_evidence(model, guide, x, ImportanceSampling(1000))
    exact = model.log_evidence(x).detach()
    # The delta method: sd(log mean w) = sd(w) / (mean(w) sqrt K), and ESS = K / (1 + cv^2).
    error = (1 / evidence.ess - 1 / 1000).clamp(min=1e-12).sqrt()
    within = ((evidence.log_px - exact).abs() < 3 * error + 1e-4).double().mean()
    assert within >= 0.99
    assert evidence.khat_share == 0.0


def test_a_guide_that_is_too_narrow_is_told_by_khat():
    x = _simulated(2, points=40)
    model = ProbabilisticPCA.maximum_likelihood(x, 2)

    def guide(x):
        posterior = model.posterior(x)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.MultivariateNormal(posterior.mean, 0.1 * posterior.covariance_matrix))

    # The weights of a normal whose covariance is a tenth of the posterior's have a Pareto tail of shape 1 - 1/10.
    evidence = log_evidence(model, guide, x, ImportanceSampling(10_000))
    assert float(evidence.khat.mean()) == pytest.approx(0.9, abs=0.06)
    assert evidence.khat_share > 0.9
