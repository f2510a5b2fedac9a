"""Tables of one's own: their classes, their names, columns of unequal scale, and holes."""

import json

import numpy as np
import pandas as pd
import pyro.distributions as dist
import pytest
import torch
from folders import arrays

from aevb import guides
from aevb.__main__ import main
from aevb.build import Recipe, build_pair
from aevb.data import DataError, Dataset, load
from aevb.inference import SGVB, fit, log_evidence
from aevb.inference import load as load_run
from aevb.inference.evidence import ELBO
from aevb.models import LatentVariableModel, likelihoods, networks, priors
from aevb.scales import unequal_scales, units

LOC, SCALE = [1000.0, 0.0, -3.0], [300.0, 0.1, 1.0]


def _numbers(rows=60, seed=0):
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(rows, 1, generator=generator)
    y = z @ torch.tensor([[1.0, -1.0, 0.5]]) + 0.5 * torch.randn(rows, 3, generator=generator)
    return torch.tensor(LOC) + torch.tensor(SCALE) * y


@pytest.fixture
def table(tmp_path):
    """A csv of three columns of unequal scale and a class in words; a path."""
    frame = pd.DataFrame(_numbers().numpy(), columns=["income", "share", "heat"])
    frame.insert(1, "kind", [["oak", "ash", "elm"][i % 3] for i in range(len(frame))])
    frame.to_csv(tmp_path / "trees.csv", index=False)
    return tmp_path / "trees.csv"


def test_the_class_column_is_taken_out_and_names_are_kept(table):
    data = load(str(table), label_column="kind")
    assert data.columns == ("income", "share", "heat") and data.data_dim == 3
    assert "classes by kind (ash = 0, elm = 1, oak = 2)" in data.description
    frame = pd.read_csv(table)
    for part in ("train", "validation", "test"):
        for row, label in zip(data.part(part), getattr(data, f"{part}_labels"), strict=True):
            at = (frame["income"] - float(row[0])).abs().idxmin()
            assert ["ash", "elm", "oak"][int(label)] == frame["kind"][at]


def test_a_file_without_a_header_names_its_columns_by_number(tmp_path):
    rows = [f"{i / 7},{i % 2},{'' if i == 5 else 'ab'[i % 2]}" for i in range(30)]
    (tmp_path / "x.csv").write_text("\n".join(rows))
    data = load(str(tmp_path / "x.csv"), label_column="2")
    assert data.columns == ("0", "1")
    every = torch.cat([data.train_labels, data.validation_labels, data.test_labels])
    assert sorted(every.unique().tolist()) == [-1, 0, 1] and int((every < 0).sum()) == 1  # an empty cell is no class


def test_what_looks_like_no_measurement_is_pointed_at(table, tmp_path):
    frame = pd.read_csv(table)
    frame["kind"] = frame["kind"].map({"ash": 0, "elm": 1, "oak": 2})
    frame.to_csv(tmp_path / "coded.csv")  # with the row numbers that pandas writes
    said = load(str(tmp_path / "coded.csv")).description
    assert "'kind' holds only 3 different whole numbers: if it is the class, say --label-column kind" in said
    assert "column 'Unnamed: 0' numbers the rows" in said
    frame.to_csv(tmp_path / "clean.csv", index=False)
    assert "column" not in load(str(tmp_path / "clean.csv"), label_column="kind").description.split("classes by")[1]
    pd.DataFrame(np.eye(20)).to_csv(tmp_path / "bits.csv", index=False, header=False)
    assert "holds only" not in load(str(tmp_path / "bits.csv")).description


def _built(standard):
    """One model and guide, and the same parts told to standardise."""
    torch.manual_seed(0)
    decoder, encoder = networks.MLP(1, 3, hidden=[4]), networks.MLP(3, hidden=[4])
    noise = likelihoods.Normal(0.5)
    if standard:
        noise, encoder = likelihoods.Standardized(noise, LOC, SCALE), networks.Standardized(encoder, LOC, SCALE)
    return LatentVariableModel(priors.StandardNormal(1), decoder, noise), guides.Normal(1, encoder)


