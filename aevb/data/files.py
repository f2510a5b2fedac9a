"""Your own data: a path to .npy, .npz or .csv becomes a data set."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aevb.data.dataset import PARTS, DataError, Dataset
from aevb.data.splits import as_matrix, make_dataset, split

__all__ = ["SUFFIXES", "load_file"]

SUFFIXES = (".npy", ".npz", ".csv")
Arrays = dict[str, NDArray[Any]]


def load_file(path: Path, variant: str | None, seed: int) -> Dataset:
    """Load the numbers in ``path`` as they are, as float32, and split them.

    A .npy or .csv file is one array (a csv may have a header line of words). In a .npz file the keys ``train``,
    ``validation`` and ``test`` are those parts, and ``train_labels`` and so on (or ``labels``, of the
    training array) the classes; a single array under any other name is taken whole. What is not given is
    split off at random by ``seed``: 80/10/10, or a tenth of ``train`` for validation where ``test`` is given.

    Raises:
        DataError: if the file is missing, unreadable, empty, not finite or of the wrong shape.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file.")
    arrays = _read(path)
    matrices = {key: as_matrix(arrays[key], f"{path} ({key})") for key in PARTS if key in arrays}
    shapes = {shape or x.shape[1:] for x, shape in matrices.values()}
    if len(shapes) > 1:
        raise DataError(f"{path}: expected parts with datapoints of one shape, got {sorted(map(tuple, shapes))}.")
    labels = {key: _labels(path, arrays, key, len(matrices[key][0])) for key in matrices}
    parts = {key: x for key, (x, _) in matrices.items()}
    parts, labels = _complete(path, parts, labels, seed)
    sizes = " / ".join(f"{len(parts[key])} {key}" for key in PARTS)
    how = "parts as given" if set(matrices) == set(PARTS) else "parts not given drawn by a seeded shuffle"
    named = {key: y for key, y in labels.items() if y is not None}
    text = f"{path.name}, {sizes}, {how}"
    return make_dataset(str(path), variant, parts, named, matrices["train"][1], text, seed)


def _read(path: Path) -> Arrays:
    try:
        if path.suffix.lower() == ".csv":
            return {"train": _read_csv(path)}
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return {"train": loaded}
        with loaded:
            arrays = {key: loaded[key] for key in loaded.files}
    except DataError:
        raise
    except Exception as error:
        raise DataError(f"{path}: expected a readable {path.suffix} file of numbers: {error}") from error
    return _name_parts(path, arrays)


def _read_csv(path: Path) -> NDArray[Any]:
    import pandas as pd

    first = pd.read_csv(path, header=None, nrows=1)
    has_header = pd.to_numeric(first.iloc[0], errors="coerce").isna().all()
    frame = pd.read_csv(path, header=0 if has_header else None)
    if frame.empty:
        return np.empty(frame.shape)
    for column in frame:
        if not pd.api.types.is_numeric_dtype(frame[column]):
            raise DataError(f"{path}: expected numbers, column {column!r} holds other values; drop or encode it.")
    return frame.to_numpy(dtype=np.float64)


def _name_parts(path: Path, arrays: Arrays) -> Arrays:
    data = [key for key in arrays if key != "labels" and not key.endswith("_labels")]
    if "train" not in arrays and len(data) == 1 and data[0] not in PARTS:
        arrays["train"] = arrays.pop(data[0])
    if "train" not in arrays:
        raise DataError(f"{path}: expected a key 'train' (and validation, test, labels), got {', '.join(arrays)}.")
    return arrays


def _labels(path: Path, arrays: Arrays, part: str, n: int) -> Tensor | None:
    key = "labels" if part == "train" and "train_labels" not in arrays else f"{part}_labels"
    if key not in arrays:
        return None
    if arrays[key].shape != (n,):
        raise DataError(f"{path} ({key}): expected shape [{n}] as {part} has, got {list(arrays[key].shape)}.")
    if arrays[key].dtype.kind not in "biuf":
        raise DataError(f"{path} ({key}): expected numbers, got an array of type {arrays[key].dtype}; encode them.")
    return torch.as_tensor(arrays[key])


def _complete(
    path: Path, parts: dict[str, Tensor], labels: dict[str, Tensor | None], seed: int
) -> tuple[dict[str, Tensor], dict[str, Tensor | None]]:
    """Draw the parts that are not given from the training part."""
    missing = [key for key in PARTS if key not in parts]
    if not missing:
        return parts, labels
    x, y = parts["train"], labels["train"]
    tenths = {key: len(x) // 10 if key in missing else 0 for key in PARTS[1:]}
    if 0 in (tenths[key] for key in missing):
        raise DataError(f"{path}: expected at least 10 datapoints to split off {' and '.join(missing)}, got {len(x)}.")
    sizes = (len(x) - sum(tenths.values()), *tenths.values())
    fresh = split(x, sizes, seed)
    fresh_labels = split(y, sizes, seed) if y is not None else {}
    taken = ["train", *missing]
    return (
        parts | {key: fresh[key] for key in taken},
        labels | {key: fresh_labels.get(key) for key in taken},
    )
