"""Stop a run when the held-out bound no longer rises, and give back the best parameters."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from .trainer import Fit

__all__ = ["EarlyStopping"]


class EarlyStopping:
    """An observer that watches one column of the history, larger being better.

    A run ends with the parameters of the best epoch, whether patience ran out or the run reached its length. Each run
    is watched from the start: what an earlier run left here is forgotten.

    Args:
        patience: Epochs without a new best before the run is stopped.
        column: The column of the history that is watched.
        min_delta: By how much a value must exceed the best to count, in the column's unit.
    """

    def __init__(self, patience: int = 10, column: str = "validation_bound", min_delta: float = 0.0) -> None:
        if patience < 1:
            raise ValueError(f"patience={patience} must be at least 1.")
        self.patience, self.column, self.min_delta = patience, column, min_delta
        self._watched: int | None = None
        self.best, self.best_epoch = -math.inf, 0
        self.best_state: dict[str, Tensor] = {}

    def start_run(self, fit: Fit) -> None:
        """Forget the run that was watched before."""
        self._watched = id(fit)
        self.best, self.best_epoch, self.best_state = -math.inf, 0, {}

    def __call__(self, fit: Fit) -> None:
        """Look at the newest row; keep the parameters if it is the best, stop if the best is too old."""
        if self._watched not in (None, id(fit)):
            raise ValueError("this EarlyStopping watches another run that began later; make one for each run.")
        row = fit.history[-1]
        if self.column not in row:
            raise ValueError(
                f"early stopping watches {self.column!r}, but the history has {sorted(row)}; pass validation=... "
                "to fit, or watch another column."
            )
        if row[self.column] > self.best + self.min_delta:
            self.best, self.best_epoch = row[self.column], int(row["epoch"])
            self.best_state = {name: value.clone() for name, value in fit.pair.state_dict().items()}
        elif row["epoch"] - self.best_epoch >= self.patience:
            if not self.best_state:
                raise ValueError(
                    f"early stopping saw no finite {self.column} in {self.patience} epochs (now {row[self.column]:g}); "
                    "look for NaN in the validation data, or for a likelihood that rules them out."
                )
            fit.stop(f"no better {self.column} than {self.best:.4f} (epoch {self.best_epoch}) in {self.patience}")

    def end_run(self, fit: Fit) -> None:
        """Give the run the best parameters."""
        if self.best_state:
            fit.pair.load_state_dict(self.best_state, strict=False)  # a parameter born later was not there then

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs."""
        return {"best": self.best, "best_epoch": self.best_epoch, "best_state": self.best_state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on watching where a run was interrupted."""
        self.best, self.best_epoch, self.best_state = state["best"], state["best_epoch"], state["best_state"]
