"""Every estimator that a verdict asks: those of this package, and those that a user adds.

An estimator says by ``in_verdict(pair)`` under which names and with which options it is asked, where those are not its
own; by ``applies_to(pair)``, why it has no answer. Neither is needed: one that refuses a pair when it is asked does as
well.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from .. import evidence
from ..evidence import Estimator
from ..pairs.finished import Finished, checked
from ..pairs.pair import Pair
from ..random_state import RandomState

__all__ = ["add_estimator", "every_estimator", "known_estimators"]

_ADDED: dict[str, Any] = {}


def add_estimator(kind: Any) -> None:
    """Have every verdict ask an estimator of one's own, a class with a ``name``."""
    _ADDED[kind.name] = kind


def known_estimators() -> dict[str, Any]:
    """Every class of an estimator by its name, this package's in the order they are asked."""
    public: list[Any] = [getattr(evidence, name) for name in evidence.__all__]
    return {thing.name: thing for thing in public if "name" in getattr(thing, "__dict__", {})} | _ADDED


def every_estimator(
    pair: Finished,
    *,
    num_samples: int | None = None,
    num_temperatures: int | None = None,
    num_chains: int | None = None,
) -> dict[str, Estimator]:
    """Every estimator there is, by name; those that do not apply to the pair say so when they are asked.

    Args:
        pair: A run, or a checked pair.
        num_samples: Of every estimator that has this option; as a default 1000 draws of the guide.
        num_temperatures: Likewise; as a default 300 of annealing.
        num_chains: Likewise; as a default 8 a datapoint of annealing.
    """
    pair = checked(pair)
    given = {"num_samples": num_samples, "num_temperatures": num_temperatures, "num_chains": num_chains}
    given = {name: value for name, value in given.items() if value is not None}
    asked: dict[str, Estimator] = {}
    with RandomState(0, pair.example[0].device), pair.evaluation():
        for name, kind in known_estimators().items():
            takes = inspect.signature(kind).parameters
            options = {option: value for option, value in given.items() if option in takes}
            asked |= {title: kind(**{**own, **options}) for title, own in _in_verdict(name, kind, pair).items()}
    return asked


def _in_verdict(name: str, kind: Any, pair: Pair) -> Mapping[str, Mapping[str, Any]]:
    """Under which names, and with which options, a verdict asks an estimator."""
    return kind.in_verdict(pair) if hasattr(kind, "in_verdict") else {name: {}}
