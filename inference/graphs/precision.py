"""Matrix products in bfloat16, everything else in float32.

A product's factors are rounded to 8 bits of mantissa, multiplied exactly and summed in float32 by the processor; the
result is a float32 tensor again, so that log-densities, their sums and the optimiser never see a short number. What
rounding does to a log-density is an error of a few parts in a thousand of every logit, independent over pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from .torch_internals import capture, dispatch_mode

__all__ = ["PRECISIONS", "Bfloat16Products", "check_precision", "products_in"]

_PRODUCTS = {
    torch.ops.aten.mm.default,
    torch.ops.aten.addmm.default,
    torch.ops.aten.bmm.default,
    torch.ops.aten.baddbmm.default,
    torch.ops.aten.convolution.default,
    torch.ops.aten.convolution_backward.default,
}


class Bfloat16Products:
    """Within it, float32 products, forward and backward, are made of factors rounded to bfloat16.

    Example:
        >>> a = torch.tensor([[1.0, 2.0 ** -9]])
        >>> with Bfloat16Products():
        ...     (a + 1.0) @ torch.ones(2, 1)
        tensor([[3.]])
    """

    def __init__(self) -> None:
        self._mode = dispatch_mode(self._operation)
        self._rounded: dict[int, tuple[Tensor, int, Tensor]] = {}
        self._turned: dict[int, tuple[Tensor, Tensor]] = {}

    def __enter__(self) -> None:
        """Begin to round."""
        self._mode.__enter__()

    def __exit__(self, *error: Any) -> None:
        """Stop."""
        self._mode.__exit__(*error)

    def _operation(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Make one operation."""
        if func is torch.ops.aten.t.default:
            turned: Tensor = func(*args)
            self._turned[id(turned)] = turned, args[0]
            return turned
        if func not in _PRODUCTS or not all(_short_enough(a) for a in args):
            return func(*args, **kwargs)
        result = func(*(self._round(a) for a in args), **kwargs)
        if isinstance(result, tuple):
            return tuple(part.float() if isinstance(part, Tensor) else part for part in result)
        return result.float()

    def _round(self, argument: Any) -> Any:
        """A factor rounded; a weight that several products read is rounded once."""
        if not isinstance(argument, Tensor):
            return argument
        if id(argument) in self._turned:  # a weight and its transpose are one tensor to round
            return self._round(self._turned[id(argument)][1]).t()
        kept = self._rounded.get(id(argument))
        version = capture.version(argument)
        if kept is None or kept[0] is not argument or kept[1] != version:
            kept = argument, version, argument.to(torch.bfloat16)
            self._rounded[id(argument)] = kept
        return kept[2]


def _short_enough(argument: Any) -> bool:
    """Double precision was asked for on purpose, and is left alone."""
    return not isinstance(argument, Tensor) or argument.dtype == torch.float32


PRECISIONS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "float32": nullcontext,
    "bfloat16": Bfloat16Products,
}


def check_precision(precision: str) -> str:
    """Return the name of a precision if there is one of that name.

    Raises:
        ValueError: The precision is unknown.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision={precision!r} is unknown; choose one of {', '.join(PRECISIONS)}.")
    return precision


def products_in(precision: str) -> AbstractContextManager[Any]:
    """The context in which matrix products have the precision of that name."""
    return PRECISIONS[precision]()
