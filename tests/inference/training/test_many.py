"""Many fits at once are the fits that each would be alone, and one that fails does not take the others with it."""

import pyro
import pyro.distributions as dist
import pytest
import torch

from aevb import guides
from aevb.inference import NonFiniteError, fit, fit_many
from aevb.models import LatentVariableModel, likelihoods, networks, priors


def make(latent_dim):
    model = LatentVariableModel(
        prior=priors.StandardNormal(latent_dim),
        decoder=networks.MLP(latent_dim, 6, hidden=[4]),
        likelihood=likelihoods.Bernoulli(),
    )
    return model, guides.Normal(latent_dim=latent_dim, encoder=networks.MLP(6, hidden=[4]))


def flat(run):
    return torch.cat([value.detach().flatten() for value in run.params.values()])


@pytest.fixture(scope="module")
def data():
    return torch.rand(200, 6, generator=torch.Generator().manual_seed(0)).round()


def test_many_fits_are_each_the_fit_alone(data):
    runs = fit_many(
        {"one": lambda: make(1), "two": lambda: make(2)}, data, seeds=iter([3, 4]), steps=6, jobs=2, progress=False
    )
    assert list(runs) == [("one", 3), ("one", 4), ("two", 3), ("two", 4)]
    torch.manual_seed(4)
    alone = fit(*make(2), data, seed=4, steps=6, progress=False)
    together = runs["two", 4]
    assert together.history["bound"].tolist() == pytest.approx(alone.history["bound"].tolist(), rel=1e-6)
    torch.testing.assert_close(flat(together), flat(alone))
    assert not torch.allclose(flat(runs["two", 3]), flat(runs["two", 4]))


def test_a_fit_that_fails_leaves_the_others(data):
    def blows_up():
        def model(x):
            steep = pyro.param("steep", torch.tensor(1e15))  # log p(x|z) is finite, the norm of its gradient is not
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(torch.zeros(6), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(steep * z, 1.0).to_event(1), obs=x)

        return model, guides.Normal(latent_dim=6, encoder=networks.MLP(6, hidden=[4]))

    with pytest.raises(ExceptionGroup, match="1 of 2 fits failed, the first by NonFiniteError: step 1") as caught:
        fit_many({"good": lambda: make(1), "bad": blows_up}, data, seeds=[0], steps=3, jobs=2, progress=False)
    (error,) = caught.value.exceptions
    assert isinstance(error, NonFiniteError) and error.run.settings["steps"] == 0
    assert error.__notes__ == ["in the fit of 'bad' under seed 0"]
    assert list(caught.value.runs) == [("good", 0)]


def test_what_cannot_be_is_refused(data):
    with pytest.raises(ValueError, match="jobs=0"):
        fit_many({"one": lambda: make(1)}, data, jobs=0)
    with pytest.raises(ValueError, match="seeds="):
        fit_many({"one": lambda: make(1)}, data, seed=3)
    with pytest.raises(ValueError, match="checkpoint='a.pt' would be written by every fit"):
        fit_many({"one": lambda: make(1)}, data, checkpoint="a.pt")
