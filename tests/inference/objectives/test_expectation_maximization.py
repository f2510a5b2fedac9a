"""Exact EM against scikit-learn's mixture and factor analysis and against the optimum of probabilistic PCA."""

from functools import partial

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from sklearn.decomposition import FactorAnalysis as SklearnFactors
from sklearn.mixture import GaussianMixture as SklearnMixture

from aevb.inference import Pair, fit
from aevb.inference.objectives import EM, Batch
from aevb.inference.pairs.data import Tensors
from aevb.inference.posterior.gaussian import gaussian_posterior
from aevb.models import FactorAnalysis, GaussianMixture, ProbabilisticPCA


def steps(model, x, num, batch_size=None):
    return fit(model, None, x, objective=EM(), steps=num, batch_size=batch_size or len(x), progress=False, device="cpu")


@pytest.fixture
def blobs():
    generator = torch.Generator().manual_seed(0)
    centres = torch.tensor([[-2.0, 0.0], [2.0, 1.0], [0.0, 3.0]], dtype=torch.float64)
    which = torch.randint(3, (300,), generator=generator)
    return centres[which] + 0.8 * torch.randn(300, 2, generator=generator, dtype=torch.float64)


def mixture(x):
    model = GaussianMixture(data_dim=2, num_components=3).double()
    with torch.no_grad():
        model.means.copy_(x[:3])
    return model


@pytest.mark.parametrize("num_steps", [1, 40])
def test_a_mixture_is_scikit_learns_from_the_same_start(blobs, num_steps):
    model = mixture(blobs)
    sklearn = SklearnMixture(
        3,
        covariance_type="diag",
        reg_covar=0.0,
        tol=0.0,
        max_iter=num_steps,
        means_init=model.means.detach().numpy(),
        weights_init=np.full(3, 1 / 3),
        precisions_init=np.ones((3, 2)),
    )
    with pytest.warns(match="did not converge"):
        sklearn.fit(blobs.numpy())
    steps(model, blobs, num_steps)
    ours = float(model.log_evidence(blobs).mean())
    assert ours == pytest.approx(sklearn.score(blobs.numpy()), abs=1e-6)
    np.testing.assert_allclose(model.means.detach().numpy(), sklearn.means_, atol=1e-6)


def test_the_likelihood_never_falls_and_is_what_is_reported(blobs):
    model = mixture(blobs)
    before = float(model.log_evidence(blobs).mean())
    history = steps(model, blobs, 15).history["bound"]
    assert history[0] == pytest.approx(before, abs=1e-9)
    assert (np.diff(history) > -1e-10).all()
    assert history.iloc[-1] > before + 0.1


def test_probabilistic_pca_reaches_its_closed_form_optimum():
    torch.manual_seed(0)
    x = ProbabilisticPCA(5, 2).double().simulate(400).double() * 1.5 + 1.0
    best = ProbabilisticPCA.maximum_likelihood(x, 2).log_evidence(x).mean()
    model = ProbabilisticPCA(5, 2).double()
    steps(model, x, 300)
    assert float(model.log_evidence(x).mean()) == pytest.approx(float(best), abs=1e-4)


def test_minibatches_come_close_by_online_em(blobs):
    whole, parts = mixture(blobs), mixture(blobs)
    steps(whole, blobs, 60)
    steps(parts, blobs, 300, batch_size=50)
    gap = float((whole.log_evidence(blobs) - parts.log_evidence(blobs)).mean())
    assert -1e-3 < gap < 0.03


@pytest.fixture
def factors():
    """Three factors of eight measurements, each with a noise of its own."""
    torch.manual_seed(0)
    model = FactorAnalysis(8, 3).double()
    with torch.no_grad():
        model.log_scale.copy_(torch.linspace(-1.0, 0.7, 8))
        model.mean.copy_(torch.linspace(-2.0, 2.0, 8))
    return model.simulate(500)


def from_scikit_learn(x):
    """The optimum, and the log-likelihood that both packages give it."""
    best = SklearnFactors(3, svd_method="lapack", tol=1e-12, max_iter=5000).fit(x.numpy())
    model = FactorAnalysis(8, 3).double()
    with torch.no_grad():
        model.weight.copy_(torch.as_tensor(best.components_.T.copy()))
        model.mean.copy_(torch.as_tensor(best.mean_))
        model.log_scale.copy_(torch.as_tensor(best.noise_variance_).log() / 2)
    assert float(model.log_evidence(x).mean()) == pytest.approx(best.score(x.numpy()), abs=1e-9)
    return best.score(x.numpy())


