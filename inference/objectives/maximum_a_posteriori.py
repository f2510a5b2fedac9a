r"""A normal prior on the parameters of any objective: maximum a posteriori instead of maximum likelihood.

    eq. (8):   N/M sum_i L(x_i) + log p(theta),     p(theta) = N(0, s^2 I)

Losses here are nats per datapoint, eq. (8) over N, so the minibatch scale N/M weighs the prior alone: its share of
the loss is |theta|^2 / (2 s^2 N).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..data import Dataset
from ..pair import Pair
from .objective import Batch, Objective, Phase, evaluations_per_visit

__all__ = ["MAP"]


@dataclass(frozen=True)
class MAP:
    """Add the log-density of a normal prior over a player's parameters to an objective.

    The bound that is reported stays the bound of the data; only the losses carry the prior.

    Args:
        objective: Any objective.
        scale: The prior's standard deviation s; the paper takes 1.
        players: Whose parameters have the prior; the paper's theta are the model's.

    Example:
        >>> from aevb.inference import SGVB
        >>> MAP(SGVB()).scale
        1.0

    References:
        Auto-Encoding Variational Bayes (Kingma & Welling, 2013), eq. (8) and sec. 5 ("approximate MAP").
    """

    objective: Objective
    scale: float = 1.0
    players: tuple[str, ...] = ("model",)

    def __post_init__(self) -> None:
        if self.scale <= 0.0:
            raise ValueError(f"scale={self.scale} of the parameter prior must be positive.")

    @property
    def trains(self) -> frozenset[str]:
        """Whatever the objective trains."""
        return self.objective.trains

    @property
    def observers(self) -> tuple[Any, ...]:
        """Whatever watches the objective."""
        return tuple(getattr(self.objective, "observers", ()))

    @property
    def evaluations_per_visit(self) -> int:
        """As many as the objective takes."""
        return evaluations_per_visit(self.objective)

    def start(self, pair: Pair, data: Dataset) -> nn.Module:
        """The objective's own memory."""
        return self.objective.start(pair, data)

    def __call__(self, pair: Pair, batch: Batch, memory: nn.Module) -> Iterator[Phase]:
        """Yield the objective's phases, the prior added to the losses of the players that have one."""
        for phase in self.objective(pair, batch, memory):
            yield phase._replace(losses=self._penalised(pair, phase, batch.size))

    def _penalised(self, pair: Pair, phase: Phase, size: int) -> dict[str, Tensor]:
        players = pair.players()
        moved = [player for player in phase.losses if player in self.players]
        parameters = [p for player in moved for p in players[player]]
        if not parameters:
            return dict(phase.losses)
        norm = torch.stack([p.square().sum() for p in parameters]).sum()
        penalty = norm / (2.0 * self.scale**2 * size)
        # Players that share one loss go on sharing it: one backward pass serves them both.
        shared = {id(phase.losses[player]): phase.losses[player] + penalty for player in moved}
        return {player: shared.get(id(loss), loss) for player, loss in phase.losses.items()}