def test_a_standardised_evidence_is_one_of_the_original_units():
    """Both ways of standardising, in the model and of the data, differ by the Jacobian alone."""
    x = _numbers()
    inside = log_evidence(*_built(True), x, ELBO(5), seed=1).log_px
    outside = log_evidence(*_built(False), (x - torch.tensor(LOC)) / torch.tensor(SCALE), ELBO(5), seed=1).log_px
    torch.testing.assert_close(inside, outside - torch.tensor(SCALE).double().log().sum(), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("noise", [likelihoods.Normal(0.5), likelihoods.Laplace(0.5), likelihoods.StudentT()])
def test_a_rescaled_law_is_that_of_the_rescaled_draw(noise):
    h = torch.randn(7, noise.num_params * 3)
    base, law = noise(h).base_dist, likelihoods.Standardized(noise, LOC, SCALE)(h)
    loc, scale = torch.tensor(LOC), torch.tensor(SCALE)
    x = loc + scale * torch.randn(7, 3)
    torch.testing.assert_close(law.log_prob(x), (base.log_prob((x - loc) / scale) - scale.log()).sum(-1))
    torch.testing.assert_close(law.mean, loc + scale * base.mean)
    torch.testing.assert_close(law.variance, scale.square() * base.variance)
    assert law.expand([2, 7]).log_prob(x).shape == (2, 7)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        drawn = law.sample()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.testing.assert_close(drawn, loc + scale * base.sample())


def test_a_normal_of_rescaled_numbers_is_the_normal_with_the_other_moments():
    h = torch.randn(4, 3)
    law = likelihoods.Standardized(likelihoods.Normal(0.5), LOC, SCALE)(h)
    loc, scale = torch.tensor(LOC), torch.tensor(SCALE)
    x = loc + scale * torch.randn(4, 3)
    exact = dist.Normal(loc + scale * h, 0.5 * scale).to_event(1)
    torch.testing.assert_close(law.log_prob(x), exact.log_prob(x))


def test_what_cannot_be_standardised_is_refused():
    with pytest.raises(ValueError, match="on the real line, entry by entry, got Poisson"):
        likelihoods.Standardized(likelihoods.Poisson(), LOC, SCALE)
    with pytest.raises(ValueError, match="the smallest 0; drop columns that are constant"):
        likelihoods.Standardized(likelihoods.Normal(), LOC, [1.0, 0.0, 1.0])
    with pytest.raises(ValueError, match="got 1"):  # it would have been repeated over the columns, in silence
        likelihoods.Standardized(likelihoods.Normal(), LOC, SCALE)(torch.zeros(5, 1))


def test_missing_entries_are_the_mean_for_a_standardised_encoder():
    seen = networks.Standardized(torch.nn.Identity(), LOC, SCALE, masked=True)
    x, mask = torch.tensor([[700.0, 0.1, -3.0]]), torch.tensor([[0.0, 1.0, 1.0]])
    torch.testing.assert_close(seen(torch.cat([x * mask, mask], -1)), torch.tensor([[0.0, 1, 0, 0, 1, 1]]))


def test_units_are_of_the_training_rows_and_leave_holes_out():
    x = _numbers()
    holed = x.clone()
    holed[:5, 1] = torch.nan
    data = Dataset("x", None, holed, x + 1e3, x - 1e3)
    found = units(data)
    assert found["loc"] == pytest.approx(
        [float(m) for m in (x[:, 0].mean(), x[5:, 1].mean(), x[:, 2].mean())], rel=1e-4
    )
    assert found["scale"][1] == pytest.approx(float(x[5:, 1].std(correction=0)), rel=1e-4)


def test_both_networks_of_a_recipe_are_given_the_units_of_the_training_rows():
    x = _numbers()
    data = Dataset("x", None, x, x + 1e3, x - 1e3)
    model, guide = build_pair(Recipe(latent_dim=1, likelihood="normal", hidden=(4,), standardize=True), data)
    for block in (model.likelihood, guide.encoder):
        assert {"loc": block.loc, "scale": block.scale} == units(data)
    flat = torch.cat([x, torch.full((60, 7), 2.0)], 1)
    with pytest.raises(ValueError, match=r"column\(s\) 3, 4, 5, 6, 7 and 2 more are constant"):
        units(Dataset("x", None, flat, flat, flat))


def test_columns_of_unequal_scale_are_named_where_they_can_be_mended():
    normal, x = likelihoods.Normal(), _numbers()
    data = Dataset("x", None, x, x, x, columns=("income", "share", "heat"))
    said = unequal_scales(data, normal)
    assert "'income' is 3" in said and "'share'" in said and said.endswith("--standardize.")
    alike = (x - torch.tensor(LOC)) / torch.tensor(SCALE)
    assert unequal_scales(Dataset("x", None, alike, alike, alike), normal) is None
    assert unequal_scales(data, likelihoods.Poisson()) is None  # counts have no other unit
    assert unequal_scales(data, likelihoods.Standardized(normal, LOC, SCALE)) is None
    assert unequal_scales(Dataset("x", None, x, x, x, image_shape=(1, 1, 3)), normal) is None


FIT = ["--likelihood", "normal", "--hidden", "8", "--latent-dim", "1", "--quiet", "--batch-size", "20"]


def test_the_true_cause_of_a_terrible_bound_is_said_and_its_mend_mends_it(table, tmp_path, capsys):
    words = ["fit", str(table), *FIT, "--label-column", "kind", "--epochs", "40"]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert said.count("the columns differ in scale: the standard deviation of column 'income'") == 2  # before and after
    assert "collapse" not in said
    terrible = float(said.split("test bound ")[1].split()[0])
    assert main([*words, "--standardize", "--out", str(tmp_path / "r")]) == 0
    said = capsys.readouterr().out
    better = float(said.split("test bound ")[1].split()[0])
    assert "differ in scale" not in said and terrible < -1e4 and better > -20.0

    run = load_run(tmp_path / "r")
    x = load(str(table), label_column="kind").test
    again = log_evidence(run.model, run.guide, x, ELBO(100), seed=0)
    recorded = json.loads((tmp_path / "r" / "evidence.json").read_text())[0]["mean"]
    assert again.mean == pytest.approx(recorded, rel=1e-5) == pytest.approx(better, abs=0.01)
    assert main(["sample", str(tmp_path / "r"), "--count", "50", "--out", str(tmp_path / "s.npz")]) == 0
    drawn = pd.read_csv(tmp_path / "s.csv")
    assert list(drawn.columns) == ["income", "share", "heat"]
    assert 800 < drawn["income"].mean() < 1200 and abs(drawn["share"].mean()) < 0.1  # in the original units
    capsys.readouterr()
    assert (
        main(["use", str(tmp_path / "r"), "impute", "--draws", "50", "--hole", "random", "--out", str(tmp_path)]) == 0
    )
    said, found = capsys.readouterr().out, arrays(tmp_path / "impute.npz")
    train = load(str(table), label_column="kind").train.double().numpy()
    unit = train.std(0)
    expected = {
        "by the posterior mean": found["mean"],
        "by the mean of the training data": np.where(found["hole"], train.mean(0), found["data"]),
        "by one draw": found["draws"][0],
    }
    for words, guess in expected.items():
        error = np.sqrt(np.square((guess - found["data"]) / unit)[found["hole"]].mean())
        assert f"{error:.4f} {words}" in said, (error, said)
    assert "in standard deviations of their columns" in said


def test_a_table_with_holes_is_refused_by_the_column_and_goes_through_as_missing(table, tmp_path, capsys):
    frame = pd.read_csv(table)
    frame.loc[7, "heat"] = np.nan
    frame.to_csv(tmp_path / "holes.csv", index=False)
    words = ["fit", str(tmp_path / "holes.csv"), *FIT, "--label-column", "kind", "--standardize", "--epochs", "1"]
    assert main(words) == 2
    assert "nan at row 7, column 'heat'" in capsys.readouterr().err
    assert main([*words, "--guide", "masked-normal", "--out", str(tmp_path / "r")]) == 0
    assert main(["evidence", str(tmp_path / "r"), "--samples", "5"]) == 0
    whole = torch.cat(
        [
            load(str(tmp_path / "holes.csv"), label_column="kind", missing=True).part(p)
            for p in ("train", "validation", "test")
        ]
    )
    assert int(whole.isnan().sum()) == 1


def test_pseudo_inputs_of_a_table_are_not_squeezed_into_the_unit_interval():
    x = _numbers()
    recipe = Recipe(
        latent_dim=1, prior="vamp-prior", prior_args={"num_pseudo_inputs": 5}, likelihood="normal", hidden=(4,)
    )
    model, _ = build_pair(recipe, Dataset("x", None, x, x, x))
    assert float(model.prior.pseudo_inputs.detach()[:, 0].min()) > 100.0
    grey = torch.rand(30, 4)
    bounded, _ = build_pair(recipe, Dataset("x", "grey", grey, grey, grey))
    assert bounded.prior.bounded


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label_column": "species"}, "no column 'species'; the columns are income, kind, share, heat"),
        ({}, "column 'kind' holds other values, 'oak' among them; .*--label-column kind"),
    ],
)
def test_what_is_wrong_with_a_table_is_named(table, options, message):
    with pytest.raises(DataError, match=message):
        load(str(table), **options)


def test_a_shown_grid_fits_its_likelihood():
    """Sixteenths under a likelihood of grey levels: the command knows how many there are."""
    data = load("digits")
    recipe = Recipe(latent_dim=1, likelihood="discretized-logistic", hidden=(4,))
    model, guide = build_pair(recipe, data)
    assert model.likelihood.levels == data.levels == 17
    run = fit(model, guide, data.train[:50], objective=SGVB(), steps=1, progress=False)
    assert np.isfinite(run.history["bound"]).all()
    assert build_pair(recipe, load("digits", variant="static"))[0].likelihood.levels == 2
