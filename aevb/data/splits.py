"""Splitting and checking arrays; shuffles depend on the seed alone, on no library's version."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aevb.data.dataset import PARTS, DataError, Dataset, DynamicBinarisation, binarise, check_unit_interval

if TYPE_CHECKING:
    from aevb.inference.pairs.data import Rows

__all__ = ["as_matrix", "make_dataset", "permutation", "split"]

Parts = dict[str, Tensor]


def permutation(n: int, seed: int) -> NDArray[np.int64]:
    """Shuffle 0..n-1 by sorting raw 64-bit draws, whose stream NumPy promises never to change.

    Example:
        >>> permutation(5, seed=0)
        array([3, 2, 1, 0, 4])
    """
    return np.argsort(np.random.PCG64(seed).random_raw(n), kind="stable")


def split(x: Tensor, sizes: tuple[int, ...], seed: int | None) -> Parts:
    """Cut ``x`` into train, validation and test of the given ``sizes``, shuffled unless ``seed`` is None."""
    order = torch.arange(len(x)) if seed is None else torch.from_numpy(permutation(len(x), seed))
    return dict(zip(PARTS, x[order].split(list(sizes)), strict=True))


def as_matrix(
    array: NDArray[Any], where: str, *, missing: bool = False, columns: tuple[str, ...] = ()
) -> tuple[Tensor, tuple[int, int, int] | None]:
    """Flatten ``[N, P]``, ``[N, H, W]`` or ``[N, C, H, W]`` to float32 ``[N, P]``, with the image's shape.

    Raises:
        DataError: if the array is empty, not numeric, of another shape, or holds an infinity, or a NaN that is not
            allowed to be ``missing``.
    """
    if array.dtype.kind not in "biuf":
        raise DataError(f"{where}: expected numbers, got an array of type {array.dtype}.")
    if array.size == 0:
        raise DataError(f"{where}: expected at least one datapoint, got an empty array of shape {array.shape}.")
    if array.ndim not in (2, 3, 4):
        mend = "; reshape it with x.reshape(-1, 1) if every number is a datapoint." if array.ndim == 1 else "."
        raise DataError(f"{where}: expected shape [N, P], [N, H, W] or [N, C, H, W], got {list(array.shape)}{mend}")
    x = array.reshape(len(array), -1).astype(np.float32)
    refused = np.isinf(x) if missing else ~np.isfinite(x)
    if refused.any():
        row, column = np.argwhere(refused)[0]
        named = repr(columns[column]) if columns else column
        keep = "" if missing else _KEEP_MISSING
        raise DataError(
            f"{where}: expected finite numbers, got {x[row, column]} at row {row}, column {named} "
            f"(rows are counted from 0; {int(refused.sum())} such values); drop those rows or fill them in{keep}."
        )
    return torch.from_numpy(x), _image_shape(array.shape[1:])


def make_dataset(
    name: str,
    variant: str | None,
    grey: Parts,
    labels: Parts | None,
    image_shape: tuple[int, int, int] | None,
    description: str,
    seed: int,
    *,
    levels: int | None = None,
    columns: tuple[str, ...] = (),
) -> Dataset:
    """Compose a Dataset of ``grey`` parts under a variant; validation and test data never change."""
    if variant is not None:
        for x in grey.values():
            check_unit_interval(x)
    parts: dict[str, Rows] = {**grey}
    if variant in ("static", "dynamic"):
        # Each part has a draw of its own: with one seed for all, equal pictures would get equal noise.
        parts = {part: binarise(x, 3 * seed + k) for k, (part, x) in enumerate(grey.items())}
    if variant == "dynamic":
        parts["train"] = DynamicBinarisation(grey["train"])
    return Dataset(
        name,
        variant,
        parts["train"],
        parts["validation"],
        parts["test"],
        **{f"{part}_labels": y for part, y in (labels or {}).items()},
        image_shape=image_shape,
        description=description + _NOTES.get(variant or "", ""),
        levels=2 if variant in ("static", "dynamic") else levels,
        columns=columns,
    )


_KEEP_MISSING = ", or keep NaN as missing: load(..., missing=True), --guide masked-normal"
_NOTES = {
    "grey": "; pixels as they are, in [0, 1].",
    "static": "; every pixel binarised once, seeded.",
    "dynamic": "; training pixels binarised afresh at each look-up, validation and test once, seeded.",
}


def _image_shape(shape: tuple[int, ...]) -> tuple[int, int, int] | None:
    if len(shape) == 1:
        return None
    return (1, shape[0], shape[1]) if len(shape) == 2 else (shape[0], shape[1], shape[2])
