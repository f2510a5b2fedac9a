"""One thing that is wrong with a pair, and the one that training looks for by itself: grey values under a Bernoulli."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from ..random_state import RandomState
from .pair import Pair
from .sites import Data, layers

__all__ = ["Finding", "grey_bernoulli", "grey_values"]

Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong: a short name, how bad it is, and a sentence that ends with the mend."""

    name: str
    severity: Severity
    sentence: str


def grey_values(pair: Pair, data: Data) -> Iterator[Finding]:
    """Grey values under a Bernoulli, by one run of a checked model; the random state is left as it was found."""
    with RandomState(0, data[0].device), pair.evaluation():
        sites = pair.trace(pair.model, data, None)
    for name in pair.observed:
        yield from grey_bernoulli(name, sites[name])


def grey_bernoulli(name: str, site: Any) -> Iterator[Finding]:
    """Grey values in one observed site of a trace."""
    kinds, value = {type(layer).__name__ for layer in layers(site["fn"])}, site["value"]
    scored = any("Bernoulli" in kind for kind in kinds) and not any("Continuous" in kind for kind in kinds)
    if scored and bool(((value != 0) & (value != 1)).any()):
        yield Finding(
            "grey-bernoulli",
            "warning",
            f"observed site {name!r} scores grey values with a Bernoulli, whose density over them does not integrate "
            "to one; binarise the data, or take a ContinuousBernoulli.",
        )
