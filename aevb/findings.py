"""What the doctor found wrong with a run's programs: asked after training, and told with the run's numbers."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aevb.inference.diagnostics.doctor import Finding

__all__ = ["examine", "told"]


def examine(pair: Any, points: Any, *, seed: int = 0) -> "list[Finding]":
    """The doctor's errors and warnings on the first rows of some data; that it failed is a finding as well."""
    from aevb.inference.diagnostics.doctor import Finding, doctor
    from aevb.inference.one_line import reason

    try:
        found = doctor(pair.model, pair.guide, points, seed=seed)
    except Exception as error:  # numbers that are there already must not be lost by it
        return [Finding("not-examined", "warning", f"the doctor could not look at this pair: {reason(error)}")]
    return [finding for finding in found if finding.severity != "note"]


def told(finding: "Finding") -> str:
    """One line a person can read."""
    return f"{finding.severity}: {finding.name}: {finding.sentence}"
