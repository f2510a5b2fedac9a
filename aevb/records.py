"""Estimates as a run folder keeps them: which takes an older one's place, which compare, and how k-hat is told."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aevb.run_folder import RunFolder

__all__ = ["add_records", "khat_words", "refuse_unlike"]


def add_records(folder: "RunFolder", records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Write estimates into a run folder; one of the same method, split and number of points takes the older's place."""
    new = {_key(record) for record in records}
    everything = [*(record for record in folder.records() if _key(record) not in new), *records]
    folder.write_records(everything)
    return everything


def refuse_unlike(records: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Hold the estimates of several runs, a method and a split each, to being of one kind of number.

    Args:
        records: A run's name to its ``evidence.json``.

    Raises:
        ValueError: Two of one method and split are of other rows, units or measures; the message says which.
    """
    from aevb.inference.evidence.provenance import Provenance, difference

    known: dict[tuple[Any, ...], tuple[str, Provenance]] = {}
    for run, record in ((run, record) for run, found in records.items() for record in found if "provenance" in record):
        mine = Provenance.from_record(record["provenance"])
        other, theirs = known.setdefault(_key(record), (run, mine))
        if (reason := difference((other, run), theirs, mine)) is not None:
            raise ValueError(f"{other} and {run} cannot be compared by {record['method']}: {reason}.")


def khat_words(record: Mapping[Any, Any]) -> str:
    """On how many datapoints k-hat is too high, and what that means; empty where there are no weights.

    A table's row counts as a record; what was written before the threshold was told is a share above 0.7.

    Example:
        >>> khat_words({"khat_over_threshold": 0.25, "khat_threshold": 2 / 3}), khat_words({"khat_over_0.7": "0.5"})
        ('25.0 % above 0.67', '50.0 % above 0.70')
    """
    told = "khat_threshold" in record
    share = _number(record.get("khat_over_threshold" if told else "khat_over_0.7"))
    threshold = _number(record["khat_threshold"]) if told else 0.7
    return "" if math.isnan(share) else f"{100 * share:.1f} % above {threshold:.2f}"


def _key(record: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(record.get(name) for name in ("method", "split", "num_points"))


def _number(cell: Any) -> float:
    """A number of a JSON file, a data frame or a CSV file, in which an empty cell stands for none."""
    return math.nan if cell in (None, "") else float(cell)
