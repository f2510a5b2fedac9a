"""The one way in for everything that looks at a finished thing: a run, or a pair that has been checked."""

from __future__ import annotations

from typing import Protocol

from .pair import Pair

__all__ = ["Finished", "HasPair", "checked"]


class HasPair(Protocol):
    """Anything that holds a checked pair, as a run does."""

    @property
    def pair(self) -> Pair:
        """The pair."""


Finished = Pair | HasPair
"""A checked pair, or a run."""


def checked(finished: Finished) -> Pair:
    """Take the checked pair of a run, or that pair itself; nothing is run again.

    Raises:
        ValueError: It is neither, or a pair whose sites nobody has looked at yet.
    """
    pair = finished if isinstance(finished, Pair) else getattr(finished, "pair", None)
    if not isinstance(pair, Pair):
        raise ValueError(
            f"a run or a checked pair is due, and this is a {type(finished).__name__}; for a model and a guide it is "
            "Pair(model, guide).check(x)."
        )
    if not pair.example:
        raise ValueError(
            "this pair has not been checked, so its sites are not known; call pair.check(x) with some data."
        )
    return pair
