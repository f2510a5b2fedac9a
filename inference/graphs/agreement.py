"""Whether a captured graph and the programs it was captured from give the same numbers."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["agree"]

_RELATIVE = 1e-3


def agree(found: Tensor, expected: Tensor, *, absolute: float = 1e-6) -> bool:
    """Tell whether two results are one up to rounding, and not finite in the same places and in the same way.

    A rare entry may differ where rounding decides a sign, so it is the norm of what is between them that counts.

    Example:
        >>> number, nothing = torch.ones(2), torch.tensor([1.0, torch.nan])
        >>> agree(number, number), agree(nothing, nothing), agree(nothing, number), agree(number, nothing)
        (True, True, False, False)
    """
    if found.shape != expected.shape:
        return False
    finite = torch.isfinite(expected)
    odd, expected_odd = found[~finite], expected[~finite]
    if not torch.equal(finite, torch.isfinite(found)) or not torch.equal(odd.nan_to_num(), expected_odd.nan_to_num()):
        return False
    found, expected = found[finite].double(), expected[finite].double()
    return bool((found - expected).norm() <= _RELATIVE * expected.norm() + absolute)
