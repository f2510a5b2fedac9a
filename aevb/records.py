"""``evidence.json``: the list of estimates a run folder holds."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["add_records", "khat_words", "read_records", "refuse_unlike"]


def read_records(folder: Path) -> list[dict[str, Any]]:
    """The estimates of a run folder, oldest first.

    Raises:
        ValueError: The file is not a JSON list.
    """
    path = folder / "evidence.json"
    if not path.exists():
        return []
    try:
        records = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON: {error}.") from error
    if not isinstance(records, list):
        raise ValueError(f"{path} must hold a list of estimates.")
    return records


def add_records(folder: Path, records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Write estimates into a run folder; one of the same method, split and number of points takes the older's place."""
    new = {_key(record) for record in records}
    kept = [record for record in read_records(folder) if _key(record) not in new]
    everything = [*kept, *records]
    (folder / "evidence.json").write_text(json.dumps(everything, indent=2) + "\n", encoding="utf-8")
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
