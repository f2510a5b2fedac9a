"""Capture: one training step of any pair and objective, written down once as a plain graph of tensor operations.

A step run under Pyro's handlers spends more on handlers, distributions and autograd's bookkeeping than on a small
net's products. :func:`capture` runs one step with every tensor operation overheard (draws, losses, gradients, updates)
and keeps the list: a graph of one batch shape, with no Pyro in it. Parameters, buffers, memory, optimiser state and the
data are the graph's inputs and are changed in place, so everything else still sees them.

What would go wrong in silence is refused aloud: the captured step must equal an eager step, from the same random state,
on other rows and at other parameters than it was captured at; no tensor's value may be read into Python; and nothing
that wants a gradient may be baked in as a constant. What Python holds is baked in, and is looked at again
(:meth:`CapturedStep.outdated`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyro
import torch
from torch import Tensor
from torch.fx import GraphModule

from ..graphs.fixed_shapes import shaped_by_values
from ..graphs.graph import Flat, first_line, flatten_graph, trace_operations
from ..graphs.reads import ReadError, WithoutReads
from ..graphs.torch_internals import CannotCaptureError
from ..objectives import Batch
from ..pairs.data import Rows, Tensors
from ..pairs.sites import as_data
from .optimizer_updates import Update, step_hooks, update_of
from .parameter_groups import Players
from .step import EagerStep, NotFinite, Report, Turn, gradient_norm
from .trial import Trial, rows_of

__all__ = ["CapturedStep", "capture", "gathers_in_graph"]

Runner = Callable[..., Any]


class CapturedStep:
    """A captured step; it is called like an eager one.

    Args:
        run: The graph, or what was built of it.
        flat: The graph.
        traced: What was learned while it was captured.
        trial: The step it was captured from, with the state it reads.
        batch: A batch as it takes it; all of them must be of its shapes.
    """

    def __init__(self, run: Runner, flat: Flat, traced: Traced, trial: Trial, batch: Batch) -> None:
        self._run, self._flat, self._traced, self._trial = run, flat, traced, trial
        self._updates, self._broken = list(trial.updates.values()), trial.broken
        self._shapes = _shapes(batch)
        self._constants = [update.constants for update in self._updates]
        self._settings = self._told()
        self._memory = self._pointers()
        self._pending: list[tuple[Tensor, ...]] = []
        self.refresh()
        # Asking an accelerator for the flag makes it wait, so it is asked seldom.
        self._patience = 1 if self._broken.device.type == "cpu" else 32

    def outdated(self) -> str | None:
        """The name of something that was baked in and holds no more; new learning rates are taken over."""
        if (changed := self._trial.python.changed()) is not None:
            return changed
        if self._pointers() != self._memory:
            return "where a parameter or its optimiser's state lies"
        if any(step_hooks(optimizer) for optimizer in self._trial.eager.players.optimizers.values()):
            return "a hook of an optimiser"
        if (told := self._told()) != self._settings:
            if any(update.constants != kept for update, kept in zip(self._updates, self._constants, strict=True)):
                return "a setting of an optimiser"
            self._settings = told
            self.refresh()
        return None

    def fits(self, batch: Batch) -> bool:
        """Tell whether a batch has the shapes, the layout and the kinds of number that were captured."""
        return _shapes(batch) == self._shapes

    def __call__(self, batch: Batch) -> Report:
        """Make the step; ``batch.data`` is empty where the graph gathers the rows itself."""
        return self.overheard(batch)[0]

    def overheard(self, batch: Batch) -> tuple[Report, list[Tensor]]:
        """Make the step, and return as well the loss and the gradient's norm of every turn."""
        outputs = self._run(*batch.data, batch.rows, batch.step)
        names = self._traced.names
        checked = len(names) + 2 * len(self._traced.turns)
        heard = outputs[len(names) : checked]
        self._pending.append(heard)
        if len(self._pending) >= self._patience or self._traced.outside.optimizers:
            self.settle()
        self._traced.outside.step(outputs[checked:])
        return dict(zip(names, outputs, strict=False)), heard

    def insist_on_equality(self, batch: Batch, *, moved: bool = False) -> None:
        """Hold a step against an eager one, and put everything back.

        Args:
            batch: The batch, with its data.
            moved: Where the parameters are moved a little as well.

        Raises:
            CannotCaptureError: They differ; the message says in what.
        """
        bare = batch._replace(data=()) if gathers_in_graph(self._trial.data) else batch

        def settled(batch: Batch) -> tuple[Report, list[Tensor]]:
            made = self.overheard(batch)
            self.settle()
            return made

        self._trial.insist_on_equality(settled, batch, bare, moved=moved)

    def settle(self) -> None:
        """Look whether every step so far was finite.

        Raises:
            NotFinite: One was not; ``late`` says how many steps ago, and nothing has moved since.
        """
        pending, self._pending = self._pending, []
        if float(self._broken) == 0.0:
            return
        for position, checked in enumerate(pending):
            for players, loss, norm in zip(self._traced.turns, checked[::2], checked[1::2], strict=True):
                if not bool(torch.isfinite(loss + norm)):
                    error = NotFinite(players, float(loss), float(norm))
                    error.late = len(pending) - 1 - position
                    raise error
        raise NotFinite(("a player",), float("nan"), float("nan"))

    def refresh(self) -> None:
        """Read the learning rates again."""
        for update in self._updates:
            update.refresh()

    def _told(self) -> list[Any]:
        return [update.settings for update in self._updates]

    def _pointers(self) -> list[int]:
        """Where the state lies: a parameter may be given other memory (``p.data = ...``), an optimiser other state."""
        moments = [tensor for update in self._updates for tensor in update.tensors]
        return [*map(Tensor.data_ptr, self._flat.state), *map(id, moments)]


