r"""Supports that PyTorch lacks: the open interval (0, 1), and the grid {0, 1/n, ..., 1}."""

import torch
from torch import Tensor
from torch.distributions import constraints

__all__ = ["Grid", "open_unit_interval"]


class _OpenUnitInterval(constraints.interval):
    """Constrain to 0 < x < 1, the ends excluded."""

    def __init__(self) -> None:
        super().__init__(0.0, 1.0)

    def check(self, value: Tensor) -> Tensor:
        """Return where ``value`` lies inside."""
        return (value > 0) & (value < 1)


class Grid(constraints.Constraint):
    """Constrain to the ``levels`` equally spaced numbers 0, 1 / (levels - 1), ..., 1.

    A number is on the grid if its distance is below a thousandth of the spacing, which leaves room
    for rounding in float32 and tells k / 255 from k / 256.

    Args:
        levels: how many numbers.
    """

    event_dim = 0
    is_discrete = True

    def __init__(self, levels: int) -> None:
        self.levels = levels
        super().__init__()

    def __repr__(self) -> str:
        return f"Grid(levels={self.levels})"

    def check(self, value: Tensor) -> Tensor:
        """Return where ``value`` lies on the grid."""
        step = value * (self.levels - 1)
        on_grid = torch.abs(step - step.round()) < 1e-3
        return on_grid & (step.round() >= 0) & (step.round() <= self.levels - 1)


open_unit_interval = _OpenUnitInterval()
