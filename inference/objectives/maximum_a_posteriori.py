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

from ..pairs.data import Rows
from ..pairs.pair import Pair
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

    Raises:
        ValueError: ``scale`` is not positive, or a player is neither model nor guide or is not trained.

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
        known = self.objective.trains & {"model", "guide"}
        if not set(self.players) <= known:
            raise ValueError(
                f"players={self.players} must be among those of model and guide that "
                f"{type(self.objective).__name__} trains: {sorted(known)}; elsewhere the prior would count for nothing."
            )

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

    def start(self, pair: Pair, data: Rows) -> nn.Module:
        """The objective's own memory."""
        return self.objective.start(pair, data)

    def __call__(self, pair: Pair, batch: Batch, memory: nn.Module) -> Iterator[Phase]:
        """Yield the objective's phases, the prior added to the losses of the players that have one."""
        for phase in self.objective(pair, batch, memory):
            yield phase._replace(losses=self._penalised(pair, phase, batch.size))

    def _penalised(self, pair: Pair, phase: Phase, size: int) -> dict[str, Tensor]:
        own = self._own(pair)
        # Players that share one loss go on sharing it: one backward pass serves them both.
        held: dict[int, list[nn.Parameter]] = {}
        for player, loss in phase.losses.items():
            held.setdefault(id(loss), []).extend(own.get(player, []))
        penalised = {
            id(loss): loss + self._penalty(held[id(loss)]) / size for loss in phase.losses.values() if held[id(loss)]
        }
        return {player: penalised.get(id(loss), loss) for player, loss in phase.losses.items()}

    def _own(self, pair: Pair) -> dict[str, list[nn.Parameter]]:
        """Each player's parameters; one that two players share has its prior once."""
        own: dict[str, list[nn.Parameter]] = {}
        seen: set[int] = set()
        for player, parameters in pair.players().items():
            if player in self.players:
                own[player] = [p for p in parameters if id(p) not in seen]
                seen |= {id(p) for p in parameters}
        return own

    def _penalty(self, parameters: list[nn.Parameter]) -> Tensor:
        return torch.stack([p.square().sum() for p in parameters]).sum() / (2.0 * self.scale**2)
