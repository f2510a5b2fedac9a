"""``doctor.json``: what the doctor found wrong with a run's programs, kept beside its numbers and told with them."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aevb.inference.diagnostics.doctor import Finding

__all__ = ["examine", "read_findings", "told", "write_findings"]


def examine(pair: Any, points: Any, *, seed: int = 0) -> "list[Finding]":
    """The doctor's errors and warnings on the first rows of some data; that it failed is a finding as well."""
    from aevb.inference.diagnostics.doctor import Finding, doctor
    from aevb.inference.diagnostics.verdict import reason

    try:
        found = doctor(pair.model, pair.guide, points, seed=seed)
    except Exception as error:  # numbers that are there already must not be lost by it
        return [Finding("not-examined", "warning", f"the doctor could not look at this pair: {reason(error)}")]
    return [finding for finding in found if finding.severity != "note"]


def write_findings(folder: Path, findings: "Sequence[Finding]") -> None:
    """Keep findings in a run folder, in place of earlier ones."""
    text = json.dumps([asdict(finding) for finding in findings], indent=2)
    (folder / "doctor.json").write_text(text + "\n", encoding="utf-8")


def read_findings(folder: Path) -> "list[Finding]":
    """The findings of a run folder; none where nobody looked."""
    from aevb.inference.diagnostics.doctor import Finding

    path = folder / "doctor.json"
    return [Finding(**row) for row in json.loads(path.read_text(encoding="utf-8"))] if path.is_file() else []


def told(finding: "Finding") -> str:
    """One line a person can read."""
    return f"{finding.severity}: {finding.name}: {finding.sentence}"
