import numpy as np
import pandas as pd
import pytest
import torch

from aevb import figures
from aevb.inference import Calibration


def history(start: float = -150.0, **columns) -> pd.DataFrame:
    seen = 1000.0 * np.arange(1, 51)
    bound = -100 + (start + 100) / (seen / 1000)
    return pd.DataFrame({"epoch": range(1, 51), "samples_seen": seen, "bound": bound} | columns)


def picture(figure) -> np.ndarray:
    return np.asarray(figure.axes[0].get_images()[0].get_array())


def test_curves_are_solid_in_training_and_dashed_in_validation():
    checked = np.where(np.arange(50) % 5 == 0, -110.0, np.nan)
    axes = figures.curves({"a": history(validation_bound=checked), "b": history()}).axes[0]
    drawn = [line for line in axes.get_lines() if len(line.get_xdata())]
    assert [line.get_linestyle() for line in drawn] == ["-", "--", "-"]
    assert drawn[0].get_color() == drawn[1].get_color() != drawn[2].get_color()
    assert np.isfinite(drawn[1].get_ydata()).all() and len(drawn[1].get_xdata()) == 10
    assert axes.get_xscale() == "log"
    assert "nats per datapoint" in axes.get_ylabel()


def test_curves_have_a_band_of_one_standard_error():
    told = history(bound_error=2.0, validation_bound=np.where(np.arange(50) % 5 == 0, -110.0, np.nan))
    axes = figures.curves({"a": told.assign(validation_bound_error=3.0), "b": history()}).axes[0]
    bands = [band.get_paths()[0].vertices for band in axes.collections]
    assert len(bands) == 2
    ends = bands[0][np.isclose(bands[0][:, 0], 50_000.0), 1]
    assert (ends.min(), ends.max()) == (pytest.approx(-101.0 - 2.0), pytest.approx(-101.0 + 2.0))
    assert (bands[1][:, 1].min(), bands[1][:, 1].max()) == (-113.0, -107.0)


def test_curves_cut_a_steep_start_but_no_end():
    axes = figures.curves({"a": history(start=-1e5)}).axes[0]
    low, high = axes.get_ylim()
    assert low > -0.6e5 and high > -100 - 1e5 / 50
    falling = history()
    falling["bound"] = np.linspace(-100, -200, 50)
    assert figures.curves({"a": falling}).axes[0].get_ylim()[0] <= -200


def test_curves_stand_zeros_one_row_and_nothing_finite(tmp_path):
    zero = history()
    zero.loc[0, "epoch"] = 0
    assert figures.curves({"a": zero}, x="epoch").axes[0].get_xscale() == "linear"
    for rows in (history()[:1], history(validation_bound=np.nan), history().assign(bound=np.nan)):
        figures.save(figures.curves({"a": rows}), tmp_path / "a.png", dpi=40)


def test_curves_name_the_missing_column():
    with pytest.raises(ValueError, match="no column 'elbo' in 'a', only epoch, samples_seen, bound"):
        figures.curves({"a": history()}, y="elbo")
    with pytest.raises(ValueError, match="at least one"):
        figures.curves({})


def test_image_grid_lays_pictures_out_row_by_row():
    images = torch.arange(6.0)[:, None].expand(6, 4) / 10
    mosaic = picture(figures.image_grid(images, (1, 2, 2), rows=2, cols=3))
    assert mosaic.shape == (2 * 3, 3 * 3)
    np.testing.assert_allclose(mosaic[0::3, 0::3], [[0.0, 0.1, 0.2], [0.3, 0.4, 0.5]])
    assert picture(figures.image_grid(torch.rand(25, 4), (1, 2, 2))).shape == (15, 15)
    assert picture(figures.image_grid(torch.rand(7, 12), (3, 2, 2), cols=4)).shape == (6, 12, 3)


def test_image_grid_keeps_the_orientation():
    image = torch.tensor([[0.0, 1.0, 0.25, 0.5, 0.75, 0.0]])
    np.testing.assert_allclose(
        picture(figures.image_grid(image, (1, 2, 3)))[:2, :3], [[0, 1, 0.25], [0.5, 0.75, 0]], atol=1e-6
    )


def test_image_grid_names_the_expected_shape():
    with pytest.raises(ValueError, match=r"expected shape \[N, 784\].*got \[3, 100\]"):
        figures.image_grid(torch.zeros(3, 100), (1, 28, 28))


