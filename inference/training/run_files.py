"""The three files that a run is written to and read from: ``config.json``, ``history.csv``, ``model.safetensors``.

A folder is what somebody wrote: each file is read as data, and what is wrong with it is told by its name.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from ..files import inside, read_json, replacing, write_json
from ..one_line import reason

__all__ = [
    "CONFIG",
    "HISTORY",
    "PARAMETERS",
    "read_config",
    "read_history",
    "read_tensors",
    "write_config",
    "write_history",
    "write_tensors",
]

CONFIG, HISTORY, PARAMETERS = "config.json", "history.csv", "model.safetensors"


def write_config(folder: Path, config: Mapping[str, Any]) -> None:
    """Write what a run is, as JSON."""
    write_json(inside(folder, CONFIG), config)


def read_config(folder: Path, needed: Sequence[str] = (CONFIG, PARAMETERS)) -> dict[str, Any]:
    """Read the ``config.json`` of a run folder, once the files that are needed are seen to be there.

    Raises:
        ValueError: The folder is no run folder, or the file holds no object with named entries.
    """
    missing = [name for name in needed if not inside(folder, name).is_file()]
    if missing:
        raise ValueError(
            f"{folder} is no run folder: it has no {' and no '.join(missing)}. `aevb fit --out DIR` makes one."
        )
    path = folder / CONFIG
    config = read_json(path)
    if not isinstance(config, dict):
        raise ValueError(f"{path} holds a {type(config).__name__}; an object with named entries is due.")
    for entry in ("settings", "command"):
        if not isinstance(config.get(entry, {}), dict):
            raise ValueError(f"the {entry} in {path} must be an object with named entries.")
    return config


def write_history(folder: Path, rows: Sequence[Mapping[str, float]]) -> None:
    """Write a row an epoch."""
    import pandas as pd

    with replacing(inside(folder, HISTORY)) as unfinished:
        pd.DataFrame(list(rows)).to_csv(unfinished, index=False)


def read_history(folder: Path) -> tuple[dict[str, float], ...]:
    """Read a row an epoch; none where the folder holds no history.

    Raises:
        ValueError: The file is no table of numbers; the message names the column and what stands there.
    """
    path = inside(folder, HISTORY)
    if not path.is_file():
        return ()
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return tuple(_numbers(row) for row in csv.DictReader(file, restkey="beyond the last column"))
    except (ValueError, csv.Error) as error:
        raise ValueError(
            f"{path} is no table of numbers: {reason(error)} Mend it, or remove it: a run opens without its history."
        ) from error


def _numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """A row of a CSV file, in which an empty cell stands for no number."""
    try:
        return {column: math.nan if cell == "" else float(cell) for column, cell in row.items()}
    except (TypeError, ValueError) as error:
        cells = ", ".join(f"{column}={cell!r}" for column, cell in row.items())
        raise ValueError(f"a row holds {cells}") from error


def write_tensors(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write the pair's state and its example."""
    from safetensors.torch import save_file

    with replacing(inside(folder, PARAMETERS)) as unfinished:
        save_file(dict(tensors), str(unfinished))


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """Read the pair's state and its example.

    Raises:
        ValueError: The file cannot be read.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = inside(folder, PARAMETERS)
    try:
        return load_file(str(path))
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} cannot be read: {reason(error)}") from error
