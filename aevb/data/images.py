"""Pictures by name: digits, MNIST, Fashion-MNIST and the Frey faces, as pixels in [0, 1]."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from aevb.data.dataset import DataError, Dataset
from aevb.data.splits import as_matrix, make_dataset, split

__all__ = ["data_folder", "load_digits", "load_frey_face", "load_mnist"]

SHUFFLE = 0  # The named splits are part of the data: no user's seed moves them.


def data_folder(data_dir: str | Path | None) -> Path:
    """Return the folder of data files: ``data_dir``, else AEVB_DATA, else ``~/.cache/aevb``."""
    return Path(data_dir or os.environ.get("AEVB_DATA") or Path.home() / ".cache" / "aevb").expanduser()


def load_digits(variant: str | None, seed: int) -> Dataset:
    """Load scikit-learn's digits, pixels / 16, split 1437 / 160 / 200."""
    from sklearn.datasets import load_digits as read

    x, y = read(return_X_y=True)
    sizes = (1437, 160, 200)
    parts = split(torch.from_numpy(x / 16).float(), sizes, SHUFFLE)
    labels = split(torch.from_numpy(y).long(), sizes, SHUFFLE)
    text = "scikit-learn's digits, 1437 train / 160 validation / 200 test by a fixed shuffle, pixels / 16"
    return make_dataset("digits", variant, parts, labels, (1, 8, 8), text, seed, levels=17)


def load_mnist(name: str, variant: str | None, data_dir: str | Path | None, seed: int) -> Dataset:
    """Load ``mnist`` or ``fashion-mnist`` through torchvision, pixels / 255, split 50,000 / 10,000 / 10,000.

    The validation part is the last 10,000 of torchvision's 60,000 training pictures.

    Raises:
        DataError: if the files are missing and cannot be downloaded, or cannot be read.
    """
    folder = data_folder(data_dir)
    (x, y), (x_test, y_test) = (_read_torchvision(name, folder, train) for train in (True, False))
    sizes = (50_000, 10_000)
    parts = dict(zip(("train", "validation"), x.split(sizes), strict=True)) | {"test": x_test}
    labels = dict(zip(("train", "validation"), y.split(sizes), strict=True)) | {"test": y_test}
    title = {"mnist": "MNIST", "fashion-mnist": "Fashion-MNIST"}[name]
    text = f"{title}, 50,000 train / 10,000 validation / 10,000 test (validation: the last of the 60,000), pixels / 255"
    return make_dataset(name, variant, parts, labels, (1, 28, 28), text, seed, levels=256)


def load_frey_face(variant: str | None, data_dir: str | Path | None, seed: int) -> Dataset:
    """Load the Frey faces, pixels / 255, split 1600 / 165 / 200.

    Pixels are k / 255, as of all pictures here, which is the grid of a discretised logistic likelihood. Auto-Encoding
    Variational Bayes states neither its split nor its scaling; the 1600 training frames are those of Kingma's later
    public code, where the other 365 are one part. That code divides by 256: to hold a log-density beside one of pixels
    / 256, add 560 log(256 / 255) = 2.19 nats per frame to it (a probability of the grid has no such term).

    Raises:
        DataError: if ``frey_face/frey_rawface.mat`` is missing or cannot be read.
    """
    path = data_folder(data_dir) / "frey_face" / "frey_rawface.mat"
    if not path.is_file():
        raise DataError(
            f"frey-face: expected the file {path}, found none; get frey_rawface.mat (Sam Roweis's page of data at "
            "New York University), put it there, or name the folder above it by --data-dir or AEVB_DATA."
        )
    parts = split(_read_frey(path), (1600, 165, 200), SHUFFLE)
    text = "Frey faces, 1600 train / 165 validation / 200 test frames by a fixed shuffle, pixels / 255"
    return make_dataset("frey-face", variant, parts, None, (1, 28, 20), text, seed, levels=256)


def _read_frey(path: Path) -> Tensor:
    from scipy.io import loadmat

    try:
        pixels = np.asarray(loadmat(path)["ff"]).T
    except Exception as error:
        raise DataError(
            f"frey-face: expected a MATLAB file with the array 'ff', cannot read {path}: {error}"
        ) from error
    if pixels.shape != (1965, 560):
        raise DataError(f"frey-face: expected 560 x 1965 pixels, got {pixels.shape[::-1]} in {path}; get it again.")
    return as_matrix(pixels.astype(np.float32) / 255, "frey-face")[0]


def _read_torchvision(name: str, folder: Path, train: bool) -> tuple[Tensor, Tensor]:
    from torchvision import datasets

    reader = {"mnist": datasets.MNIST, "fashion-mnist": datasets.FashionMNIST}[name]
    if not _has_files(reader, folder):
        _download(name, reader, folder)
    try:
        pictures = reader(folder, train=train)
    except Exception as error:
        raise DataError(
            f"{name}: cannot read the files in {folder / reader.__name__ / 'raw'} ({error}); "
            "delete that folder to have them downloaded again, or name another by --data-dir or AEVB_DATA."
        ) from error
    expected = (60_000 if train else 10_000, 28, 28)
    if tuple(pictures.data.shape) != expected:
        raise DataError(f"{name}: expected pictures {expected}, got {tuple(pictures.data.shape)} in {folder}.")
    return pictures.data.flatten(1).float() / 255, pictures.targets.long()


def _has_files(reader: Any, folder: Path) -> bool:
    raw = folder / reader.__name__ / "raw"
    names = (Path(archive).stem for archive, _ in reader.resources)
    return all((raw / name).is_file() for name in names)


def _download(name: str, reader: Any, folder: Path) -> None:
    try:
        with _timeout(20.0):
            reader(folder, download=True)
    except Exception as error:
        raise DataError(
            f"{name}: no files in {folder / reader.__name__ / 'raw'} and the download failed ({error}); put them "
            "there, or name the folder that holds them by --data-dir or AEVB_DATA."
        ) from error


@contextmanager
def _timeout(seconds: float) -> Iterator[None]:
    """Keep a network that swallows packets from hanging the download; torchvision sets no limit."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
