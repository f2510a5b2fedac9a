"""Follow log p(x) while a pair is trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..evidence import Estimator, log_evidence

if TYPE_CHECKING:
    from .trainer import Fit

__all__ = ["Track"]


class Track:
    """An observer that adds an estimate of log p(x) to the history, at epochs spaced evenly on the log axis.

    Args:
        estimator: Any estimator of the evidence.
        parts: Column of the history to the datapoints it is the mean over.
        ratio: By how much the samples seen grow from one estimate to the next.

    Each column has its standard error over the datapoints beside it, in the column of that name and ``_error``.
    """

    def __init__(self, estimator: Estimator, parts: Mapping[str, Any], ratio: float = 2.0) -> None:
        self.estimator, self.parts, self.ratio = estimator, parts, ratio
        self.next = 0.0

    def start_run(self, fit: Fit) -> None:
        """Begin anew: where the marks of an earlier run lay is forgotten."""
        self.next = 0.0

    def __call__(self, fit: Fit) -> None:
        """Estimate, if the next mark or the end is reached."""
        row = fit.history[-1]
        if row["samples_seen"] < self.next and not fit.done:
            return
        self.next = max(row["samples_seen"] * self.ratio, self.next)
        for column, part in self.parts.items():
            found = log_evidence(fit.pair.model, fit.pair.guide, part, self.estimator, seed=fit.seed)
            row |= {column: found.mean, f"{column}_error": found.standard_error}

    def state_dict(self) -> dict[str, float]:
        """Tell what a resumed run needs."""
        return {"next": self.next}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Go on with the marks where a run was interrupted."""
        self.next = state["next"]
