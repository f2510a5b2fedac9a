"""What the checks are written in: a sentence for each thing that does not hold."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from aevb.inference.random_state import RandomState

__all__ = ["agree", "every_parameter_learns", "insist", "seeded", "smooth_sum"]

_LIMIT = 1.0 - 1e-6  # of the coordinate t of the real line: |t / (1 - t^2)| goes to half a million
_POINTS = 40_001


def insist(holds: object, sentence: str) -> None:
    """Raise the sentence unless it holds."""
    if not holds:
        raise AssertionError(sentence)


def agree(found: Tensor, right: Tensor, sentence: str, tolerance: float = 1e-6) -> None:
    """Raise the sentence, and by how much, where two tensors differ by more than rounding."""
    insist(found.shape == right.shape, f"{sentence} (shapes {list(found.shape)} and {list(right.shape)})")
    off = ((found - right).abs() / (1.0 + right.abs())).detach()
    insist(not bool((off > tolerance).any() | off.isnan().any()), f"{sentence} (off by up to {float(off.max()):.3g})")


def every_parameter_learns(block: nn.Module, loss: Callable[[], Tensor]) -> None:
    """Insist that the gradient of a loss reaches every parameter of a block, if it has any, finite and not zero."""
    if not list(block.parameters()):
        return
    block.zero_grad()
    with torch.enable_grad():
        loss().backward()
    for name, value in block.named_parameters():
        slope = value.grad
        insist(slope is not None and bool(slope.isfinite().all()), f"parameter {name!r} gets no finite gradient")
        insist(slope is not None and bool((slope != 0).any()), f"parameter {name!r} gets a gradient of zero")


def seeded(seed: int = 0) -> RandomState:
    """Everything drawn inside is drawn from this seed, and the global random state is left as it was."""
    return RandomState(seed, torch.device("cpu"))


def smooth_sum(log_prob: Callable[[Tensor], Tensor], domain: tuple[float, float], power: int = 0) -> float:
    """Integrate x^power p(x) over an interval, by a trapezoidal rule on a coordinate that has no ends.

    Args:
        log_prob: From points ``[n]`` in float64 to log-densities ``[n]``.
        domain: The interval; its ends may be infinite.
        power: Of x.
    """
    t = torch.linspace(-_LIMIT, _LIMIT, _POINTS, dtype=torch.float64)
    u, log_stretch = t / (1 - t * t), ((1 + t * t) / (1 - t * t).square()).log()
    low, high = domain
    if low == -torch.inf and high == torch.inf:
        x = u
    elif high == torch.inf:
        x, log_stretch = low + u.exp(), log_stretch + u
    else:
        inside = u.sigmoid()
        x = low + (high - low) * inside
        log_stretch = log_stretch + torch.nn.functional.logsigmoid(u) + torch.nn.functional.logsigmoid(-u)
        log_stretch = log_stretch + torch.tensor(high - low, dtype=torch.float64).log()
    kept = x.isfinite() & (x > low) & (x < high)  # numbers are too short for the rest, which weighs nothing
    x, log_stretch = x[kept], log_stretch[kept]
    values = (log_prob(x) + log_stretch).exp() * x**power
    return float(values.nan_to_num().sum() * (t[1] - t[0]))


def rows_of(data: Sequence[Tensor], index: Any) -> tuple[Tensor, ...]:
    """Some rows of a program's arguments."""
    return tuple(part[index] for part in data)