def test_reconstructions_pair_data_and_model():
    figure = figures.reconstructions(torch.zeros(5, 4), torch.full((5, 4), 0.5), (1, 2, 2), cols=3)
    mosaic = picture(figure)
    np.testing.assert_allclose(mosaic[0::3, 0], [0, 0.5, 0, 0.5])
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == ["data", "model"] * 2
    with pytest.raises(ValueError, match="got 4 and 5"):
        figures.reconstructions(torch.zeros(5, 4), torch.zeros(4, 4), (1, 2, 2))


@pytest.mark.parametrize(("grid", "n", "edge"), [("kingma", 10, 0.05), ("su", 15, 0.05)])
def test_manifold_has_z1_to_the_right_and_z2_upward(grid, n, edge):
    asked = []

    def decode(z):
        asked.append(z)
        return torch.special.ndtr(z[:, :1] if len(asked) == 1 else z[:, 1:])

    right, up = (picture(figures.manifold(decode, (1, 1, 1), grid)) for _ in range(2))
    assert right.shape == (2 * n, 2 * n) and (right[1::2] == 1).all()  # white between the pictures
    right, up = right[::2, ::2], up[::2, ::2]
    assert right.shape == (n, n) and asked[0].shape == (n * n, 2)
    np.testing.assert_allclose(right[0], np.linspace(edge, 1 - edge, n), atol=1e-5)
    np.testing.assert_allclose(up[:, 0], np.linspace(1 - edge, edge, n), atol=1e-5)


def test_manifold_names_the_grids():
    with pytest.raises(ValueError, match="kingma, su, linear, got 'square'"):
        figures.manifold(lambda z: z, (1, 1, 2), grid="square")


def test_latent_scatter_names_every_class():
    z, labels = torch.randn(30, 2), torch.arange(30) % 3
    axes = figures.latent_scatter(z, labels).axes[0]
    assert [text.get_text() for text in axes.texts] == ["0", "1", "2"]
    assert len(figures.latent_scatter(z).axes[0].collections) == 1
    with pytest.raises(ValueError, match=r"got \[30, 3\]"):
        figures.latent_scatter(torch.zeros(30, 3))


def test_evidence_forest_points_from_a_bound_to_the_truth():
    rows = [
        {"method": "elbo", "split": "test", "direction": "lower bound", "mean": -99.0, "standard_error": 0.4},
        {"method": "bdmc", "split": "test", "direction": "upper bound", "mean": -95.0, "standard_error": 0.3},
        {"method": "exact", "split": "train", "direction": "estimate", "mean": -96.0, "standard_error": None},
    ]
    axes = figures.evidence_forest(rows).axes[0]
    drawn = [(line.get_xdata()[0], line.get_marker()) for line in axes.get_lines() if len(line.get_xdata()) == 1]
    assert {(-99.0, ">"), (-95.0, "<"), (-96.0, "o")} <= set(drawn)
    assert [text.get_text() for text in axes.get_yticklabels()] == ["elbo (test)", "bdmc (test)", "exact (train)"]
    with pytest.raises(ValueError, match="at least one row"):
        figures.evidence_forest([])


def test_khat_histogram_counts_what_is_not_finite_as_untrustworthy():
    figure = figures.khat_histogram(torch.tensor([0.1, 0.2, 0.68, float("inf")]), num_samples=1000)
    assert figure.axes[0].get_title(loc="left") == "50 % of 4 datapoints above 0.67"
    assert figure.axes[0].lines[0].get_xdata()[0] == pytest.approx(2 / 3)
    assert figures.khat_histogram([0.1, 0.68], 5000).axes[0].get_title(loc="left") == "0 % of 2 datapoints above 0.70"
    assert "1 not finite" in figure.axes[0].get_xlabel()
    with pytest.raises(ValueError, match="finite k-hat"):
        figures.khat_histogram([float("nan")], 1000)


def test_weight_concentration_of_equal_and_of_single_weights():
    equal, single = torch.zeros(10, 3), torch.zeros(10, 3).index_fill(0, torch.tensor(4), 1000.0)
    np.testing.assert_allclose(figures.weight_concentration(equal).axes[0].get_lines()[0].get_ydata()[0], 0.1)
    np.testing.assert_allclose(figures.weight_concentration(single).axes[0].get_lines()[0].get_ydata()[0], 1.0)
    with pytest.raises(ValueError, match=r"\[K, N\], got \[10\]"):
        figures.weight_concentration(torch.zeros(10))


