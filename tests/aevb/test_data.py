import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.io import savemat
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.data import TensorDataset

from aevb.build import Recipe, build_pair
from aevb.data import DATASETS, DataError, Dataset, DynamicBinarisation, load
from aevb.data.splits import permutation

ROOT = Path(os.environ.get("AEVB_DATA", "/nonexistent"))
HERE = Path(__file__).resolve().parents[2]
has_mnist = pytest.mark.skipif(not (ROOT / "MNIST").is_dir(), reason="AEVB_DATA has no MNIST")
has_frey = pytest.mark.skipif(not (ROOT / "frey_face").is_dir(), reason="AEVB_DATA has no Frey faces")


def rows(part) -> torch.Tensor:
    return part[torch.arange(len(part))]


@pytest.fixture
def numbers() -> np.ndarray:
    return np.arange(100.0).reshape(50, 2)


def test_the_list_of_names_costs_no_pytorch():
    code = "import runpy, sys; runpy.run_path('aevb/data/names.py'); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=HERE)


# The named sets


def test_digits_are_scaled_and_split_once_for_all():
    data = load("digits")
    assert [len(data.train), len(data.validation), len(data.test)] == [1437, 160, 200]
    assert data.train.dtype == torch.float32
    assert data.train.min() == 0 and data.train.max() == 1
    everything = torch.cat([data.train, data.validation, data.test])
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    order = permutation(len(x), 0)
    torch.testing.assert_close(everything, torch.from_numpy(x[order] / 16).float())
    assert torch.equal(data.test_labels, torch.from_numpy(y[order])[-200:])
    assert torch.equal(load("digits", seed=5).test, data.test)


def test_the_shuffle_is_what_it_always_was():
    assert permutation(8, 0).tolist() == [3, 2, 1, 6, 0, 7, 4, 5]
    assert sorted(permutation(1000, 3)) == list(range(1000))


def test_toy_patterns_are_the_population_and_eight_schools_one_datapoint():
    toy = load("toy-patterns")
    assert torch.equal(toy.train, torch.eye(4)) and torch.equal(toy.test, toy.train)
    schools = load("eight-schools")
    assert isinstance(schools.train, TensorDataset) and len(schools.train) == 1
    y, sigma = schools.train[torch.tensor([0])]
    assert y.shape == sigma.shape == (1, 8)
    assert sigma[0, 0] == pytest.approx(0.8)
    assert load("eight-schools", variant="textbook").test[torch.tensor([0])][1][0, 0] == 1.5
    assert schools.data_dim == 8


@has_mnist
def test_mnist_has_the_usual_split():
    data = load("mnist", variant="grey")
    assert [tuple(part.shape) for part in (data.train, data.validation, data.test)] == [
        (50_000, 784),
        (10_000, 784),
        (10_000, 784),
    ]
    assert data.train.max() == 1 and data.train.min() == 0
    assert data.train_labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert data.test_labels[:5].tolist() == [7, 2, 1, 0, 4]
    assert data.validation_labels.bincount(minlength=10).tolist() == [
        *(991, 1064, 990, 1030, 983),
        *(915, 967, 1090, 1009, 961),
    ]
    assert data.train.mean() == pytest.approx(0.1307, abs=1e-3)


@has_frey
def test_frey_faces_hold_the_grid_that_a_discretised_logistic_scores():
    from aevb.inference import fit

    data = load("frey-face")
    assert [len(data.train), len(data.validation), len(data.test)] == [1600, 165, 200]
    assert data.image_shape == (1, 28, 20) and data.data_dim == 560 and data.levels == 256
    grid = data.train * 255
    torch.testing.assert_close(grid, grid.round(), rtol=0.0, atol=1e-4)
    assert data.train_labels is None and "pixels / 255" in data.description
    model, guide = build_pair(Recipe(latent_dim=2, likelihood="discretized-logistic", hidden=(4,)), data)
    run = fit(model, guide, data.train, validation=data.validation, steps=1, progress=False)
    assert np.isfinite(run.history["bound"]).all()


# Variants


def test_static_data_are_drawn_once_and_follow_the_seed():
    a, b, c = (load("digits", variant="static", seed=seed) for seed in (0, 0, 1))
    assert torch.equal(a.train, b.train) and torch.equal(a.test, b.test)
    assert not torch.equal(a.train, c.train)
    assert set(a.train.unique().tolist()) == {0.0, 1.0}