def capture(
    eager: EagerStep, data: Rows, batch: Batch, *, fused: bool = True, build: Callable[[Flat], Runner] | None = None
) -> CapturedStep:
    """Capture the step of a run.

    Args:
        eager: The step as it is made under Pyro's handlers.
        data: The data set; tensors are gathered inside the graph, anything else outside.
        batch: A batch of the run's shape.
        fused: Use torch's optimiser kernels (for a graph that is run as it is) instead of plain operations.
        build: What turns the graph into something faster; it is checked as well.

    Returns:
        The captured step. Parameters, buffers, optimisers and the random state are left as they were.

    Raises:
        CannotCaptureError: The step cannot be captured; the message says why.
    """
    updates, outside = _updates(eager, fused)
    trial = Trial(eager, data, updates, torch.zeros((), device=batch.rows.device))
    gathered = gathers_in_graph(data)
    bare = batch._replace(data=()) if gathered else batch
    graph, traced = _traced(trial, outside, bare)
    mutable = [trial.broken, *trial.state, *(lr for update in updates.values() for lr in update.lr)]
    flat = flatten_graph(graph, [*mutable, *rows_of(data)])
    run = flat if build is None else build(flat)
    captured = CapturedStep(run, flat, traced, trial, bare)
    captured.insist_on_equality(batch, moved=True)
    return captured


@dataclass(frozen=True)
class Traced:
    """The outputs of a captured step: its report, then loss and norm of each turn, then gradients for outside."""

    names: tuple[str, ...]
    turns: list[tuple[str, ...]]
    outside: Outside


def _traced(trial: Trial, outside: Outside, batch: Batch) -> tuple[GraphModule, Traced]:
    """Run one step with every tensor operation overheard, and put everything back."""
    eager = trial.eager
    names: tuple[str, ...] = ()
    turns: list[tuple[str, ...]] = []

    def whole_step(*arguments: Tensor) -> list[Tensor]:
        nonlocal names
        *given, rows, step = arguments
        part = tuple(given) or as_data(trial.data[rows])
        checked: list[Tensor] = []
        mover = _Mover(eager.players, trial.updates, trial.broken, turns, checked, outside)
        with WithoutReads():
            report = eager.play(Batch(part, rows, batch.size, step), mover)
        names = tuple(report)
        return [*report.values(), *checked, *mover.left]

    births = eager.pair.births
    # Captured on other rows, data and step than it is checked on: what was read as a number shows.
    other = [_other_rows(part) for part in (*batch.data, batch.rows)]
    with trial.unchanged(), pyro.validation_enabled(False):
        try:
            graph = trace_operations(whole_step, *other, batch.step + 7)
        except ReadError as error:
            raise CannotCaptureError(str(error)) from error
        except CannotCaptureError:
            raise
        except Exception as error:
            raise CannotCaptureError(first_line(error)) from error
    if (operation := shaped_by_values(graph)) is not None:
        raise CannotCaptureError(f"the shapes behind {operation} depend on draws or data (a rejection loop, a mask)")
    if eager.pair.births != births:
        raise CannotCaptureError("a parameter was born during the step")
    return graph, Traced(names, turns, outside)


