"""What blocks declare decides which go together; an option means one thing wherever it stands."""

import pytest

from aevb import partners
from aevb.build import Recipe, with_samples


@pytest.mark.parametrize(
    ("asked", "model", "guide"),
    [
        ({}, "latent-variable", "normal"),
        ({"prior": "class-conditional"}, "conditional", "conditional-normal"),
        ({"guide": "conditional-normal"}, "conditional", "conditional-normal"),
        ({"guide": "hierarchical"}, "hierarchical", "hierarchical"),
        ({"model": "hierarchical"}, "hierarchical", "hierarchical"),
        ({"model": "clustering"}, "clustering", "normal"),
        ({"model": "clustering", "label_share": 0.1}, "clustering", "conditional-normal"),
        ({"missing_share": 0.1}, "latent-variable", "masked-normal"),
    ],
)
def test_what_is_left_open_follows_from_what_blocks_declare(asked, model, guide):
    recipe = Recipe(latent_dim=2, **asked)
    assert (recipe.model, recipe.guide) == (model, guide)


def test_row_numbers_are_not_taken_for_labels():
    with pytest.raises(ValueError, match="mean-field goes with --model latent-variable, not with clustering"):
        partners.check_names("clustering", "standard-normal", "mean-field")


def test_samples_are_the_draws_of_a_datapoint_or_refused():
    assert with_samples("importance", 50, {"rows": 10}) == {"rows": 10, "num_samples": 50}
    assert with_samples("density-fit", 50, {}) == with_samples("all", 50, {}) == {"num_samples": 50}
    assert with_samples("ais", None, {"num_chains": 3}) == {"num_chains": 3}
    with pytest.raises(ValueError, match=r"ais draws none; what it costs is set by --evidence-args\.num_temperatures"):
        with_samples("ais", 50, {}, flag="evidence-args")
    with pytest.raises(ValueError, match="exact draws none; it has no options"):
        with_samples("exact", 50, {})
    with pytest.raises(ValueError, match=r"--samples and --method-args\.num_samples are one and the same"):
        with_samples("importance", 50, {"num_samples": 60})
