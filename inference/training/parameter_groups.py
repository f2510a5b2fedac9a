"""The players of a run: whose parameters are whose, and the optimiser of each."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping

import torch
from pyro.optim import PyroOptim
from torch import nn

from ..objectives import Objective
from ..pairs.pair import Pair
from .optimizer_updates import is_dense

__all__ = ["Optimizer", "Players"]

Optimizer = Callable[[list[nn.Parameter]], torch.optim.Optimizer]


class Players:
    """Model, guide and the children of an objective's memory, each with an optimiser of its own.

    Args:
        pair: The pair.
        memory: The objective's memory; each child is a player.
        objective: It names the players that are trained.
        optimizer: What makes an optimiser, for all players or one per player.
    """

    def __init__(
        self, pair: Pair, memory: nn.Module, objective: Objective, optimizer: Optimizer | Mapping[str, Optimizer]
    ) -> None:
        self.pair, self.memory, self.objective = pair, memory, objective
        self.optimizers: dict[str, torch.optim.Optimizer] = {}
        self._make = optimizer
        self.enlist()

    def parameters(self) -> dict[str, list[nn.Parameter]]:
        """The trained players' parameters, by player; what the model shares stays still where the model does."""
        mine = {name: list(child.parameters()) for name, child in self.memory.named_children()}
        everyone = self.pair.players() | mine
        still = set() if "model" in self.objective.trains else {id(p) for p in everyone["model"]}
        return {
            name: [p for p in parameters if id(p) not in still]
            for name, parameters in everyone.items()
            if name in self.objective.trains
        }

    def holders(self, parameters: Iterable[nn.Parameter]) -> list[str]:
        """The players whose optimisers hold these parameters: one that two players share is held by the first."""
        moved = {id(p) for p in parameters}
        return [
            player
            for player, optimizer in self.optimizers.items()
            if any(id(p) in moved for group in optimizer.param_groups for p in group["params"])
        ]

    def enlist(self) -> None:
        """Give every player an optimiser; a parameter born late joins its player's."""
        self._births = self.pair.births
        owned = {id(p) for o in self.optimizers.values() for group in o.param_groups for p in group["params"]}
        for player, parameters in self.parameters().items():
            # A parameter that two players share (a prior made of the guide's network) is stepped once.
            fresh = [p for p in parameters if id(p) not in owned]
            owned |= {id(p) for p in fresh}
            if player in self.optimizers:
                if fresh:
                    self.optimizers[player].add_param_group({"params": fresh})
            else:
                self.optimizers[player] = self._made(player, fresh or [nn.Parameter(torch.zeros(0))])
            _insist_on_dense(player, self.optimizers[player])

    @property
    def outdated(self) -> bool:
        """True once a parameter was born since everybody was enlisted."""
        return self.pair.births != self._births

    def _made(self, player: str, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        maker = self._maker(player)
        made: object = maker(parameters) if callable(maker) and not isinstance(maker, PyroOptim) else None
        if not isinstance(made, torch.optim.Optimizer):
            raise ValueError(
                f"optimizer={type(maker).__name__} of player {player!r} does not make a torch optimiser of a list of "
                "parameters; pass what makes one, e.g. partial(torch.optim.Adam, lr=1e-3)."
            )
        if _needs_closure(made):
            raise ValueError(
                f"optimizer {type(made).__name__} of player {player!r} evaluates the loss several times a step "
                "(step(closure)), and here a step has one minibatch and one gradient; take a first-order optimiser, "
                "e.g. partial(torch.optim.Adam, lr=1e-3)."
            )
        return made

    def _maker(self, player: str) -> Optimizer:
        if not isinstance(self._make, Mapping):
            return self._make
        if player not in self._make:
            raise ValueError(f"optimizer has no entry for player {player!r}; it names {sorted(self._make)}.")
        return self._make[player]


def _insist_on_dense(player: str, optimizer: torch.optim.Optimizer) -> None:
    """Refuse to let a fused kernel write past a parameter with gaps: into what lies in them."""
    for parameter in (p for group in optimizer.param_groups if group.get("fused") for p in group["params"]):
        if not is_dense(parameter):
            raise ValueError(
                f"a parameter of the {player} of shape {tuple(parameter.shape)} is a slice of a larger tensor (strides "
                f"{parameter.stride()}), and torch's fused {type(optimizer).__name__} would write between its entries; "
                "make it of a copy, nn.Parameter(slice.clone()), or pass an optimiser with fused=False."
            )


def _needs_closure(optimizer: torch.optim.Optimizer) -> bool:
    """Whether ``step`` cannot be called without a function that evaluates the loss anew."""
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    return closure is not None and closure.default is closure.empty
