"""How a run's steps are made: under Pyro's handlers, as a captured graph, or as that graph compiled.

Each level falls back to the one before it, and says why once. Which level makes which step depends on the settings
alone, never on a clock: the same seed gives the same result.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

from .compile import CannotCaptureError, CapturedStep, Flat, capture, gathers_in_graph
from .data import Dataset
from .inductor import CannotCompileError, compiled
from .objectives import Batch
from .pair import as_data
from .step import EagerStep, Report

__all__ = ["Levels"]

_LEVELS = ("auto", "never", "graph", "full")
_WORTH_CAPTURING = 50  # steps: capturing costs about as much as so many
_WORTH_COMPILING = 100_000  # steps: a sixth of a step gained each, half a minute of compiling paid back several times


class Levels:
    """A step that is made at the best level that works.

    Args:
        eager: The step under Pyro's handlers.
        data: The data set.
        level: ``"auto"``, ``"never"``, ``"graph"`` or ``"full"``.
        steps: The length of the run.

    Raises:
        ValueError: The level is unknown.
    """

    def __init__(self, eager: EagerStep, data: Dataset, *, level: str, steps: int) -> None:
        if level not in _LEVELS:
            raise ValueError(f"compile={level!r} is unknown; choose one of {', '.join(_LEVELS)}.")
        if level == "auto" and steps >= _WORTH_COMPILING:
            level = "full"
        self.eager, self.data, self.level = eager, data, level
        self._captured: CapturedStep | None = None
        self._wanted = level in ("graph", "full") or (level == "auto" and steps >= _WORTH_CAPTURING)

    @property
    def gathers(self) -> bool:
        """Whether a batch needs no data because the step looks its rows up itself."""
        return self._captured is not None and gathers_in_graph(self.data)

    def __call__(self, batch: Batch) -> Report:
        """Make one step.

        Raises:
            NotFinite: This step, or one shortly before it, is not finite.
        """
        if self._wanted and (self._captured is None or not self._captured.valid):
            batch = self._with_data(batch)
            self._capture(batch)
        if self._captured is None:
            return self.eager(self._with_data(batch))
        return self._captured(batch._replace(data=()) if self.gathers else batch)

    def settle(self) -> None:
        """Look whether all steps so far were finite.

        Raises:
            NotFinite: One was not.
        """
        if self._captured is not None:
            self._captured.settle()

    def _capture(self, batch: Batch) -> None:
        self.settle()
        try:
            self._captured = capture(self.eager, self.data, batch)
        except CannotCaptureError as error:
            self._captured, self._wanted = None, False
            _say(f"the training step runs uncaptured, several times slower on a small net: {error}.")
            return
        if self.level == "full":
            try:
                self._captured = self._compile(batch)
            except (CannotCaptureError, CannotCompileError) as error:
                self.level = "graph"
                _say(f"the captured step runs uncompiled: {error}.")

    def _compile(self, batch: Batch) -> CapturedStep:
        """Capture once more with updates that a compiler can fuse, and hold the compiled step against the eager one."""

        def build(flat: Flat) -> Callable[..., Any]:
            given = () if gathers_in_graph(self.data) else batch.data
            return compiled(flat, [*given, batch.rows, batch.step])

        return capture(self.eager, self.data, batch, fused=False, build=build)

    def _with_data(self, batch: Batch) -> Batch:
        return batch if batch.data else batch._replace(data=as_data(self.data[batch.rows]))


def _say(reason: str) -> None:
    warnings.warn(reason, RuntimeWarning, stacklevel=2)
