"""Class labels as network inputs: one-hot vectors, and the zero vector for a missing label."""

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import get_proxy_mode

__all__ = ["append_labels", "class_logits"]


def append_labels(features: Tensor, y: Tensor, num_classes: int) -> Tensor:
    """Return features `[..., batch, F]` with the one-hot labels y `[batch]` behind: F + C columns.

    A missing label, -1, is the zero vector. The range is checked where looking is free: not on an
    accelerator, which would have to wait, and not while a graph is captured.

    Raises:
        ValueError: If y are not whole numbers from -1 to `num_classes` - 1.
    """
    _check(y, num_classes)
    one_hot = (y.unsqueeze(-1) == torch.arange(num_classes, device=y.device)).to(features.dtype)
    return torch.cat([features, one_hot.expand(*features.shape[:-1], num_classes)], -1)


def class_logits(y: Tensor, num_classes: int, dtype: torch.dtype) -> Tensor:
    """Return log-weights `[batch, C]` that leave only the class y, or all of them alike where y is missing.

    Raises:
        ValueError: If y are not whole numbers from -1 to `num_classes` - 1.
    """
    _check(y, num_classes)
    possible = (y.unsqueeze(-1) == torch.arange(num_classes, device=y.device)) | (y < 0).unsqueeze(-1)
    zeros = torch.zeros(possible.shape, dtype=dtype, device=y.device)
    return torch.where(possible, zeros, -torch.inf)


def _check(y: Tensor, num_classes: int) -> None:
    if y.is_floating_point() or y.is_complex():
        raise ValueError(f"y: expected class numbers of an integer type; got {y.dtype}. Pass y.long().")
    captured = torch.compiler.is_compiling() or get_proxy_mode() is not None
    if y.device.type == "cpu" and not captured:
        _check_range(y, num_classes)


def _check_range(y: Tensor, num_classes: int) -> None:
    if y.numel() and (y.min() < -1 or y.max() >= num_classes):
        raise ValueError(
            f"y: expected labels from 0 to {num_classes - 1}, or -1 for a missing one; got "
            f"{int(y.min())} to {int(y.max())}. Relabel the data or raise num_classes."
        )