def test_factor_analysis_climbs_to_scikit_learns_optimum(factors):
    torch.manual_seed(1)
    model = FactorAnalysis(8, 3).double()
    start = float(model.log_evidence(factors).mean().detach())
    history = steps(model, factors, 400).history["bound"]
    assert history[0] == pytest.approx(start, abs=1e-9)
    assert (np.diff(history) > -1e-10).all()
    assert history.iloc[-1] == pytest.approx(from_scikit_learn(factors), abs=1e-4)


def factor_program(x):
    """The same in plain Pyro, in two latent sites; it knows no closed form."""
    weight = pyro.param("weight", lambda: torch.randn(8, 3, dtype=torch.float64))
    mean = pyro.param("mean", lambda: torch.zeros(8, dtype=torch.float64))
    scale = pyro.param("scale", lambda: torch.ones(8, dtype=torch.float64), constraint=dist.constraints.positive)
    with pyro.plate("data", len(x)):
        first = pyro.sample("first", dist.Normal(torch.zeros_like(mean[:1]), 1.0).to_event(1))
        rest = pyro.sample("rest", dist.Normal(torch.zeros_like(mean[:2]), 1.0).to_event(1))
        z = torch.cat([first, rest], -1)
        pyro.sample("x", dist.Normal(z @ weight.T + mean, scale).to_event(1), obs=x)


def test_a_gaussian_programs_posterior_is_found_from_its_density(factors):
    torch.manual_seed(2)
    pair = Pair(factor_program).check(factors)
    found = gaussian_posterior(pair, (factors[:20],))
    model = FactorAnalysis(8, 3).double()
    with torch.no_grad():
        model.weight.copy_(pair.model.values()["weight"])
    exact = model.posterior(factors[:20])
    torch.testing.assert_close(found.mean, exact.mean)
    torch.testing.assert_close(found.spread @ found.spread.mT, exact.covariance_matrix)
    torch.testing.assert_close(found.log_px, model.log_evidence(factors[:20]))
    points = found.points()
    torch.testing.assert_close(points.mean(0), exact.mean)
    deviations = points - exact.mean
    torch.testing.assert_close(torch.einsum("kbi,kbj->bij", deviations, deviations) / 6, exact.covariance_matrix)


def test_a_plain_program_reaches_the_same_optimum(factors):
    optimizer = partial(torch.optim.Adam, lr=0.03)
    options = {"batch_size": 500, "progress": False, "device": "cpu", "seed": 3}
    run = fit(factor_program, None, factors, objective=EM(num_updates=3), optimizer=optimizer, steps=250, **options)
    assert run.history["bound"].iloc[-1] == pytest.approx(from_scikit_learn(factors), abs=2e-3)


def test_the_first_update_climbs_the_likelihood_itself(factors):
    """Fisher's identity: the gradient of the expected log p(x, z) is that of log p(x)."""
    torch.manual_seed(4)
    model = FactorAnalysis(8, 3).double()

    def program(x):  # without summarize, the model's own closed forms are out of sight
        pyro.module("model", model)
        return model(x)

    pair = Pair(program).check(factors)
    batch = Batch((factors,), torch.arange(500), 500, torch.tensor(0))
    phase = next(EM()(pair, batch, EM().start(pair, Tensors(factors))))
    ours = torch.autograd.grad(phase.losses["model"], list(model.parameters()))
    exact = torch.autograd.grad(-model.log_evidence(factors).mean(), list(model.parameters()))
    for slope, expected in zip(ours, exact, strict=True):
        torch.testing.assert_close(slope, expected)


@pytest.mark.parametrize("bent", [lambda z: z.tanh(), lambda z: z * z.flip(-1), lambda z: z + 1e-2 * z**3])
def test_a_model_whose_posterior_is_not_gaussian_is_sent_to_mcem(bent):
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(bent(z), 1.0).to_event(1), obs=x)

    x = torch.randn(3, 2)
    with pytest.raises(ValueError, match=r"EM needs .*not quadratic in its latents \['z'\] \(off by .* MCEM"):
        EM().start(Pair(model).check(x), Tensors(x))


def test_discrete_latents_without_closed_forms_are_sent_to_enumeration():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Bernoulli(0.5))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    x = torch.zeros(3)
    with pytest.raises(ValueError, match=r"\['z'\] have none .*TraceEnum_ELBO"):
        EM().start(Pair(model).check(x), Tensors(x))
    with pytest.raises(ValueError, match="num_updates=0 must be at least 1"):
        EM(num_updates=0)
