"""What is particular to each prior; what all have in common is in models/test_densities.py."""

import copy
import inspect

import pytest
import torch
from torch import nn

from aevb import guides
from aevb.models import distributions, priors


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


BAD = {
    "laplace": (lambda: priors.Laplace(2, scale=0.0), "scale: expected a positive number; got 0.0"),
    "student": (lambda: priors.StudentT(2, df=-1.0), "df: expected a positive number; got -1.0"),
    "mixture": (lambda: priors.MixtureOfGaussians(2, 0), "num_components: expected at least 1"),
    "vamp": (lambda: priors.VampPrior(nn.Identity(), 2, 0), "num_pseudo_inputs: expected"),
    "sphere": (lambda: priors.UniformSphere(1), "latent_dim: expected at least 2"),
    "dirichlet": (lambda: priors.Dirichlet(3, 0.0), "concentration: expected a positive number"),
    "dirichlet-dim": (lambda: priors.Dirichlet(1), "latent_dim: expected at least 2"),
    "logistic": (lambda: priors.LogisticNormal(1), "latent_dim: expected at least 2"),
    "relaxed": (lambda: priors.RelaxedCategorical(3, 0.0), "temperature: expected a positive"),
    "flow": (lambda: priors.Flow(2, "glow"), "family: expected one of .*nsf.*; got 'glow'"),
    "flow-halves": (lambda: priors.Flow(1, "realnvp"), "Use 'maf' or 'nsf'"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_arguments_are_named_with_the_mend(name):
    make, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("name", priors.__all__)
def test_arguments_are_kept_under_their_names(name):
    prior_class = getattr(priors, name)
    guide = guides.Normal(3, nn.Linear(4, 5))
    given = {"latent_dim": 3, "posterior": guide.posterior, "data_dim": 4, "num_classes": 5}
    wanted = inspect.signature(prior_class).parameters
    prior = prior_class(**{key: value for key, value in given.items() if key in wanted})
    for key in wanted:
        kept = getattr(prior, key)
        if key in given:
            assert kept == given[key]
        else:
            assert isinstance(kept, int | float | str | bool | list | None)
    assert prior.support in {"real", "sphere", "simplex"}


def test_every_prior_names_its_source():
    for name in priors.__all__:
        doc = inspect.getdoc(getattr(priors, name))
        assert "References:" in doc, name
        assert doc.partition("\n")[0].endswith("."), name


def test_learned_normal_starts_at_the_standard_normal():
    z = torch.randn(5, 3)
    torch.testing.assert_close(priors.LearnedNormal(3)().log_prob(z), priors.StandardNormal(3)().log_prob(z))


def test_mixture_of_one_component_is_that_normal():
    prior = priors.MixtureOfGaussians(3, num_components=1)
    z = torch.randn(5, 3)
    component = torch.distributions.Normal(prior.means[0], prior.log_scales[0].exp())
    torch.testing.assert_close(prior().log_prob(z), component.log_prob(z).sum(-1))


def test_mixture_responsibilities_are_bayes_rule():
    prior = priors.MixtureOfGaussians(2, num_components=3)
    z = torch.randn(7, 4, 2)
    joint = torch.stack(
        [
            prior.logits.log_softmax(-1)[c]
            + torch.distributions.Normal(prior.means[c], prior.log_scales[c].exp()).log_prob(z).sum(-1)
            for c in range(3)
        ],
        -1,
    )
    expected = (joint - prior().log_prob(z).unsqueeze(-1)).exp()
    torch.testing.assert_close(prior.responsibilities(z), expected)


def test_vamp_prior_is_the_average_posterior_at_its_pseudo_inputs():
    guide = guides.Normal(2, nn.Linear(6, 4))
    prior = priors.VampPrior(guide.posterior, data_dim=6, num_pseudo_inputs=3)
    z = torch.randn(5, 2)
    each = torch.stack([guide.posterior(u).log_prob(z) for u in prior.pseudo_inputs])
    torch.testing.assert_close(prior().log_prob(z), each.exp().mean(0).log())
    assert ((prior.pseudo_inputs > 0) & (prior.pseudo_inputs < 1)).all()


def test_vamp_prior_shares_the_guide_without_owning_it():
    guide = guides.Normal(2, nn.Linear(6, 4))
    prior = priors.VampPrior(guide, data_dim=6, num_pseudo_inputs=3)
    assert [name for name, _ in prior.named_parameters()] == ["raw"]
    assert list(prior.state_dict()) == ["raw"]
    prior().log_prob(torch.zeros(2)).backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in guide.parameters())
    twin_prior, twin_guide = copy.deepcopy((prior, guide))
    with torch.no_grad():
        twin_guide.mean.bias.add_(100.0)
    assert twin_prior().log_prob(torch.zeros(2)) < -1000 < prior().log_prob(torch.zeros(2))


def test_vamp_prior_starts_from_data_and_takes_the_guides_support():
    x = torch.rand(4, 6)
    guide = guides.VonMisesFisher(3, nn.Linear(6, 4))
    prior = priors.VampPrior(guide.posterior, data_dim=6, num_pseudo_inputs=10)
    prior.initialize_from(x)
    distance = (prior.pseudo_inputs.unsqueeze(1) - x).abs().amax(-1)
    assert (distance.amin(1) < 2e-3).all() and (distance.amin(0) < 2e-3).all()
    assert prior.support == "sphere"
    assert prior().support.check(prior().sample((50,))).all()
    with pytest.raises(ValueError, match="x: expected data_dim = 6 columns; got 5"):
        prior.initialize_from(x[:, :5])


def test_unbounded_pseudo_inputs_take_any_data():
    guide = guides.Normal(2, nn.Linear(6, 4))
    prior = priors.VampPrior(guide.posterior, 6, num_pseudo_inputs=4, bounded=False)
    x = 5 * torch.randn(4, 6)
    prior.initialize_from(x)
    torch.testing.assert_close(prior.pseudo_inputs.sort(0).values, x.sort(0).values)


def test_uniform_sphere_is_the_reciprocal_area():
    areas = {2: 2 * torch.pi, 3: 4 * torch.pi, 4: 2 * torch.pi**2}
    for dim, area in areas.items():
        p = priors.UniformSphere(dim)()
        assert float(p.log_prob(p.sample()).exp()) == pytest.approx(1 / area, rel=1e-5)
        assert p.entropy() == pytest.approx(-float(p.log_prob(p.sample())), rel=1e-5)


def test_dirichlet_of_ones_is_uniform_and_logistic_normal_is_centred():
    z = priors.Dirichlet(3)().sample((5,))
    torch.testing.assert_close(priors.Dirichlet(3)().log_prob(z), torch.full((5,), 2.0).log())
    y = priors.LogisticNormal(4, scale=1e-6)().sample()
    torch.testing.assert_close(y, torch.full((4,), 0.25), atol=1e-5, rtol=0)


def test_relaxed_categorical_tends_to_one_hot():
    z = priors.RelaxedCategorical(5, temperature=0.01)().sample((500,))
    assert float(z.amax(-1).median()) > 0.999
    frequency = (z > 0.5).float().mean(0)
    assert (frequency - 0.2).abs().max() < 4.5 * (0.2 * 0.8 / 500) ** 0.5


def test_class_conditional_prior_gives_each_class_and_the_missing_label_its_own_normal():
    prior = priors.ClassConditional(2, num_classes=3)
    y = torch.tensor([0, 2, -1, 0])
    q = prior(y)
    assert q.batch_shape == (4,) and q.event_shape == (2,)
    assert torch.equal(q.mean[0], q.mean[3])
    assert torch.equal(q.mean[2], prior.means[3])
    q.log_prob(torch.randn(4, 2)).sum().backward()
    assert (prior.means.grad.abs().sum(-1) > 0).tolist() == [True, False, True, True]


def test_flow_families_score_other_points_as_their_own():
    for family in distributions.FLOW_FAMILIES:
        q = priors.Flow(3, family, 2, [8])()
        z = q()
        torch.testing.assert_close(q.log_prob(z), q.log_prob(z.clone()), atol=1e-4, rtol=1e-4)
