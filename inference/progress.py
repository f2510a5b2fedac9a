"""A progress bar with the bound and the rate; plain lines, seldom, where there is no terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

__all__ = ["Progress"]

_REFRESH = 0.25  # seconds between reads of the bound: a read waits for the accelerator, so it is rare
_LOG_EVERY = 30.0  # seconds between lines where no bar can be drawn


class Progress:
    """Show how far a run is.

    Args:
        total: Steps in all.
        samples_per_step: Datapoints a step, for the rate.
        enabled: Whether to show anything.
    """

    def __init__(self, total: int, samples_per_step: int, *, enabled: bool) -> None:
        self.total = total
        self.samples_per_step = samples_per_step
        self.enabled = enabled
        self._bar: Bar | None = None
        self._said = ""
        self._first = self._began = self._last = 0.0
        self._first_step = -1

    def __enter__(self) -> Progress:
        """Draw the bar, if it is wanted and there is a terminal."""
        self._began = self._last = time.monotonic()
        self._first_step = -1
        if self.enabled and sys.stderr.isatty():
            self._bar = _bar()
            self._bar.start()
            self._task = self._bar.add_task("", total=self.total, said="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def advance(self, step: int, report: Mapping[str, Tensor]) -> None:
        """Tell that a step is done."""
        now = time.monotonic()
        if self._first_step < 0:
            self._first_step, self._first = step, now
        if not self.enabled or now - self._last < (_LOG_EVERY if self._bar is None else _REFRESH):
            return
        self._last = now
        rate = (step - self._first_step) / max(now - self._first, 1e-9)
        numbers = [f"{name} {float(value):.2f}" for name, value in list(report.items())[:1]]
        said = "  ".join([*numbers, f"{rate:.0f} steps/s", f"{rate * self.samples_per_step:.0f} samples/s", self._said])
        if self._bar is not None:
            self._bar.update(self._task, completed=step, said=said)
        else:
            print(f"step {step}/{self.total}  {said}", file=sys.stderr, flush=True)

    def row(self, row: Mapping[str, float]) -> None:
        """Tell the newest row of the history."""
        self._said = f"validation {row['validation_bound']:.2f}" if "validation_bound" in row else ""


def _bar() -> Bar:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[said]}"),
        console=Console(stderr=True),
        transient=True,
    )
