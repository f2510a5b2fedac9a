"""Stop an adversarial run whose critic no longer tells the guide anything."""

from __future__ import annotations

import warnings
from typing import Any, Protocol

__all__ = ["CriticWatch"]

_SATURATED_LOSS = 1e-3  # nats; a critic that cannot tell at all has 2 log 2 = 1.39
_DIVERGED_LOSS = 10.0
_DIVERGED_RATIO = 1e4


class Watched(Protocol):
    """A loop of training, as far as the watch needs one."""

    history: list[dict[str, float]]

    def stop(self, reason: str) -> None:
        """End the loop."""


class CriticWatch:
    """An observer that ends a run whose critic has saturated or diverged, and says what to change.

    It reads the means of an epoch, never a step, so that a step stays free of data-dependent branches; a state must
    last for ``patience`` steps, since a critic may be ahead for a while and be caught up with.

    Args:
        patience: Steps that a critic may be bad for in a row.
    """

    def __init__(self, patience: int = 5000) -> None:
        if patience < 1:
            raise ValueError(f"patience={patience} must be at least 1 step.")
        self.patience = patience
        self.bad_since: int | None = None

    def start_run(self, fit: Watched) -> None:
        """Forget the run that was watched before."""
        self.bad_since = None

    def __call__(self, fit: Watched) -> None:
        """Judge the newest row of the history."""
        row = fit.history[-1]
        reason = _saturated(row) or _diverged(row)
        if reason is None:
            self.bad_since = None
            return
        first = len(fit.history) == 1
        before = 0 if first else int(fit.history[-2]["step"])
        self.bad_since = before if self.bad_since is None else self.bad_since
        if row["step"] - self.bad_since >= self.patience:
            warnings.warn(f"step {int(row['step'])}: {reason}", RuntimeWarning, stacklevel=2)
            fit.stop(reason)

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs."""
        return {"bad_since": self.bad_since}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on watching where a run was interrupted."""
        self.bad_since = state["bad_since"]


def _saturated(row: dict[str, float]) -> str | None:
    if row["critic_loss"] > _SATURATED_LOSS or row["critic_accuracy"] < 0.999:
        return None
    return (
        f"the critic has saturated: it tells all draws apart (loss {row['critic_loss']:.1e}), so its log-ratio is no "
        "longer calibrated. Set adaptive_contrast=True, give the guide more noise, lower the critic's learning rate, "
        "or take fewer critic_steps (patience=None goes on regardless)."
    )


def _diverged(row: dict[str, float]) -> str | None:
    if row["critic_loss"] < _DIVERGED_LOSS and abs(row["log_ratio"]) < _DIVERGED_RATIO:
        return None
    return (
        f"the critic has diverged (loss {row['critic_loss']:.3g}, mean log-ratio {row['log_ratio']:.3g}; it guesses at "
        "1.39). Lower the learning rate of the guide or of the critic, or take more critic_steps."
    )