def test_dynamic_data_are_drawn_afresh_in_training_only():
    data = load("digits", variant="dynamic")
    index = torch.arange(100)
    assert not torch.equal(data.train[index], data.train[index])
    assert torch.equal(data.test, load("digits", variant="static").test)
    assert "afresh" in data.description


def test_dynamic_binarisation_has_the_grey_mean():
    grey = torch.tensor([[0.0, 0.1, 0.5, 1.0]])
    torch.manual_seed(0)
    draws = DynamicBinarisation(grey)[torch.zeros(40_000, dtype=torch.long)]
    error = (grey * (1 - grey) / 40_000).sqrt()
    assert ((draws.mean(0) - grey).abs() <= 4 * error).all()
    assert draws.unique().tolist() == [0.0, 1.0]


def test_dynamic_binarisation_is_traced_as_a_draw_not_a_constant():
    data = DynamicBinarisation(torch.full((10, 3), 0.5))
    graph = make_fx(lambda index: data[index])(torch.arange(4))
    assert "bernoulli" in graph.code
    index = torch.arange(10).repeat(20)
    assert not torch.equal(graph(index), graph(index))


def test_dynamic_binarisation_refuses_what_is_no_probability():
    with pytest.raises(DataError, match=r"in \[0, 1\], got -1 to 2"):
        DynamicBinarisation(torch.tensor([[-1.0, 2.0]]))


def test_dynamic_binarisation_moves():
    data = DynamicBinarisation(torch.rand(3, 2)).to(dtype=torch.float64)
    assert data.grey.dtype == torch.float64 and data.shape == (3, 2) and len(data) == 3


# Your own files


def test_an_array_is_split_80_10_10_with_nothing_lost(tmp_path, numbers):
    np.save(tmp_path / "x.npy", numbers)
    data = load(str(tmp_path / "x.npy"))
    assert [len(data.train), len(data.validation), len(data.test)] == [40, 5, 5]
    everything = torch.cat([data.train, data.validation, data.test])
    assert everything[:, 0].sort().values.tolist() == numbers[:, 0].tolist()
    assert not torch.equal(load(str(tmp_path / "x.npy"), seed=1).test, data.test)
    assert torch.equal(load(str(tmp_path / "x.npy"), seed=0).test, data.test)
    assert data.variant is None and data.image_shape is None


@pytest.mark.parametrize("header", ["", "a,b\n"])
def test_csv_with_and_without_a_header(tmp_path, numbers, header):
    path = tmp_path / "x.csv"
    path.write_text(header + "\n".join(",".join(map(str, row)) for row in numbers))
    data = load(str(path))
    assert sum(map(len, (data.train, data.validation, data.test))) == 50 and data.data_dim == 2


def test_npz_parts_are_honoured(tmp_path, numbers):
    np.savez(tmp_path / "x.npz", train=numbers[:30], validation=numbers[30:40], test=numbers[40:], labels=np.arange(30))
    data = load(str(tmp_path / "x.npz"))
    assert torch.equal(data.train, torch.from_numpy(numbers[:30]).float())
    assert torch.equal(data.test, torch.from_numpy(numbers[40:]).float())
    assert data.train_labels.tolist() == list(range(30)) and data.test_labels is None


def test_npz_labels_follow_the_rows_through_the_split(tmp_path, numbers):
    np.savez(tmp_path / "x.npz", x=numbers, labels=numbers[:, 0].astype(int))
    data = load(str(tmp_path / "x.npz"))
    for part in ("train", "validation", "test"):
        assert torch.equal(data.part(part)[:, 0].long(), getattr(data, f"{part}_labels"))


def test_npz_with_a_test_part_gives_a_tenth_of_train_to_validation(tmp_path, numbers):
    np.savez(tmp_path / "x.npz", train=numbers[:40], test=numbers[40:])
    data = load(str(tmp_path / "x.npz"))
    assert [len(data.train), len(data.validation), len(data.test)] == [36, 4, 10]


def test_pictures_are_flattened_and_remembered(tmp_path):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).random((20, 3, 4, 5)))
    data = load(str(tmp_path / "x.npy"), variant="static")
    assert data.train.shape == (16, 60) and data.image_shape == (3, 4, 5)
    assert data.train.unique().tolist() == [0.0, 1.0]


# Errors: each names what is wrong and the mend


