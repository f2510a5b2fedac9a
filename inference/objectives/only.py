"""Some players of an objective held still: fit a guide to a fixed model, or a model to a fixed guide."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..pairs.data import Rows
from ..pairs.pair import Pair
from .objective import Batch, Objective, Phase, evaluations_per_visit

__all__ = ["Only"]


@dataclass(frozen=True)
class Only:
    """Train only the named players of an objective.

    A model that was trained without a guide (Monte Carlo EM) gets one for its evidence by
    ``Only(SGVB(), ("guide",))``: the model is not touched.

    Args:
        objective: Any objective.
        players: The players that are trained.

    Raises:
        ValueError: The objective trains none of them.

    Example:
        >>> from aevb.inference import SGVB
        >>> sorted(Only(SGVB(), ("guide",)).trains)
        ['guide']
    """

    objective: Objective
    players: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.trains:
            known = ", ".join(sorted(self.objective.trains))
            raise ValueError(f"players={self.players} are none of those the objective trains: {known}.")

    @property
    def trains(self) -> frozenset[str]:
        """The named players, as far as the objective trains them."""
        return self.objective.trains & frozenset(self.players)

    @property
    def observers(self) -> tuple[Any, ...]:
        """Those of the objective."""
        return tuple(getattr(self.objective, "observers", ()))

    @property
    def evaluations_per_visit(self) -> int:
        """As many as the objective takes."""
        return evaluations_per_visit(self.objective)

    def start(self, pair: Pair, data: Rows) -> nn.Module:
        """The objective's own memory."""
        return self.objective.start(pair, data)

    def __call__(self, pair: Pair, batch: Batch, memory: nn.Module) -> Iterator[Phase]:
        """Yield the objective's phases with the losses of the named players."""
        for phase in self.objective(pair, batch, memory):
            losses = {player: loss for player, loss in phase.losses.items() if player in self.players}
            yield phase._replace(losses=losses)
