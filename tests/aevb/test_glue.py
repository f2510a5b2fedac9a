"""Which rows go where: the parts of a data set, the batches of a pass, the data that a number is of."""

import pytest
import torch

from aevb import guides
from aevb.build import Recipe, build_pair
from aevb.data import Dataset
from aevb.data.beside import with_holes, with_labels
from aevb.data.splits import make_dataset
from aevb.inference import Fit, fit
from aevb.inference.evidence.elbo import mean_bound
from aevb.models import LatentVariableModel, likelihoods, networks, priors

PARTS = ("train", "validation", "test")


def _pair():
    model = LatentVariableModel(priors.StandardNormal(1), networks.MLP(1, 4, hidden=[4]), likelihoods.Normal())
    return model, guides.Normal(1, networks.MLP(4, hidden=[4]))


def _apart(parts):
    """Whether no two of several equally large tensors are equal."""
    return all(not torch.equal(a, b) for i, a in enumerate(parts) for b in parts[:i])


@pytest.mark.parametrize("variant", ["static", "dynamic"])
def test_equal_pictures_in_different_parts_get_noise_of_their_own(variant):
    grey = dict.fromkeys(PARTS, torch.full((20, 9), 0.5))
    data = make_dataset("x", variant, grey, None, None, "", seed=0)
    assert _apart([data.part(part)[torch.arange(20)] for part in PARTS])
    other = make_dataset("x", variant, grey, None, None, "", seed=1)
    # Nor does one part's draw of one seed come back as another part's of the next.
    assert _apart([part for drawn in (data, other) for part in (drawn.validation, drawn.test)])


def test_every_part_has_holes_and_withheld_labels_of_its_own():
    x, labels = torch.rand(40, 9), torch.arange(40) % 3
    data = Dataset("x", None, x, x, x, labels, labels, labels)
    assert _apart([with_holes(data, 0.5).part(part).isnan() for part in PARTS])
    half = with_labels(data, 0.5)
    shown = [half.part(part)[torch.arange(40)][1] for part in PARTS]
    assert 5 < (shown[0] >= 0).sum() < 35 and (shown[1] < 0).all() and (shown[2] < 0).all()


def test_pseudo_inputs_start_from_training_rows_alone():
    levels = dict(zip(PARTS, (0.2, 0.5, 0.8), strict=True))
    rows = {part: level + 0.1 * torch.rand(30, 4) for part, level in levels.items()}
    data = Dataset("x", None, *(rows[part] for part in PARTS))
    recipe = Recipe(latent_dim=1, prior="vamp-prior", prior_args={"num_pseudo_inputs": 8}, hidden=(4,))
    model, _ = build_pair(recipe, data)
    distance = torch.cdist(model.prior.pseudo_inputs.detach(), rows["train"])
    assert model.prior.pseudo_inputs.shape == (8, 4) and float(distance.min(1).values.max()) < 1e-3


def test_the_validation_bound_is_of_the_validation_data():
    train, held_out = torch.randn(40, 4), 5.0 + torch.randn(30, 4)
    run = fit(*_pair(), train, validation=held_out, epochs=2, batch_size=20, seed=3, progress=False)
    told = run.history["validation_bound"].iloc[-1]
    assert told == pytest.approx(mean_bound(run.pair, held_out, seed=3), rel=1e-6)
    assert abs(told - mean_bound(run.pair, train, seed=3)) > 5.0


def test_every_pass_is_a_shuffle_of_its_own_that_leaves_no_row_out():
    class Watched:
        def __init__(self, x):
            self.x, self.asked = x, []

        def __len__(self):
            return len(self.x)

        def __getitem__(self, index):
            self.asked.append(index)
            return self.x[index]

    passes = {}
    for seed in (0, 1):
        data = Watched(torch.randn(40, 4))
        loop = Fit(*_pair(), data, epochs=3, batch_size=10, seed=seed, compile="never", progress=False)
        data.asked.clear()  # the contract looked at the first rows
        loop.drain()
        passes[seed] = [torch.cat(data.asked[i : i + 4]) for i in (0, 4, 8)]
    assert all(torch.equal(one.sort().values, torch.arange(40)) for orders in passes.values() for one in orders)
    assert _apart([*passes[0], *passes[1]])
