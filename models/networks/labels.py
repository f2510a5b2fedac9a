"""Class labels as network inputs: one-hot vectors, and the zero vector for a missing label."""

import pyro
import torch
from torch import Tensor

__all__ = ["append_labels", "class_logits"]


def append_labels(features: Tensor, y: Tensor, num_classes: int) -> Tensor:
    """Return features `[..., batch, F]` with the one-hot labels y `[batch]` behind: F + C columns.

    A missing label, -1, is the zero vector. Any other number that is no class is refused where Pyro's validation is on
    and looking is free (on an accelerator it is not), and is a row of NaN elsewhere: in a training step.

    Raises:
        ValueError: If y are not whole numbers from -1 to `num_classes` - 1.
    """
    _check(y, num_classes)
    one_hot = (y.unsqueeze(-1) == torch.arange(num_classes, device=y.device)).to(features.dtype)
    one_hot = one_hot.masked_fill(_unknown(y, num_classes), torch.nan)
    return torch.cat([features, one_hot.expand(*features.shape[:-1], num_classes)], -1)


def class_logits(y: Tensor, num_classes: int, dtype: torch.dtype) -> Tensor:
    """Return log-weights `[batch, C]` that leave only the class y, or all of them alike where y is missing.

    Raises:
        ValueError: If y are not whole numbers from -1 to `num_classes` - 1.
    """
    _check(y, num_classes)
    possible = (y.unsqueeze(-1) == torch.arange(num_classes, device=y.device)) | (y < 0).unsqueeze(-1)
    zeros = torch.zeros(possible.shape, dtype=dtype, device=y.device)
    return torch.where(possible, zeros, -torch.inf).masked_fill(_unknown(y, num_classes), torch.nan)


def _unknown(y: Tensor, num_classes: int) -> Tensor:
    return ((y < -1) | (y >= num_classes)).unsqueeze(-1)


def _check(y: Tensor, num_classes: int) -> None:
    if y.is_floating_point() or y.is_complex():
        raise ValueError(f"y: expected class numbers of an integer type; got {y.dtype}. Pass y.long().")
    if y.device.type == "cpu" and pyro.settings.get("validate_distributions_pyro"):
        _check_range(y, num_classes)


def _check_range(y: Tensor, num_classes: int) -> None:
    if y.numel() and (y.min() < -1 or y.max() >= num_classes):
        raise ValueError(
            f"y: expected labels from 0 to {num_classes - 1}, or -1 for a missing one; got "
            f"{int(y.min())} to {int(y.max())}. Relabel the data or raise num_classes."
        )
