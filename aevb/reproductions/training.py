"""Drain a training loop, letting its step sizes fall over the second half."""

from aevb.inference.training.trainer import Fit

__all__ = ["train"]

_LEAST = 0.05


def train(loop: Fit, *, decay: bool) -> Fit:
    """Run a loop to its end; with ``decay``, step sizes go linearly to a twentieth over the second half.

    A short run with a large step needs it: an adversarial one circles its fixed point at a distance of the step size.
    """
    groups = [group for optimizer in loop.optimizers.values() for group in optimizer.param_groups]
    # Kept in the group under torch's own name for it: a checkpoint brings it back with the rest.
    first = [(group, group.setdefault("initial_lr", group["lr"])) for group in groups]
    for _ in loop:
        if decay:
            factor = max(_LEAST, min(1.0, 2.0 * (1.0 - loop.step / loop.length.steps)))
            for group, rate in first:
                group["lr"] = factor * rate
    return loop