def noise(**snr: float) -> pd.DataFrame:
    rows = [
        {
            "objective": name,
            "player": "guide",
            "block": block,
            "variance": 4.0,
            "variance_low": 1.0,
            "variance_high": 9.0,
        }
        | {"mean_norm": 2 * ratio, "snr": ratio, "size": 3.0}
        for name, ratio in snr.items()
        for block in ("weight", "bias")
    ]
    return pd.DataFrame(rows)


def test_gradient_noise_has_a_line_a_block_and_the_bars_of_both_panels():
    left, right = figures.gradient_noise(noise(sgvb=1.0, dreg=3.0)).axes
    assert [text.get_text() for text in left.get_yticklabels()] == ["weight", "bias"]
    points = [container[0].get_xydata() for container in right.containers]
    np.testing.assert_allclose([point[:, 0] for point in points], [[1.0, 1.0], [3.0, 3.0]])
    assert (points[0][:, 1] > points[1][:, 1]).all()  # the first objective on top
    bars = [container[2][0].get_segments()[0][:, 0] for container in (left.containers[1], right.containers[1])]
    np.testing.assert_allclose(bars, [[1.0, 9.0], [2.0, 6.0]])  # 3 sqrt(4 / 9) to 3 sqrt(4 / 1)
    with pytest.raises(ValueError, match="one of guide, got 'model'"):
        figures.gradient_noise(noise(sgvb=1.0), "model")


def ranks(*concentrations: float, simulations: int = 500) -> Calibration:
    """Ranks of a symmetric beta law a dimension: below one at the ends (too narrow), above one in the middle."""
    generator = np.random.default_rng(0)
    fractions = np.stack([generator.beta(c, c, simulations) for c in concentrations], axis=1)
    return Calibration({"z": torch.as_tensor(np.minimum(fractions * 100, 99)).long()}, 99)


def test_rank_histograms_show_the_worst_dimensions_first_and_colour_what_leaves_the_band():
    figure = figures.rank_histograms(ranks(1.0, 0.4, 1.0, 2.5, 1.0), worst=3, bins=10)
    assert [axes.get_title(loc="left") for axes in figure.axes][:2] == ["z[1]", "z[3]"] and len(figure.axes) == 3
    counts, colours = zip(
        *((bar.get_height(), bar.get_facecolor()) for bar in figure.axes[0].patches if bar.get_width() < 0.5),
        strict=True,
    )
    assert sum(counts) == 500 and len(counts) == 10
    low, high = ranks(1.0).histogram("z", 10)[2:]
    assert {colour for count, colour in zip(counts, colours, strict=True) if low <= count <= high} == {colours[0]}
    assert len(set(colours)) == 2
    assert "the 3 worst of 5 dimensions" in figure.get_supxlabel()


def test_rank_ecdf_names_the_dimensions_that_the_verdict_names():
    good, bad = ranks(1.0, 1.0), ranks(1.0, 0.5, 1.0, 3.0)
    figure = figures.rank_ecdf({"guide": bad, "HMC": good})
    assert [axes.get_title(loc="left") for axes in figure.axes] == [
        "guide: 2 of 4 outside the band",
        "HMC: 0 of 2 outside the band",
    ]
    named = {line.get_label() for line in figure.axes[0].get_lines()} & {f"z[{j}]" for j in range(4)}
    assert named == {f"z[{j}]" for j in torch.nonzero(bad.miscalibrated("z")).flatten().tolist()} == {"z[1]", "z[3]"}
    assert figure.axes[0].get_ylim() == figure.axes[1].get_ylim()


def test_rank_figures_ask_which_latent():
    two = Calibration({"z": torch.zeros(20, 1).long(), "y": torch.zeros(20, 1).long()}, 99)
    with pytest.raises(ValueError, match=r"one of the latents \['z', 'y'\], got None; name it: site='z'"):
        figures.rank_ecdf(two)
    with pytest.raises(ValueError, match="got 'w'"):
        figures.rank_histograms(two, "w")
    with pytest.raises(ValueError, match="at least one calibration"):
        figures.rank_ecdf({})


def test_save_makes_the_folder_and_no_pyplot(tmp_path):
    path = figures.save(figures.khat_histogram([0.1, 0.5], 1000), tmp_path / "deep" / "k.png", dpi=40)
    assert path.read_bytes().startswith(b"\x89PNG")