@pytest.mark.parametrize(
    ("name", "kwargs", "message"),
    [
        ("minst", {}, "digits, mnist, fashion-mnist, frey-face, toy-patterns, eight-schools, or a path"),
        ("digits", {"variant": "gray"}, "expected one of grey, static, dynamic, got 'gray'"),
        ("toy-patterns", {"variant": "static"}, "expected none, got 'static'"),
        ("eight-schools", {"variant": "grey"}, "expected one of avb, textbook"),
        ("/no/such/file.npy", {}, "no such file"),
        ("/no/such/file.npy", {"variant": "blue"}, "got 'blue'"),
    ],
)
def test_unknown_names(name, kwargs, message):
    with pytest.raises(DataError, match=message):
        load(name, **kwargs)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.array([[0.0, 1.0], [np.nan, 2.0]]), "got nan at row 1, column 0"),
        (np.zeros(5), r"expected shape \[N, P\].*reshape\(-1, 1\)"),
        (np.zeros((0, 3)), "empty array"),
        (np.array([["a", "b"]]), "expected numbers"),
        (np.zeros((5, 2)), "at least 10 datapoints"),
    ],
)
def test_unusable_arrays(tmp_path, array, message):
    np.save(tmp_path / "x.npy", array)
    with pytest.raises(DataError, match=message) as error:
        load(str(tmp_path / "x.npy"))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".csv"])
def test_unreadable_and_empty_files(tmp_path, suffix):
    path = tmp_path / f"x{suffix}"
    for content in (b"", b"\x00\x01\x02\xff" * 10):
        path.write_bytes(content)
        with pytest.raises(DataError, match="x" + suffix):
            load(str(path))


def test_csv_with_words_names_the_column(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("a,b\n" + "1.0,red\n" * 20)
    with pytest.raises(DataError, match="column 'b'"):
        load(str(path))


def test_npz_mistakes_are_named(tmp_path, numbers):
    np.savez(tmp_path / "a.npz", first=numbers, second=numbers)
    with pytest.raises(DataError, match="expected a key 'train'"):
        load(str(tmp_path / "a.npz"))
    np.savez(tmp_path / "b.npz", train=numbers, test=numbers[:, :1])
    with pytest.raises(DataError, match="one shape"):
        load(str(tmp_path / "b.npz"))
    np.savez(tmp_path / "c.npz", train=numbers, labels=np.zeros(3))
    with pytest.raises(DataError, match=r"labels.*expected shape \[50\]"):
        load(str(tmp_path / "c.npz"))


def test_values_outside_the_unit_interval_cannot_be_binarised(tmp_path, numbers):
    np.save(tmp_path / "x.npy", numbers)
    with pytest.raises(DataError, match="rescale"):
        load(str(tmp_path / "x.npy"), variant="static")


def test_missing_downloads_name_the_folder_and_the_mends(tmp_path, monkeypatch):
    from torchvision import datasets

    def no_network(self):
        raise OSError("no route to host")

    monkeypatch.setattr(datasets.MNIST, "download", no_network)
    with pytest.raises(DataError, match="no route to host") as error:
        load("fashion-mnist", data_dir=tmp_path)
    for word in (str(tmp_path / "FashionMNIST" / "raw"), "--data-dir", "AEVB_DATA"):
        assert word in str(error.value)


def test_broken_mnist_files_are_named(tmp_path):
    from torchvision import datasets

    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for archive, _ in datasets.MNIST.resources:
        (raw / Path(archive).stem).write_bytes(b"nonsense")
    with pytest.raises(DataError, match="cannot read the files"):
        load("mnist", data_dir=tmp_path)


def test_missing_and_broken_frey_faces(tmp_path, monkeypatch):
    monkeypatch.setenv("AEVB_DATA", str(tmp_path))
    with pytest.raises(DataError, match="frey_rawface.mat.*AEVB_DATA"):
        load("frey-face")
    (tmp_path / "frey_face").mkdir()
    path = tmp_path / "frey_face" / "frey_rawface.mat"
    savemat(path, {"ff": np.zeros((560, 7), dtype=np.uint8)})
    with pytest.raises(DataError, match="got .560, 7."):
        load("frey-face")
    path.write_bytes(b"nonsense")
    with pytest.raises(DataError, match="cannot read"):
        load("frey-face")


def test_parts_are_asked_for_by_name():
    data = load("toy-patterns")
    assert data.part("test") is data.test
    with pytest.raises(DataError, match="expected one of train, validation, test, got 'tests'"):
        data.part("tests")


def test_every_name_says_what_it_is():
    for name, line in DATASETS.items():
        assert line.endswith(".") and "\n" not in line, name
    assert isinstance(load("digits"), Dataset)
