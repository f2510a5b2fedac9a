"""Every prior x likelihood x guide that can be asked for by name is built, trained, judged, saved and loaded."""

import itertools
import math

import pytest
import torch

from aevb import registry
from aevb.build import Recipe, build_pair, dress
from aevb.data import Dataset
from aevb.inference import SGVB, Pair, fit, load, log_evidence
from aevb.inference.evidence import AnnealedImportanceSampling, ImportanceSampling
from aevb.inference.objectives import AdversarialVB

WIDTH, POINTS = 4, 6
NO_DENSITY = ("implicit", "noise-basis")
CHAINS = AnnealedImportanceSampling(num_temperatures=3, num_chains=2, start="prior", num_leapfrog=2, num_tuning=2)
OPTIONS = {
    "categorical": {"num_classes": 3},
    "discretized-logistic": {"levels": 8},
    "discretized-logistic-mixture": {"levels": 8, "num_components": 2},
    "mixture-of-gaussians": {"num_components": 3},
    "vamp-prior": {"num_pseudo_inputs": 3},
    "flow": {"hidden_features": [8]},
}


def _recipe(prior, likelihood, guide):
    return Recipe(
        latent_dim=3,
        prior=prior,
        prior_args=OPTIONS.get(prior, {}),
        likelihood=likelihood,
        likelihood_args=OPTIONS.get(likelihood, {}),
        guide=guide,
        guide_args=OPTIONS.get(guide, {}),
        hidden=(6,),
    )


def _dataset(x):
    labels = torch.arange(len(x)) % 2
    return Dataset("made", None, x, x, x, labels, labels, labels)


def _dressed(recipe, x):
    """The rows as the pair of the recipe takes them: with labels or row numbers beside them where it does."""
    return dress(_dataset(x), recipe).train[torch.arange(len(x))]


def _dreamt(recipe):
    """Data in the likelihood's support, since a model of that likelihood dreamt them."""
    plain = Recipe(latent_dim=3, likelihood=recipe.likelihood, likelihood_args=recipe.likelihood_args, hidden=(6,))
    model, _ = build_pair(plain, _dataset(torch.zeros(POINTS, WIDTH)))
    with torch.no_grad():
        z = model.prior().sample((POINTS,))
        return model.likelihood(model.decoder(z)).sample().float()


def _space(kind, name):
    if name == "vamp-prior":  # lives where its guide lives
        return None
    return registry.find(kind, name).support


def _valid(prior, guide):
    spaces = _space("priors", prior), _space("guides", guide)
    if prior == "class-conditional":
        return guide == "conditional-normal"  # the one that is given labels
    if guide == "hierarchical":
        return prior == "standard-normal"  # of the upper layer; the lower one's is the model's own
    if prior == "vamp-prior":
        # a mixture of posteriors needs their density, and posteriors that are functions of x alone
        return guide not in (*NO_DENSITY, "semi-amortized", "mean-field", "conditional-normal")
    return spaces[0] is None or spaces[0] == spaces[1]


ALL = list(itertools.product(registry.PRIORS, registry.GUIDES))


VALID = [pair for pair in ALL if _valid(*pair)]
_STRIDE = 4  # a pair meets every fourth likelihood, its neighbours the others; before a release it meets all of them


def _some(prior, guide):
    place = list(registry.PRIORS).index(prior) + list(registry.GUIDES).index(guide)
    return list(registry.LIKELIHOODS)[place % _STRIDE :: _STRIDE]


@pytest.mark.parametrize(("prior", "guide"), VALID)
def test_every_valid_pair_works_with_some_likelihoods(prior, guide, tmp_path):
    _work(prior, guide, _some(prior, guide), tmp_path)


@pytest.mark.prerelease
@pytest.mark.parametrize(("prior", "guide"), VALID)
def test_every_valid_combination_works(prior, guide, tmp_path):
    _work(prior, guide, list(registry.LIKELIHOODS), tmp_path)


def _work(prior, guide, names, tmp_path):
    for likelihood in names:
        recipe = _recipe(prior, likelihood, guide)
        plain = _dreamt(recipe)
        x = _dressed(recipe, plain)
        model, encoder = build_pair(recipe, _dataset(plain))
        # A guide without a density is trained against a critic and judged by chains that start at the prior.
        dense = all(site.has_density for site in Pair(model, encoder).check(x).latents)
        objective = SGVB(estimator="B") if dense else AdversarialVB()
        estimator = ImportanceSampling(8) if dense else CHAINS
        run = fit(model, encoder, x, objective=objective, steps=3, batch_size=POINTS, progress=False)
        before = log_evidence(run.model, run.guide, x, estimator)
        assert math.isfinite(before.mean), likelihood
        run.save(tmp_path / likelihood)
        again = load(tmp_path / likelihood)
        after = log_evidence(again.model, again.guide, x, estimator)
        torch.testing.assert_close(after.log_px, before.log_px, rtol=0.0, atol=0.0, msg=likelihood)


@pytest.mark.parametrize(("prior", "guide"), [p for p in ALL if not _valid(*p) and "vamp-prior" not in p])
def test_invalid_partners_are_named_with_a_valid_one(prior, guide):
    recipe = _recipe(prior, "bernoulli", guide)
    fitting = [name for name in registry.GUIDES if _valid(prior, name)]
    with pytest.raises(ValueError, match=prior) as caught:
        build_pair(recipe, _dataset(torch.zeros(POINTS, WIDTH)))
    said = str(caught.value)
    assert guide in said and all(name in said for name in fitting)


@pytest.mark.parametrize("guide", NO_DENSITY)
def test_a_vamp_prior_of_a_guide_without_density_is_refused(guide):
    with pytest.raises(ValueError, match=f"vamp-prior.*{guide} has none"):
        build_pair(_recipe("vamp-prior", "bernoulli", guide), _dataset(torch.zeros(POINTS, WIDTH)))
