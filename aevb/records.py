"""``evidence.json``: the list of estimates a run folder holds."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["add_records", "read_records"]


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
    """Write estimates into a run folder; one of the same method and split takes the older one's place."""
    new = {(r["method"], r["split"]) for r in records}
    kept = [r for r in read_records(folder) if (r.get("method"), r.get("split")) not in new]
    everything = [*kept, *records]
    (folder / "evidence.json").write_text(json.dumps(everything, indent=2) + "\n", encoding="utf-8")
    return everything
