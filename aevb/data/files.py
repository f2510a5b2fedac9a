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
_MOST_CLASSES = 100
_FEW = 20  # different whole numbers: likelier classes than counts


def load_file(
    path: Path, variant: str | None, seed: int, *, label_column: str | None = None, missing: bool = False
) -> Dataset:
    """Load the numbers in ``path`` as they are, as float32, and split them.

    A .npy or .csv file is one array. A csv may have a header line of words, which are kept as the names of its
    columns; without one their names are 0, 1, ...; the column ``label_column`` holds classes, words or numbers, and
    is taken out of the data. NaN is kept where ``missing`` is true. In a .npz file the keys ``train``,
    ``validation`` and ``test`` are those parts, and ``train_labels`` and so on (or ``labels``, of the
    training array) the classes; a single array under any other name is taken whole. What is not given is
    split off at random by ``seed``: 80/10/10, or a tenth of ``train`` for validation where ``test`` is given.

    Raises:
        DataError: if the file is missing, unreadable, empty, not finite or of the wrong shape, or has no such column.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file.")
    if path.suffix.lower() == ".csv":
        arrays, columns, note = _read_csv(path, label_column)
    elif label_column is not None:
        raise DataError(f"{path}: only a .csv has a label column; put the classes under the key labels of a .npz.")
    else:
        arrays, columns, note = _read(path), (), ""
    matrices = {
        key: as_matrix(arrays[key], f"{path} ({key})", missing=missing, columns=columns)
        for key in PARTS
        if key in arrays
    }
    shapes = {shape or x.shape[1:] for x, shape in matrices.values()}
    if len(shapes) > 1:
        raise DataError(f"{path}: expected parts with datapoints of one shape, got {sorted(map(tuple, shapes))}.")
    labels = {key: _labels(path, arrays, key, len(matrices[key][0])) for key in matrices}
    parts = {key: x for key, (x, _) in matrices.items()}
    parts, labels = _complete(path, parts, labels, seed)
    sizes = " / ".join(f"{len(parts[key])} {key}" for key in PARTS)
    how = "parts as given" if set(matrices) == set(PARTS) else "parts not given drawn by a seeded shuffle"
    named = {key: y for key, y in labels.items() if y is not None}
    text = f"{path.name}, {sizes}, {how}{note}"
    return make_dataset(str(path), variant, parts, named, matrices["train"][1], text, seed, columns=columns)


def _read(path: Path) -> Arrays:
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return {"train": loaded}
        with loaded:
            arrays = {key: loaded[key] for key in loaded.files}
    except Exception as error:
        raise _unreadable(path, error) from error
    return _name_parts(path, arrays)


def _unreadable(path: Path, error: Exception) -> DataError:
    return DataError(f"{path}: expected a readable {path.suffix} file of numbers: {error}")


def _read_csv(path: Path, label_column: str | None) -> tuple[Arrays, tuple[str, ...], str]:
    """The table, its labels, its columns' names and what is to be said of it."""
    import pandas as pd

    try:
        first = pd.read_csv(path, header=None, nrows=1)
        has_header = pd.to_numeric(first.iloc[0], errors="coerce").isna().all()
        frame = pd.read_csv(path, header=0 if has_header else None).rename(columns=str)
    except Exception as error:
        raise _unreadable(path, error) from error
    frame, labels, note = _taken_out(path, frame, label_column)
    for column in frame if len(frame) else ():
        if not pd.api.types.is_numeric_dtype(frame[column]):
            raise DataError(
                f"{path}: expected numbers, column {column!r} holds other values, {frame[column].dropna().iloc[0]!r} "
                f"among them; drop it, encode it, or, if it is the class, name it: --label-column {column} "
                f"(load(..., label_column={column!r}))."
            )
    note += "".join(_suspects(frame, labelled=label_column is not None)) if len(frame) > 1 else ""
    table = frame.to_numpy(dtype=np.float64) if len(frame) else np.empty(frame.shape)
    return {"train": table, **labels}, tuple(map(str, frame.columns)), note


def _taken_out(path: Path, frame: Any, label_column: str | None) -> tuple[Any, Arrays, str]:
    """The table without its label column, and the classes in that column numbered in order; -1 where it is empty."""
    import pandas as pd

    if label_column is None:
        return frame, {}, ""
    if label_column not in frame:
        raise DataError(f"{path}: there is no column {label_column!r}; the columns are {', '.join(frame.columns)}.")
    codes, classes = pd.factorize(frame[label_column], sort=True)
    if len(classes) > _MOST_CLASSES:
        raise DataError(
            f"{path}: label column {label_column!r} holds {len(classes)} different values in {len(frame)} rows, where "
            f"at most {_MOST_CLASSES} classes are expected; name the column that holds the class."
        )
    named = ", ".join(f"{value} = {code}" for code, value in enumerate(classes))
    return frame.drop(columns=label_column), {"labels": codes}, f", classes by {label_column} ({named})"


def _suspects(frame: Any, labelled: bool) -> list[str]:
    """What is to be said of columns that look like no measurement: a row count, a lone column of few whole numbers."""
    numbers = frame.astype(float)
    rows = [c for c in numbers if (numbers[c].diff().iloc[1:] == 1).all()]
    found = [f"; column {column!r} numbers the rows: drop it, or it is taken as data" for column in rows]
    counts = {c: numbers[c].nunique() for c in numbers if (numbers[c].dropna() % 1 == 0).all()}
    few = [c for c, count in counts.items() if count <= _FEW and 2 * count < len(frame) and c not in rows]
    if len(few) == 1 and len(frame.columns) > 1 and not labelled:
        found.append(
            f"; column {few[0]!r} holds only {counts[few[0]]} different whole numbers: if it is the class, say "
            f"--label-column {few[0]}"
        )
    return found


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
