"""The file that a run in the middle is kept in, so that it goes on as if it had never stopped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from ..files import replacing

__all__ = ["observer_states", "read_checkpoint", "restore_observers", "write_checkpoint"]


def write_checkpoint(state: Mapping[str, Any], path: Path) -> None:
    """Write everything that the next step depends on."""
    with replacing(path) as unfinished:
        torch.save(dict(state), unfinished)


def read_checkpoint(path: Path, device: torch.device, ours: Mapping[str, Any]) -> dict[str, Any]:
    """Read what :func:`write_checkpoint` wrote.

    Args:
        path: The file.
        device: Where its tensors go.
        ours: What must be the same in the file as in the run that goes on from it.

    Raises:
        ValueError: The file is no checkpoint, or of another run.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)  # a pickle without code
    except (UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(
            f"cannot resume from {path}: it is no checkpoint of a run ({type(error).__name__})."
        ) from error
    for name, value in ours.items():
        if state[name] != value:
            raise ValueError(f"cannot resume from {path}: it has {name}={state[name]}, this run {name}={value}.")
    return state


def observer_states(observers: Sequence[Any]) -> list[tuple[str, dict[str, Any]]]:
    """The state of every observer, by its kind."""
    return [(type(o).__name__, o.state_dict() if hasattr(o, "state_dict") else {}) for o in observers]


def restore_observers(observers: Sequence[Any], kept: Sequence[tuple[str, dict[str, Any]]]) -> None:
    """Give each observer the state of the first one of its kind that is left; one that joins the run starts anew."""
    left = list(kept)
    for observer in observers:
        at = next((i for i, (kind, _) in enumerate(left) if kind == type(observer).__name__), None)
        if at is not None and hasattr(observer, "load_state_dict"):
            observer.load_state_dict(left.pop(at)[1])
