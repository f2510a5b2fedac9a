r"""Positive parameters from unconstrained decoder outputs: theta = floor + log(1 + exp(h))."""

import math

from torch import Tensor
from torch.nn.functional import softplus

__all__ = ["check_floor", "positive", "softplus_inverse"]


def positive(h: Tensor, floor: float) -> Tensor:
    r"""Map ``h`` to a positive number, :math:`\theta = \text{floor} + \log(1 + e^h)`, element by element.

    Softplus rather than exp, because it grows linearly: no output of a decoder overflows. It still
    vanishes in float32 below about -100, which the floor, stated by each likelihood, prevents.

    Args:
        h: unconstrained, any shape.
        floor: what is added, the smallest possible value.
    """
    return floor + softplus(h)


def softplus_inverse(value: float) -> float:
    """Return the number whose softplus is ``value``.

    Example:
        >>> round(softplus_inverse(1.0), 4)
        0.5413
    """
    return value + math.log(-math.expm1(-value))


def check_floor(owner: str, name: str, floor: float) -> None:
    """Check a floor that a user gave.

    Raises:
        ValueError: if the floor is negative.
    """
    if not floor >= 0:
        raise ValueError(f"{owner}: expected {name} >= 0, got {floor}.")
