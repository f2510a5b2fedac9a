"""One training step: an objective's phases on a batch, each player moved by the gradient of its own loss.

:meth:`EagerStep.play` says what a step is; how parameters are moved is handed in. :class:`EagerStep` moves them with
the torch optimisers, checked at once; the captured step (:mod:`~aevb.inference.training.captured_step`) writes the same
moves into a graph.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import pyro
import torch
from torch import Tensor, nn

from ..graphs.precision import products_in
from ..objectives import Batch, Objective, Phase
from ..pairs.pair import Pair
from .optimizer_updates import laid_out_like
from .parameter_groups import Players

__all__ = ["EagerStep", "Mover", "NotFinite", "Report", "Turn", "gradient_norm"]

Report = dict[str, Tensor]


@dataclass(frozen=True)
class Turn:
    """Players that descend one loss: their parameters and its gradients (``None`` where it does not depend)."""

    players: tuple[str, ...]
    loss: Tensor
    parameters: list[nn.Parameter]
    gradients: list[Tensor | None]


Mover = Callable[[list[Turn]], None]


class NotFinite(ArithmeticError):
    """A loss or a gradient is not finite; the parameters are those before the turn."""

    def __init__(self, players: tuple[str, ...], loss: float, norm: float) -> None:
        super().__init__(f"loss {loss:g}, gradient norm {norm:g}")
        self.players, self.loss, self.norm = players, loss, norm
        self.late = 0  # steps between the one that went wrong and the last one made


def gradient_norm(turn: Turn) -> Tensor:
    """The norm of a turn's gradients, a scalar; of nothing, the loss, so that it is finite where the loss is."""
    gradients = [gradient for gradient in turn.gradients if gradient is not None]
    return torch.nn.utils.get_total_norm(gradients) if gradients else turn.loss.detach()


@dataclass
class EagerStep:
    """A step under Pyro's handlers, its loss and gradients checked before anything moves.

    Args:
        objective: The algorithm.
        pair: The pair.
        memory: The objective's memory.
        players: Whose parameters are whose, with their optimisers.
        clip_norm: The norm that the gradient of a loss is scaled down to where it is larger.
        precision: Of matrix products; a name of :data:`~aevb.inference.graphs.precision.PRECISIONS`.
    """

    objective: Objective
    pair: Pair
    memory: nn.Module
    players: Players
    clip_norm: float | None = None
    precision: str = "float32"

    def __call__(self, batch: Batch) -> Report:
        """Make the step.

        Raises:
            NotFinite: A loss or a gradient is not finite.
        """
        with pyro.validation_enabled(False):
            return self.play(batch, self._move)

    def overheard(self, batch: Batch) -> tuple[Report, list[Tensor]]:
        """Make the step, and return as well the loss and the gradient's norm of every turn.

        Raises:
            NotFinite: A loss or a gradient is not finite.
        """
        heard: list[Tensor] = []

        def move(turns: list[Turn]) -> None:
            heard.extend(value for turn in turns for value in (turn.loss.detach().clone(), gradient_norm(turn)))
            self._move(turns)

        with pyro.validation_enabled(False):
            return self.play(batch, move), heard

    def play(self, batch: Batch, move: Mover) -> Report:
        """Carry out every phase of a step, parameters moved as ``move`` says; return what the objective reports."""
        report: Report = {}
        with products_in(self.precision):
            for number, phase in enumerate(self.objective(self.pair, batch, self.memory), 1):
                turns = list(_turns(phase, self.players))
                self._insist_on_gradients(number, turns)
                if self.clip_norm is not None:
                    turns = [_clipped(turn, self.clip_norm) for turn in turns]
                move(_summed(turns))
                report.update(phase.report)
        return report

    def _insist_on_gradients(self, phase: int, turns: list[Turn]) -> None:
        """Refuse a player that its loss does not reach: it would stay as it is, in silence."""
        parameters_of = self.players.parameters()
        for turn in turns:
            reached = {id(p) for p, g in zip(turn.parameters, turn.gradients, strict=True) if g is not None}
            for player in turn.players:
                if parameters_of[player] and reached.isdisjoint(id(p) for p in parameters_of[player]):
                    raise ValueError(
                        f"phase {phase} of {type(self.objective).__name__}: the loss of the {player} depends on none "
                        f"of its {len(parameters_of[player])} parameters, so they would never move. Look for a "
                        "detach() or no_grad() between them and the loss; to train the others alone, name them: "
                        'Only(objective, ("model",)).'
                    )

    def _move(self, turns: list[Turn]) -> None:
        for turn in turns:
            norm = gradient_norm(turn)
            if not bool(torch.isfinite(turn.loss.detach() + norm)):
                raise NotFinite(turn.players, float(turn.loss.detach()), float(norm))
        for turn in turns:
            for parameter, gradient in zip(turn.parameters, turn.gradients, strict=True):
                parameter.grad = gradient
        for player in self.players.holders(p for turn in turns for p in turn.parameters):
            self.players.optimizers[player].step()
            self.players.optimizers[player].zero_grad(set_to_none=True)
        if self.players.outdated:
            self.players.enlist()


def _turns(phase: Phase, players: Players) -> Iterable[Turn]:
    """Players that share a loss share one backward pass."""
    parameters_of = players.parameters()
    by_loss: dict[int, list[str]] = {}
    for player, loss in phase.losses.items():
        by_loss.setdefault(id(loss), []).append(player)
    for group in by_loss.values():
        loss = phase.losses[group[0]]
        parameters = list({id(p): p for player in group for p in parameters_of[player]}.values())
        if not parameters:  # a model that has nothing to learn
            continue
        gradients: list[Tensor | None] = [None] * len(parameters)
        if loss.requires_grad:
            retain = len(by_loss) > 1
            found = torch.autograd.grad(loss, parameters, allow_unused=True, retain_graph=retain)
            gradients = [None if g is None else laid_out_like(g, p) for g, p in zip(found, parameters, strict=True)]
        yield Turn(tuple(group), loss, parameters, gradients)


def _clipped(turn: Turn, most: float) -> Turn:
    """The turn with its gradients scaled down together, so that their norm is at most ``most``."""
    scale = (most / (gradient_norm(turn) + 1e-6)).clamp(max=1.0)
    return replace(turn, gradients=[None if gradient is None else gradient * scale for gradient in turn.gradients])


def _summed(turns: list[Turn]) -> list[Turn]:
    """A parameter that players of different losses share (a prior made of the guide's network) descends their sum.

    Of losses in different phases it descends each in its turn.
    """
    first: dict[int, tuple[Turn, int]] = {}
    for turn in turns:
        for position, (parameter, gradient) in enumerate(zip(turn.parameters, turn.gradients, strict=True)):
            if id(parameter) not in first:
                first[id(parameter)] = turn, position
                continue
            owner, at = first[id(parameter)]
            parts = [part for part in (owner.gradients[at], gradient) if part is not None]
            total = sum(parts[1:], parts[0]) if parts else None
            owner.gradients[at] = turn.gradients[position] = total
            first[id(parameter)] = turn, position
    return turns
