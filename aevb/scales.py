"""The scales of a table's columns: what standardising them takes, and a warning where they lie far apart."""

from typing import Any

import torch
from torch import Tensor

from aevb.data import Dataset
from aevb.inference.pairs.data import Tensors
from aevb.models.likelihoods import Standardized

__all__ = ["moments", "pixels", "unequal_scales", "units", "within_unit_interval"]

_FAR = 10.0  # times: one learning rate and one noise scale no longer serve both columns
_NAMED = 5  # columns in a message


def pixels(rows: Any) -> Tensor:
    """The data themselves, where labels or row numbers stand beside them."""
    x: Tensor = rows if isinstance(rows, Tensor) else rows[0]
    return x


def units(data: Dataset) -> dict[str, list[float]]:
    """The mean and the standard deviation of every training column, NaN left out.

    Raises:
        ValueError: A column is constant, so that it has no unit.
    """
    loc, scale = moments(pixels(data.train[torch.arange(len(data.train))]))
    constant = [_name(data, column) for column in (~(scale > 0)).nonzero().flatten().tolist()]
    if constant:
        more = "" if len(constant) <= _NAMED else f" and {len(constant) - _NAMED} more"
        raise ValueError(
            f"standardize: training column(s) {', '.join(constant[:_NAMED])}{more} are constant or empty, so they have "
            "no unit; drop them, or leave the data as they are."
        )
    return {"loc": loc.tolist(), "scale": scale.tolist()}


def unequal_scales(data: Dataset, likelihood: Any) -> str | None:
    """A sentence that names the widest and the narrowest column of a table, where their deviations lie far apart.

    Args:
        data: The data set.
        likelihood: What scores it; ``None`` is returned for one that standardised columns do not go with (counts).
    """
    x = _table(data)
    if x is None or data.image_shape is not None or not _may_be_standardized(likelihood, x.shape[-1]):
        return None
    _, scale = moments(x)
    scale = torch.where(scale > 0, scale, torch.nan)
    if not bool(scale.isfinite().any()):
        return None
    wide, narrow = int(scale.nan_to_num(-1.0).argmax()), int(scale.nan_to_num(torch.inf).argmin())
    if scale[wide] < _FAR * scale[narrow]:
        return None
    return (
        f"the columns differ in scale: the standard deviation of column {_name(data, wide)} is {scale[wide]:.3g}, that "
        f"of column {_name(data, narrow)} {scale[narrow]:.3g}. The widest column decides the bound, and what else is "
        "said of this run follows from it; standardise them: --standardize."
    )


def within_unit_interval(data: Dataset) -> bool:
    """Tell whether all training values lie in [0, 1], as pixels do; data that are drawn afresh are pixels."""
    x = _table(data)
    return x is None or bool((((x >= 0) & (x <= 1)) | x.isnan()).all())


def _may_be_standardized(likelihood: Any, width: int) -> bool:
    try:
        Standardized(likelihood, [0.0] * width, [1.0] * width)
    except (ValueError, TypeError):
        return False
    return not isinstance(likelihood, Standardized)


def _table(data: Dataset) -> Tensor | None:
    train = data.train.parts[0] if isinstance(data.train, Tensors) else data.train
    return train if isinstance(train, Tensor) else None


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """The mean and the standard deviation of every column ``[P]``, NaN left out."""
    x = x.double()
    loc = x.nanmean(0)
    return loc, (x - loc).square().nanmean(0).sqrt()


def _name(data: Dataset, column: int) -> str:
    """How a column is called: by its name in the file, else by its number."""
    return repr(data.columns[column]) if data.columns else str(column)
