"""How a run's steps are made: under Pyro's handlers, as a captured graph, or as that graph compiled.

Each level falls back to the one before it, and says why once. Which level makes which step depends on the settings
alone, never on a clock: the same seed gives the same result. So a compiler at work in the background is waited for at
a step that is fixed beforehand, late enough that it is done by then.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

from ..graphs.background import Background
from ..graphs.graph import Flat
from ..graphs.inductor import compiled
from ..graphs.torch_internals import CannotCaptureError, CannotCompileError
from ..objectives import Batch
from ..pairs.data import Rows
from ..pairs.sites import as_data
from .captured_step import CapturedStep, capture, gathers_in_graph
from .step import EagerStep, Report

__all__ = ["Levels"]

_WORTH_CAPTURING = 50  # steps: capturing costs about as much as so many
_WORTH_COMPILING = 30_000  # steps: those after the switch win back what looking after the compiler costs
_SWITCH = 10_000  # the step from which a long run is compiled
_FREE = 3  # captures, or compilations, before they have to be worth it
_CHECKS = frozenset(
    10**power for power in range(1, 9)
)  # steps after a capture at which it is held against an eager one


class Levels:
    """A step that is made at the best level that works.

    Args:
        eager: The step under Pyro's handlers.
        data: The data set.
        level: One of :data:`~.settings.LEVELS`.
        steps: The length of the run.
    """

    def __init__(self, eager: EagerStep, data: Rows, *, level: str, steps: int) -> None:
        self.eager, self.data = eager, data
        self._captured: CapturedStep | None = None
        self._capturing = level in ("graph", "full") or (level == "auto" and steps >= _WORTH_CAPTURING)
        self._compiling = level == "full" or (level == "auto" and steps >= _WORTH_COMPILING)
        self._switch = 0 if level == "full" else _SWITCH
        self._background: Background | None = None
        self._captures = self._compilations = self._captured_at = 0
        self._outdated: str | None = None
        self._shapes_told = False

    @property
    def gathers(self) -> bool:
        """True where a batch needs no data because the step looks its rows up itself."""
        return self._captured is not None and gathers_in_graph(self.data)

    def __call__(self, batch: Batch, step: int) -> Report:
        """Make one step, the run's ``step``-th.

        Raises:
            NotFinite: This step, or one shortly before it, is not finite.
        """
        if self._capturing and (self._captured is None or self._outdated is not None):
            self._capture(self._with_data(batch), step)
        elif self._captured is not None and self._compiling and step == self._switch:
            self._compile(self._with_data(batch), step)
        if self._captured is not None and step - self._captured_at in _CHECKS:
            self._check(self._with_data(batch), step)
        if self._captured is None:
            return self.eager(self._with_data(batch))
        if self.gathers and batch.data:
            batch = batch._replace(data=())
        return self._captured(batch) if self._captured.fits(batch) else self._unlike(batch)

    def look(self, data: Rows) -> None:
        """Look whether what a captured step took from Python still holds; called where the user's code has run.

        Args:
            data: The data set, which may have been replaced.
        """
        if data is not self.data:
            self.data, self._outdated = data, "the data set"
        elif self._captured is not None and self._outdated is None:
            self._outdated = self._captured.outdated()

    def close(self) -> None:
        """Stop a compiler that is still at work; the run has ended before it was asked for what it compiled."""
        if self._background is not None:
            self._background.stop()
            self._background = None

    def settle(self) -> None:
        """Look whether all steps so far were finite.

        Raises:
            NotFinite: One was not.
        """
        if self._captured is not None:
            self._captured.settle()

    def _capture(self, batch: Batch, step: int) -> None:
        self.settle()
        changed, self._outdated = self._outdated, None
        self._captures += 1
        if self._captures > _FREE + step // _WORTH_CAPTURING:
            self._give_up(
                f"{changed} has changed before step {step}, too often to capture the step anew each time; hold it in a "
                "buffer that is changed in place"
            )
            return
        try:
            self._captured = capture(self.eager, self.data, batch)
        except CannotCaptureError as error:
            self._give_up(str(error))
            return
        self._captured_at = step
        if self._compiling and step >= self._switch:
            self._compile(batch, step)
        elif self._compiling and self._background is None:
            self._compile_beside(batch)

    def _check(self, batch: Batch, step: int) -> None:
        """Hold the captured step against an eager one once more: what was read outside torch may have changed."""
        assert self._captured is not None
        self.settle()
        try:
            if self._captured.fits(batch._replace(data=()) if self.gathers else batch):
                self._captured.insist_on_equality(batch)
        except CannotCaptureError as error:
            began = self._captured_at
            self._give_up(f'{error}; steps {began} to {step} may be wrong, train again with compile="never"')

    def _give_up(self, reason: str) -> None:
        self._captured, self._capturing = None, False
        _say(f"the training step runs uncaptured, several times slower on a small net: {reason}.")

    def _unlike(self, batch: Batch) -> Report:
        """A step on a batch of another shape than the captured ones."""
        self.settle()
        if not self._shapes_told:
            self._shapes_told = True
            shapes = [tuple(part.shape) for part in batch.data]
            _say(f"batches differ in shape ({shapes}); those unlike the first run uncaptured, several times slower.")
        return self.eager(batch)

    def _compile(self, batch: Batch, step: int) -> None:
        """Capture once more with updates that a compiler can fuse, and hold the compiled step against the eager one."""
        self.settle()
        self._compilations += 1
        if self._compilations > _FREE + step // _SWITCH:
            self._compiling = False
            _say("the captured step runs uncompiled: what it takes from Python changes too often to compile it anew.")
            return
        try:
            if self._background is not None:
                self._background.wait()
            self._captured = capture(
                self.eager, self.data, batch, fused=False, build=lambda flat: compiled(flat, self._arguments(batch))
            )
        except (CannotCaptureError, CannotCompileError) as error:
            self._compiling = False
            _say(f"the captured step runs uncompiled: {error}.")
        self._background = None

    def _compile_beside(self, batch: Batch) -> None:
        """Let another process compile what :meth:`_compile` will ask for."""

        def build(flat: Flat) -> Callable[..., Any]:
            self._background = Background(flat, self._arguments(batch))
            return flat

        try:
            capture(self.eager, self.data, batch, fused=False, build=build)
        except (CannotCaptureError, CannotCompileError) as error:
            self._compiling = False
            _say(f"the captured step stays uncompiled: {error}.")

    def _arguments(self, batch: Batch) -> list[Any]:
        given = () if gathers_in_graph(self.data) else batch.data
        return [*given, batch.rows, batch.step]

    def _with_data(self, batch: Batch) -> Batch:
        return batch if batch.data else batch._replace(data=as_data(self.data[batch.rows]))


def _say(reason: str) -> None:
    warnings.warn(reason, RuntimeWarning, stacklevel=2)
