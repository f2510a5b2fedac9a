"""What a trainer needs of data: a length, and rows by their numbers.

Anything with ``len(data)`` and ``data[index]`` serves; a tensor does. A data set may answer with several tensors
(images and labels), which become the programs' arguments, and may draw afresh on every call (dynamic binarisation).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch import Tensor

from .sites import Data, as_data

__all__ = ["Rows", "Tensors", "as_rows", "chunks"]


class Rows(Protocol):
    """Rows by number: ``data[index]`` returns a tensor or a tuple of tensors with ``len(index)`` rows."""

    def __len__(self) -> int:
        """The number N of datapoints."""

    def __getitem__(self, index: Tensor) -> Tensor | Data:
        """The rows of ``index``."""


class Tensors:
    """Several tensors of N rows each as one data set.

    Raises:
        ValueError: The tensors differ in their number of rows.

    Example:
        >>> images, labels = torch.zeros(3, 4), torch.tensor([0, 1, 2])
        >>> Tensors(images, labels)[torch.tensor([2])][1]
        tensor([2])
    """

    def __init__(self, *parts: Tensor) -> None:
        sizes = [len(part) for part in parts]
        if len(set(sizes)) != 1:
            raise ValueError(f"the parts of a data set must have one common number of rows; got {sizes}.")
        self.parts = parts

    def __len__(self) -> int:
        """The number of rows."""
        return len(self.parts[0])

    def __getitem__(self, index: Tensor) -> Data:
        """The rows of every part."""
        return tuple(part[index] for part in self.parts)

    def to(self, device: torch.device) -> Tensors:
        """The same rows on another device."""
        return Tensors(*(part.to(device) for part in self.parts))


def as_rows(data: Any, device: torch.device | str = "cpu") -> Rows:
    """Turn tensors, arrays, data frames or tuples of them into a :class:`Rows` on a device.

    Raises:
        ValueError: The data are empty or a single number, the parts of a tuple differ in length, or a part cannot
            be read as numbers.
    """
    if isinstance(data, tuple | list):
        data = Tensors(*(_tensor(part) for part in data))
    elif not (hasattr(data, "__getitem__") and hasattr(data, "__len__")) or hasattr(data, "__array__"):
        data = _tensor(data)
    if isinstance(data, Tensor) and data.dim() == 0:
        raise ValueError("the data are a single number: expected a tensor of rows, [N, ...].")
    if len(data) == 0:
        raise ValueError("the data set is empty: expected at least one row.")
    move = getattr(data, "to", None)
    moved: Rows = data if move is None else move(torch.device(device))
    return moved


def chunks(data: Rows, rows: int) -> Iterator[Data]:
    """Walk through a data set in order, at most ``rows`` at a time."""
    for index in torch.arange(len(data)).split(rows):
        yield as_data(data[index])


def _tensor(part: Any) -> Tensor:
    if isinstance(part, Tensor):
        return part
    try:
        value = torch.as_tensor(part.to_numpy() if hasattr(part, "to_numpy") else part)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"data of type {type(part).__name__} cannot be read as a tensor: {error}") from error
    return value.to(torch.get_default_dtype()) if value.is_floating_point() else value
