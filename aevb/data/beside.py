"""What stands beside the pixels: labels, partly withheld; row numbers; and holes in the pixels themselves.

A model of p(x|y) is given pairs (x, y); a table of posteriors, one per datapoint, is given (x, row); a guide for
missing data is given x with NaN where it is missing. These are the same data sets, dressed.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from aevb.data.dataset import PARTS, DataError, Dataset
from aevb.inference.pairs.data import Rows, Tensors

__all__ = ["with_holes", "with_labels", "with_row_numbers"]


class _Beside:
    """Rows that are drawn afresh (so no tensor), each with what stands beside it."""

    def __init__(self, rows: Rows, beside: Tensor) -> None:
        self.rows, self.beside = rows, beside

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Tensor, /) -> tuple[Tensor, ...]:
        x = self.rows[index]
        assert isinstance(x, Tensor)
        return x, self.beside[index]

    def to(self, device: Any) -> "_Beside":
        """Return the same rows on another device."""
        return _Beside(self.rows.to(device), self.beside.to(device))  # type: ignore[attr-defined]


class _Holes(_Beside):
    """Rows that are drawn afresh, NaN where ``beside`` is true."""

    def __getitem__(self, index: Tensor, /) -> Tensor:  # type: ignore[override]
        x, hole = super().__getitem__(index)
        return x.masked_fill(hole, torch.nan)

    def to(self, device: Any) -> "_Holes":
        """Return the same rows on another device."""
        return _Holes(self.rows.to(device), self.beside.to(device))  # type: ignore[attr-defined]


class _Closed:
    """The held-out parts, for a guide that has no posterior for them."""

    def __len__(self) -> int:
        return 0

    def __getitem__(self, index: Tensor, /) -> Tensor:
        raise DataError(
            "the mean-field guide is a table with rows for the training data alone: take --split train, or fit a "
            "second table to new data with the model held still."
        )


def with_labels(data: Dataset, share: float = 1.0, seed: int = 0) -> Dataset:
    """Pair every datapoint with its label, -1 where it is withheld.

    Arguments:
        data: a data set with labels.
        share: how many of the training labels are shown. Where it is 1 the other parts show theirs too, and results
            are of p(x|y); where it is less they show none, and results are of p(x).
        seed: of which labels are shown.

    Raises:
        DataError: if the data have no labels, or the share is none.
    """
    if not 0 <= share <= 1:
        raise DataError(f"label-share: expected a number from 0 to 1, got {share}.")
    dressed: dict[str, Any] = {}
    for k, part in enumerate(PARTS):
        labels = getattr(data, f"{part}_labels")
        if labels is None:
            raise DataError(f"{data.name} has no labels, which this model is given; take digits, mnist, ... or a .npz.")
        shown = share if part == "train" else float(share == 1)
        chance = torch.rand(len(labels), generator=torch.Generator().manual_seed(3 * seed + k))
        dressed[part] = _beside(data.part(part), torch.where(chance < shown, labels.long(), -1))
    return replace(data, **dressed, description=f"{data.description} {100 * share:g} % of the training labels shown.")


def with_row_numbers(data: Dataset) -> Dataset:
    """Pair every training point with its row number; the table has no rows for the other parts, and they are closed."""
    train = _beside(data.train, torch.arange(len(data.train)))
    return replace(data, train=train, validation=_Closed(), test=_Closed())


def with_holes(data: Dataset, share: float, seed: int = 0) -> Dataset:
    """Put NaN in place of a share of all numbers, completely at random and once.

    Raises:
        DataError: if the share is not from 0 to below 1.
    """
    if not 0 <= share < 1:
        raise DataError(f"missing-share: expected a number from 0 to below 1, got {share}.")
    parts: dict[str, Any] = {}
    for k, part in enumerate(PARTS):
        rows = data.part(part)
        generator = torch.Generator().manual_seed(3 * seed + k)
        hole = torch.rand(len(rows), data.data_dim, generator=generator) < share
        parts[part] = rows.masked_fill(hole, torch.nan) if isinstance(rows, Tensor) else _Holes(rows, hole)
    return replace(data, **parts, description=f"{data.description} {100 * share:g} % of all numbers missing.")


def _beside(rows: Rows, beside: Tensor) -> Rows:
    return Tensors(rows, beside) if isinstance(rows, Tensor) else _Beside(rows, beside)