def _other_rows(part: Tensor) -> Tensor:
    """The first half of the rows, twice each and in another order: what sums over a batch is another number."""
    return part[torch.arange(len(part), device=part.device).flip(0) // 2]


def _shapes(batch: Batch) -> list[Any]:
    return [(part.shape, part.dtype, part.stride()) for part in (*batch.data, batch.rows)]


def gathers_in_graph(data: Rows) -> bool:
    """Tell whether a data set's rows are looked up by tensor operations, so that the look-up can be captured."""
    return isinstance(data, Tensor | Tensors)


class _Mover:
    """The moves of a step in tensor operations alone: once anything is not finite, nothing moves any more."""

    def __init__(
        self,
        players: Players,
        updates: dict[str, Update],
        broken: Tensor,
        turns: list[tuple[str, ...]],
        checked: list[Tensor],
        outside: Outside,
    ) -> None:
        self.players, self.updates, self.broken = players, updates, broken
        self.turns, self.checked, self.outside = turns, checked, outside
        self.left: list[Tensor] = []  # gradients for the optimisers outside

    def __call__(self, turns: list[Turn]) -> None:
        if self.left:
            raise CannotCaptureError(
                f"{self.outside.names} would move after the whole step, but this objective moves on in between"
            )
        gradients: dict[int, Tensor] = {}
        with torch.no_grad():
            for turn in turns:
                norm, loss = gradient_norm(turn), turn.loss.detach()
                total = loss + norm
                self.broken.add_(total - total)  # 0, or NaN for ever
                self.turns.append(turn.players)
                self.checked += [loss, norm]
                for parameter, gradient in zip(turn.parameters, turn.gradients, strict=True):
                    gradients.pop(id(parameter), None)
                    if gradient is not None:
                        gradients[id(parameter)] = gradient
            found = self.broken.ne(0).to(torch.float32)
            for player in self.players.holders(p for turn in turns for p in turn.parameters):
                if player in self.updates:
                    self.updates[player](gradients, found)
                else:
                    self.left += self.outside.gradients(player, gradients)


@dataclass
class Outside:
    """Optimisers that have no form in the graph: it hands them their gradients, and they move after it.

    ``receivers`` are the parameters whose gradients come out of the graph, in that order.
    """

    optimizers: dict[str, torch.optim.Optimizer]
    receivers: list[Tensor] = field(default_factory=list)

    def gradients(self, player: str, gradients: dict[int, Tensor]) -> list[Tensor]:
        """The gradients of a player's parameters, which are remembered as their receivers."""
        owned = [p for group in self.optimizers[player].param_groups for p in group["params"] if id(p) in gradients]
        self.receivers += owned
        return [gradients[id(p)] for p in owned]

    def step(self, gradients: Sequence[Tensor]) -> None:
        """Move the parameters."""
        for parameter, gradient in zip(self.receivers, gradients, strict=True):
            parameter.grad = gradient
        for optimizer in self.optimizers.values():
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    @property
    def names(self) -> str:
        """Their names, for an error."""
        return " and ".join(sorted({type(optimizer).__name__ for optimizer in self.optimizers.values()}))


def _updates(eager: EagerStep, fused: bool) -> tuple[dict[str, Update], Outside]:
    """The updates that can be part of the graph, and the optimisers that cannot."""
    if hooked := [player for player, o in eager.players.optimizers.items() if step_hooks(o)]:
        raise CannotCaptureError(
            f"the optimiser of {' and '.join(hooked)} has a step hook, which a graph would pass by"
        )
    found = {player: update_of(optimizer, fused) for player, optimizer in eager.players.optimizers.items()}
    updates = {player: update for player, update in found.items() if update is not None}
    return updates, Outside({p: o for p, o in eager.players.optimizers.items() if p not in updates})
