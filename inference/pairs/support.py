"""The support of a latent as its coordinates need it: the same for every datapoint, and without a copy of anything."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import Any

from torch import Tensor
from torch.distributions import VonMises, constraints

from .sites import ContractError

__all__ = ["shared_support"]

_CIRCLE = constraints.interval(-math.pi, math.pi)


def shared_support(name: str, fn: Any) -> constraints.Constraint:
    """The support of one datapoint's latent.

    Bounds that are given anew for each datapoint, and are all the same, are taken once. An angle lies between -pi and
    pi: torch says that it lies on the real line, on which its periodic density has no end.

    Args:
        name: The site, for the message.
        fn: Its distribution on a batch.

    Raises:
        ContractError: The support differs from datapoint to datapoint.
    """
    support: constraints.Constraint = copy.deepcopy(_support(fn))
    for layer in _layers(support):
        for key, bound in vars(layer).items():
            if isinstance(bound, Tensor) and bound.dim() > len(fn.event_shape):
                setattr(layer, key, _common(name, bound, len(fn.event_shape)))
    return support


def _support(fn: Any) -> constraints.Constraint:
    base = fn
    while hasattr(base, "base_dist") and not hasattr(base, "transforms"):
        base = base.base_dist
    if not isinstance(base, VonMises):
        return fn.support
    dims = len(fn.event_shape)
    return constraints.independent(_CIRCLE, dims) if dims else _CIRCLE


def _layers(support: Any) -> Iterator[Any]:
    yield support
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
        yield support


def _common(name: str, bound: Tensor, event_dims: int) -> Tensor:
    rows = bound.flatten(0, bound.dim() - event_dims - 1)
    if not bool((rows == rows[0]).all()):
        raise ContractError(
            f"latent site {name!r} lives on a support that differs from datapoint to datapoint (a bound of shape "
            f"{tuple(bound.shape)} between {float(bound.min()):g} and {float(bound.max()):g}), so that no coordinates "
            "serve them all; draw it on a fixed one and carry it to the datapoint's own: "
            f"u = pyro.sample({name!r}, dist.Uniform(0.0, 1.0)), then low + (high - low) * u."
        )
    return rows[0].clone()
