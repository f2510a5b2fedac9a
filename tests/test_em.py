"""Exact EM against scikit-learn on a mixture and against the closed-form optimum of probabilistic PCA."""

import numpy as np
import pytest
import torch
from sklearn.mixture import GaussianMixture as SklearnMixture

from aevb.inference import Pair, fit
from aevb.inference.objectives import EM
from aevb.models import GaussianMixture, ProbabilisticPCA


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


def test_a_model_without_closed_forms_is_sent_to_mcem():
    import pyro
    import pyro.distributions as dist

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    x = torch.zeros(3)
    with pytest.raises(ValueError, match="MCEM"):
        EM().start(Pair(model).check(x), x)
