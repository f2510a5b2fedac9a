"""What a log p(x) is the density of: which rows, in which units, against which measure; like is compared with like."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from hashlib import blake2b
from typing import Any

import torch
from pyro.distributions import Unit
from torch import Tensor
from torch.distributions import constraints

from ..pairs.data import Rows, Tensors, chunks
from ..pairs.pair import Pair
from ..pairs.sites import as_data, kept_entries, layers
from ..random_state import RandomState

__all__ = ["Observed", "Provenance", "difference", "provenance"]

_ROWS = 1000  # datapoints looked at together


@dataclass(frozen=True)
class Observed:
    """One observed site, and the values that it scores.

    Args:
        site: Its name.
        measure: What the density is against: ``"counting"`` (a probability mass), ``"Lebesgue"`` (a density),
            ``"Lebesgue on Simplex()"`` and the like on other spaces, ``"unnormalised Bernoulli"`` where a mass function
            scores values that it gives no mass to (grey pixels), or ``"not known"``.
        rows: A fingerprint of the values that count, in their order.
        low: The smallest of them; with ``high`` the units, by whose logarithm a density moves.
        high: The largest.
        share: The share of the entries that count; below one where data are masked.
    """

    site: str
    measure: str
    rows: str | None
    low: float
    high: float
    share: float


@dataclass(frozen=True)
class Provenance:
    """The origin of evidence: a density of these values, given those.

    Args:
        observed: What each observed site scores, in an order that does not depend on their names.
        given: A fingerprint of the arguments that the model reads and does not score (labels); empty where none is.
        split: What the rows are called, where it was said.
    """

    observed: tuple[Observed, ...]
    given: str
    split: str | None = None

    @property
    def known(self) -> bool:
        """True where the rows and their measure could be told."""
        return all(part.rows is not None and part.measure != "not known" for part in self.observed)

    @property
    def measure(self) -> str:
        """The measures of all sites, as a table shows them."""
        return ", ".join(dict.fromkeys(part.measure for part in self.observed))

    def record(self) -> dict[str, Any]:
        """Plain values for a JSON file."""
        return {"observed": [asdict(part) for part in self.observed], "given": self.given, "split": self.split}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Provenance:
        """Read what :meth:`record` wrote."""
        return cls(tuple(Observed(**part) for part in record["observed"]), record["given"], record["split"])


def provenance(pair: Pair, data: Rows, split: str | None = None) -> Provenance:
    """Look once at what the observed sites of a checked pair score.

    A data set that draws afresh is not looked at, since that would change it: its rows are not known.

    Args:
        pair: The pair; its model is run once on every row, latents drawn from the prior.
        data: The rows that are judged.
        split: What they are called.

    Returns:
        Their provenance; the random state is left as it was found.
    """
    fixed = isinstance(data, Tensor | Tensors)
    tallies = {name: _Tally(name) for name in pair.observed}
    with RandomState(0, pair.example[0].device), pair.evaluation():
        for part in chunks(data, _ROWS) if fixed else [pair.example]:
            sites = pair.trace(pair.model, part, None)
            for name, tally in tallies.items():
                tally.add(sites[name])
        factors = [name for name, site in sites.items() if isinstance(site["fn"], Unit)]
        read = [position for position in _beside(pair) if _reads(pair, position)]
    found = [tally.observed if fixed else replace(tally.observed, rows=None) for tally in tallies.values()]
    # Whether a factor keeps a density normalised only its author knows.
    found += [Observed(name, "not known", None, 0.0, 0.0, 1.0) for name in factors]
    order = sorted(found, key=lambda one: (one.rows or "", one.measure, one.site))
    return Provenance(tuple(order), _fingerprint(data, read) if fixed else "", split)


def difference(names: tuple[str, str], a: Provenance, b: Provenance) -> str | None:
    """Say why two numbers must not be set beside each other, as the end of a sentence; nothing where they may."""
    first, second = names
    if a.split is not None and b.split is not None and a.split != b.split:
        return f"{first} judges the {a.split} split, {second} the {b.split} split"
    if len(a.observed) != len(b.observed):
        return f"{first} scores the sites {_sites(a)}, {second} the sites {_sites(b)}"
    for one, other in zip(a.observed, b.observed, strict=True):
        if (said := _unlike(first, one, second, other)) is not None:
            return said
    if a.given != b.given:
        return f"{first} is the density given {_conditions(a)}, {second} given {_conditions(b)}"
    return None


def _unlike(first: str, a: Observed, second: str, b: Observed) -> str | None:
    if a.measure != b.measure:
        return (
            f"{first} is against the measure {a.measure!r} at {a.site!r}, {second} against {b.measure!r}: masses, "
            "densities and what does not sum to one are no numbers of one kind"
        )
    if not math.isclose(a.share, b.share, rel_tol=1e-9):
        return f"{first} counts {100 * a.share:g} % of the entries of {a.site!r}, {second} {100 * b.share:g} %"
    if a.rows == b.rows:
        return None
    if (a.low, a.high) != (b.low, b.high):
        return (
            f"{first} judges values from {a.low:g} to {a.high:g} at {a.site!r}, {second} values from {b.low:g} to "
            f"{b.high:g}: other rows, or the same ones in other units"
        )
    return f"{first} judges other rows at {a.site!r} than {second}, or the same ones in another order"


def _sites(found: Provenance) -> list[str]:
    return [part.site for part in found.observed]


def _conditions(found: Provenance) -> str:
    return f"arguments beside the data ({found.given})" if found.given else "nothing"


class _Tally:
    """What one site scores, over the chunks of a data set."""

    def __init__(self, site: str) -> None:
        self.site, self.digest = site, blake2b(digest_size=8)
        self.low, self.high, self.counted, self.entries = math.inf, -math.inf, 0, 0
        self.fn: Any = None
        self.inside = True

    def add(self, site: Any) -> None:
        """Look at one more chunk."""
        self.fn, value = site["fn"], site["value"]
        kept = kept_entries(site)
        counts = torch.ones_like(value, dtype=torch.bool) if kept is None else kept
        seen = value[counts]
        if seen.numel():
            self.low, self.high = min(self.low, float(seen.min())), max(self.high, float(seen.max()))
        self.inside = self.inside and _has_mass(self.fn, seen)
        self.counted, self.entries = self.counted + seen.numel(), self.entries + counts.numel()
        rows = torch.where(counts, value.float() + 0.0, torch.nan)  # minus zero is zero
        self.digest.update(_bytes(rows.movedim(rows.dim() - 1 - self.fn.event_dim, 0)))

    @property
    def observed(self) -> Observed:
        """Describe what was seen."""
        measure = _measure(self.fn) if self.inside else f"unnormalised {_family(self.fn)}"
        share = self.counted / max(self.entries, 1)
        return Observed(self.site, measure, self.digest.hexdigest(), self.low, self.high, share)


def _has_mass(fn: Any, seen: Tensor) -> bool:
    """Whether a distribution that can list its values lists these; one that cannot is taken at its support."""
    last = layers(fn)[-1]
    if _support(fn).is_discrete or not last.has_enumerate_support:
        return True
    atoms = last.enumerate_support(expand=False).unique()
    return bool(torch.isin(seen.to(atoms.dtype), atoms).all())


def _measure(fn: Any) -> str:
    support = _support(fn)
    if support.is_discrete or layers(fn)[-1].has_enumerate_support:
        return "counting"
    if support is constraints.dependent:
        return "not known"
    return "Lebesgue" if support.event_dim == 0 else f"Lebesgue on {support!r}"


def _support(fn: Any) -> Any:
    """The constraint on one value; that of no support known where a distribution does not tell."""
    try:
        support: Any = fn.support
    except (NotImplementedError, AttributeError):
        return constraints.dependent
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    return constraints.dependent if support is None or constraints.is_dependent(support) else support


def _family(fn: Any) -> str:
    """The name of a likelihood's law, by its nearest ancestor in torch or Pyro."""
    ancestors = type(layers(fn)[-1]).__mro__
    return next(kind.__name__ for kind in ancestors if kind.__module__.startswith(("torch.", "pyro.")))


def _beside(pair: Pair) -> list[int]:
    """The positions of the arguments that are not scored."""
    return [position for position in range(1, len(pair.example)) if position not in pair.observed.values()]


def _reads(pair: Pair, position: int) -> bool:
    """Whether the model reads an argument: with nothing in its place it fails."""
    data: list[Any] = list(pair.example)
    data[position] = object()
    try:
        pair.trace(pair.model, tuple(data), None)
    except Exception:  # of whatever kind the program's first use of it is
        return True
    return False


def _fingerprint(data: Rows, positions: list[int]) -> str:
    if not positions:
        return ""
    digest = blake2b(digest_size=8)
    parts = as_data(data if isinstance(data, Tensor) else data.parts)  # type: ignore[attr-defined]
    for position in positions:
        digest.update(_bytes(parts[position].float() + 0.0))
    return digest.hexdigest()


def _bytes(value: Tensor) -> bytes:
    return value.detach().cpu().contiguous().numpy().tobytes()
