r"""What a data set is: three parts, each with ``len(data)`` and ``data[index]``.

Dynamic binarisation draws b_ip ~ Bernoulli(x_ip) afresh each time datapoint i is looked up, so
that a model of b sees the grey picture x only through its draws.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from aevb.inference.pairs.data import Rows

__all__ = ["DataError", "Dataset", "DynamicBinarisation", "binarise", "check_unit_interval"]

PARTS = ("train", "validation", "test")


class DataError(ValueError):
    """Data that cannot be had or cannot be used; the message names the mend."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """A data set in three parts that share no datapoint, unless the description says so.

    Arguments:
        name: the name it was asked for by.
        variant: how pixels became data (``grey``, ``static``, ``dynamic``), or which of the
            published versions of the data it is; None where there is only one.
        train: what a model is fitted to, ``[N, P]`` or any :class:`~aevb.inference.pairs.data.Rows`.
        validation: what choices are made on.
        test: what results are reported on.
        train_labels: classes ``[N]`` of the training part, or None; likewise the other two.
        validation_labels: classes of the validation part.
        test_labels: classes of the test part.
        image_shape: channels, height and width where a datapoint is a flat picture, else None.
        description: one sentence with the split and the scaling.
        levels: the number of values k / (levels - 1) that a pixel takes, where it takes so few, else None.
        columns: the columns' names, where the file has them.
    """

    name: str
    variant: str | None
    train: Rows
    validation: Rows
    test: Rows
    train_labels: Tensor | None = None
    validation_labels: Tensor | None = None
    test_labels: Tensor | None = None
    image_shape: tuple[int, int, int] | None = None
    description: str = ""
    levels: int | None = None
    columns: tuple[str, ...] = ()

    @property
    def data_dim(self) -> int:
        """The number P of dimensions of a datapoint (of its first tensor where it is a tuple)."""
        batch = self.test[torch.zeros(1, dtype=torch.long)]
        return (batch if isinstance(batch, Tensor) else batch[0]).shape[-1]

    def part(self, split: str) -> Rows:
        """Return the part called ``split``: train, validation or test.

        Raises:
            DataError: if there is no such part.
        """
        if split not in PARTS:
            raise DataError(f"split: expected one of {', '.join(PARTS)}, got {split!r}.")
        part: Rows = getattr(self, split)
        return part


class DynamicBinarisation:
    r"""Grey pictures that are binarised afresh at every look-up.

    .. math:: b_{ip} \sim \mathrm{Bernoulli}(x_{ip})

    The draws come from PyTorch's global generator, so a run's seed governs them.

    Arguments:
        grey: probabilities x in [0, 1], ``[N, P]``.

    Raises:
        DataError: if a value lies outside [0, 1].

    Example:
        >>> data = DynamicBinarisation(torch.tensor([[0.0, 1.0], [1.0, 1.0]]))
        >>> data[torch.tensor([0, 0, 1])]
        tensor([[0., 1.],
                [0., 1.],
                [1., 1.]])

    References:
        On the quantitative analysis of deep belief networks, Salakhutdinov & Murray, ICML 2008.
    """

    def __init__(self, grey: Tensor) -> None:
        check_unit_interval(grey)
        self.grey = grey

    def __len__(self) -> int:
        return len(self.grey)

    def __getitem__(self, index: Tensor, /) -> Tensor:
        return torch.bernoulli(self.grey[index])

    @property
    def shape(self) -> torch.Size:
        """The shape ``[N, P]`` of the pictures."""
        return self.grey.shape

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> DynamicBinarisation:
        """Return the same data on another device or in another precision."""
        return DynamicBinarisation(self.grey.to(device=device, dtype=dtype))


def binarise(grey: Tensor, seed: int) -> Tensor:
    """Draw b ~ Bernoulli(x) once, with a generator of its own seeded by ``seed``."""
    return torch.bernoulli(grey, generator=torch.Generator().manual_seed(seed))


def check_unit_interval(grey: Tensor) -> None:
    """Raise a DataError if a pixel cannot be a probability."""
    if bool(grey.isnan().any()):
        raise DataError(
            "pixels: NaN (missing) can neither be binarised nor lie in [0, 1]; fill them in, or name no variant."
        )
    if not bool(((grey >= 0) & (grey <= 1)).all()):
        low, high = grey.min().item(), grey.max().item()
        raise DataError(f"pixels: expected values in [0, 1], got {low:.4g} to {high:.4g}; rescale them first.")
