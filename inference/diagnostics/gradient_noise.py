r"""The gradient microscope: variance and signal-to-noise of every objective's gradient at fixed parameters.

g_r = gradient of repeat r,    variance = sum_j Var_r(g_rj),    SNR = |mean_r g_r| / sqrt(variance)
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pyro
import torch
from torch import Tensor, nn

from ..objectives.objective import Batch, Objective
from ..pairs.data import as_rows
from ..pairs.finished import Finished, checked
from ..pairs.pair import Pair
from ..pairs.sites import as_data
from ..random_state import RandomState

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["gradient_microscope"]


def gradient_microscope(
    pair: Finished,
    objectives: Mapping[str, Objective],
    data: Any,
    *,
    num_repeats: int = 100,
    step: int = 0,
    seed: int = 0,
) -> pd.DataFrame:
    """Measure the noise of each objective's gradient, a parameter block at a time.

    Args:
        pair: A run, or a checked pair; its parameters are as before afterwards.
        objectives: Name to objective.
        data: One batch, the same for all: what is measured is the noise of the draws.
        num_repeats: Gradients of each objective.
        step: The step that schedules see.
        seed: Of the draws.

    Returns:
        A row per objective, player and parameter: ``variance`` (summed over the block) with ``variance_low`` and
        ``variance_high`` (two standard errors), ``mean_norm``, ``snr`` and ``size``.

    Raises:
        ValueError: ``num_repeats < 3``.
    """
    pair = checked(pair)
    import pandas as pd

    if num_repeats < 3:
        raise ValueError(f"num_repeats={num_repeats} must be at least 3; a variance has an error of its own.")
    device = pair.example[0].device
    rows = as_rows(data, device)
    index = torch.arange(len(rows), device=device)
    batch = Batch(as_data(rows[index]), index, len(rows), torch.tensor(step, device=device))
    kept = {name: value.detach().clone() for name, value in pair.state_dict().items()}
    found = []
    try:
        for name, objective in objectives.items():
            with RandomState(seed, device), pyro.validation_enabled(False):
                memory = objective.start(pair, rows)
                repeats = [_gradients(pair, objective, batch, memory) for _ in range(num_repeats)]
            for player, block in repeats[0]:
                stack = torch.stack([repeat[player, block].flatten() for repeat in repeats]).double()
                found.append({"objective": name, "player": player, "block": block, **_summary(stack)})
    finally:
        pair.load_state_dict(kept)
    return pd.DataFrame(found)


def _gradients(pair: Pair, objective: Objective, batch: Batch, memory: nn.Module) -> dict[tuple[str, str], Tensor]:
    programs = {"model": pair.model, "guide": pair.guide}
    found: dict[tuple[str, str], Tensor] = {}
    done: set[str] = set()
    for phase in objective(pair, batch, memory):
        for player, loss in phase.losses.items():
            program = programs.get(player)
            if program is None or player in done:
                continue
            done.add(player)
            named = {n.removeprefix("fn."): p for n, p in program.named_parameters() if p.requires_grad}
            if not named:
                continue
            slopes = torch.autograd.grad(loss, list(named.values()), retain_graph=True, allow_unused=True)
            for (block, parameter), slope in zip(named.items(), slopes, strict=True):
                found[player, block] = torch.zeros_like(parameter) if slope is None else slope.detach()
    return found


def _summary(stack: Tensor) -> dict[str, float]:
    repeats = len(stack)
    mean = stack.mean(0)
    spread = (stack - mean).square().sum(-1) * repeats / (repeats - 1)
    variance, error = float(spread.mean()), float(spread.std()) / math.sqrt(repeats)
    norm = float(mean.norm())
    return {
        "variance": variance,
        "variance_low": max(0.0, variance - 2 * error),
        "variance_high": variance + 2 * error,
        "mean_norm": norm,
        "snr": norm / math.sqrt(variance) if variance > 0 else math.inf,
        "size": float(stack.shape[1]),
    }
