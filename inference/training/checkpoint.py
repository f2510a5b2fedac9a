"""Write a run in the middle and go on from it as if it had never stopped."""

from __future__ import annotations

import os
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from .trainer import Fit

__all__ = ["read_checkpoint", "write_checkpoint"]


def write_checkpoint(loop: Fit, path: Path) -> None:
    """Write everything that the next step depends on: parameters, optimisers, memory, random state, history."""
    state = {
        "pair": loop.pair.state_dict(),
        "memory": loop.memory.state_dict(),
        "optimizers": {name: optimizer.state_dict() for name, optimizer in loop.optimizers.items()},
        "random": loop.random.state_dict(),
        "observers": [(type(observer).__name__, _state_of(observer)) for observer in loop.observers],
        "step": loop.step,
        "stopped": loop.stopped,
        "seconds": loop._seconds,
        "history": loop.history,
        "rows": len(loop.data),
        "batch_size": loop.batch_size,
        "seed": loop.seed,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    # A file half written when the machine stops must not take the place of a whole one.
    unfinished = path.with_name(path.name + ".part")
    torch.save(state, unfinished)
    os.replace(unfinished, path)


def read_checkpoint(loop: Fit, path: Path) -> None:
    """Put a run where its checkpoint left it.

    Raises:
        ValueError: The file is no checkpoint, or belongs to other data, another batch size, seed or architecture.
    """
    try:
        state = torch.load(path, map_location=loop.device, weights_only=True)  # a pickle that may hold no code
    except (UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(
            f"cannot resume from {path}: it is no checkpoint of a run ({type(error).__name__})."
        ) from error
    ours = {"rows": len(loop.data), "batch_size": loop.batch_size, "seed": loop.seed}
    for name, value in ours.items():
        if state[name] != value:
            raise ValueError(f"cannot resume from {path}: it has {name}={state[name]}, this run {name}={value}.")
    try:
        loop.pair.load_state_dict(state["pair"])
        loop.memory.load_state_dict(state["memory"])
        for name, optimizer in loop.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
    except (RuntimeError, KeyError, ValueError) as error:
        raise ValueError(f"cannot resume from {path}: it holds another pair or objective ({error}).") from error
    loop.random.load_state_dict({name: _on_cpu(value) for name, value in state["random"].items()})
    _restore_observers(loop.observers, list(state["observers"]))
    loop.step, loop.history, loop._seconds = state["step"], state["history"], state["seconds"]
    loop.stopped = state.get("stopped")
    per_epoch = loop.length.steps_per_epoch
    if loop.step % per_epoch:  # a run that ended inside an epoch goes on with the rest of that shuffle
        loop._order = loop.random.permutation(len(loop.data), epoch=loop.step // per_epoch)


def _restore_observers(observers: list[Any], kept: list[tuple[str, dict[str, Any]]]) -> None:
    """Give each observer the state of the first one of its kind that is left; one that joins the run starts anew."""
    for observer in observers:
        at = next((i for i, (kind, _) in enumerate(kept) if kind == type(observer).__name__), None)
        if at is not None and hasattr(observer, "load_state_dict"):
            observer.load_state_dict(kept.pop(at)[1])


def _state_of(observer: Any) -> dict[str, Any]:
    state: dict[str, Any] = observer.state_dict() if hasattr(observer, "state_dict") else {}
    return state


def _on_cpu(value: Any) -> Any:
    return value.cpu() if isinstance(value, torch.Tensor) else value
