"""How a pair is trained, whatever the pair, the data and the objective: the one list of settings."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from ..graphs.precision import check_precision
from .parameter_groups import Optimizer

__all__ = ["LEVELS", "Length", "Training", "adam"]

LEVELS = ("auto", "never", "graph", "full")
"""The ways in which a step is run."""


def adam(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    """Make the optimiser of those who name none: Adam with a step size of 0.001."""
    return torch.optim.Adam(parameters, lr=1e-3, fused=True)


@dataclass(frozen=True)
class Length:
    """The length of a run in steps, whatever unit it was asked in."""

    steps: int
    steps_per_epoch: int


@dataclass(frozen=True)
class Training:
    """The settings of a fit that are plain values; :func:`~aevb.inference.fit` tells what each of them means.

    ``fit``, :class:`~aevb.inference.Fit`, the command and a comparison's plan share it.

    Raises:
        ValueError: A setting is out of range, or more than one length is given.
    """

    optimizer: Optimizer | Mapping[str, Optimizer] = adam
    epochs: int | None = None
    steps: int | None = None
    samples_seen: float | None = None
    batch_size: int = 100
    seed: int = 0
    device: str = "auto"
    compile: str = "auto"
    precision: str = "float32"
    clip_norm: float | None = None
    checkpoint: str | Path | None = None
    resume: bool = False
    progress: bool = True

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"batch_size={self.batch_size} must be at least 1.")
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise ValueError(f"clip_norm={self.clip_norm} must be above 0.")
        check_precision(self.precision)
        if self.compile not in LEVELS:
            raise ValueError(f"compile={self.compile!r} is unknown; choose one of {', '.join(LEVELS)}.")
        given = self.lengths
        if len(given) > 1:
            raise ValueError(f"give one of epochs, steps and samples_seen, not {sorted(given)}.")
        for name, value in given.items():
            if value < 1:
                raise ValueError(f"{name}={value} must be at least 1.")

    @property
    def lengths(self) -> dict[str, float]:
        """The lengths that were asked for, by their unit."""
        said = {"epochs": self.epochs, "steps": self.steps, "samples_seen": self.samples_seen}
        return {name: value for name, value in said.items() if value is not None}

    def length(self, rows: int) -> Length:
        """Say how long to train on so many rows; 100 epochs where nothing is said."""
        batch_size = min(self.batch_size, rows)
        per_epoch = rows // batch_size
        if self.steps is not None:
            return Length(self.steps, per_epoch)
        if self.samples_seen is not None:
            return Length(math.ceil(self.samples_seen / batch_size), per_epoch)
        return Length((100 if self.epochs is None else self.epochs) * per_epoch, per_epoch)
