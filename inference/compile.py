"""Capture: one training step of any pair and objective, written down once as a plain graph of tensor operations.

A step run under Pyro's handlers spends more on handlers, distributions and autograd's bookkeeping than on a small
net's products. :func:`capture` runs one step with every tensor operation overheard (draws, losses, gradients, updates)
and keeps the list: a graph of one batch shape, with no Pyro in it. Parameters, buffers, memory, optimiser state and the
data are the graph's inputs and are changed in place, so everything else still sees them.

What would go wrong in silence is refused aloud: the captured step must equal an eager step, from the same random state
and on other rows than it was captured on, and nothing that wants a gradient may be baked in as a constant.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import pyro
import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from .data import Dataset, Tensors
from .fixed_shapes import shaped_by_values
from .objectives import Batch
from .optimizers import Update, update_of
from .pair import as_data
from .players import Players
from .products import redirect_products
from .step import EagerStep, NotFinite, Report, Turn, gradient_norm

__all__ = ["CannotCaptureError", "CapturedStep", "Flat", "capture", "flatten_graph", "gathers_in_graph"]

Runner = Callable[..., Any]

_RELATIVE, _ABSOLUTE = 1e-3, 1e-6  # how far a captured step may be from the eager one


class CannotCaptureError(RuntimeError):
    """A step cannot be captured; the message says why."""


@dataclass(frozen=True)
class Flat:
    """A graph whose state is among its inputs; it is called with the others."""

    module: GraphModule
    state: tuple[Tensor, ...]

    def __call__(self, *arguments: Tensor) -> Any:
        """Run the graph."""
        with torch.no_grad():
            return self.module(*self.state, *arguments)


class CapturedStep:
    """A captured step; it is called like an eager one."""

    def __init__(
        self,
        run: Runner,
        names: tuple[str, ...],
        turns: list[tuple[str, ...]],
        updates: list[Update],
        broken: Tensor,
        outside: Outside,
    ) -> None:
        self._run = run
        self._names, self._turns, self._updates, self._broken = names, turns, updates, broken
        self._outside = outside
        self._constants = [update.constants for update in updates]
        self._settings = self._told()
        self._pending: list[tuple[Tensor, ...]] = []
        self.refresh()
        # Asking an accelerator for the flag makes it wait, so it is asked seldom.
        self._patience = 1 if broken.device.type == "cpu" else 32

    @property
    def valid(self) -> bool:
        """Whether what was baked in still holds; new learning rates are taken over."""
        if (told := self._told()) != self._settings:
            if any(update.constants != kept for update, kept in zip(self._updates, self._constants, strict=True)):
                return False
            self._settings = told
            self.refresh()
        return True

    def __call__(self, batch: Batch) -> Report:
        """Make the step; ``batch.data`` is empty where the graph gathers the rows itself."""
        outputs = self._run(*batch.data, batch.rows, batch.step)
        checked = len(self._names) + 2 * len(self._turns)
        self._pending.append(outputs[len(self._names) : checked])
        if len(self._pending) >= self._patience or self._outside.optimizers:
            self.settle()
        self._outside.step(outputs[checked:])
        return dict(zip(self._names, outputs, strict=False))

    def settle(self) -> None:
        """Look whether every step so far was finite.

        Raises:
            NotFinite: One was not; ``late`` says how many steps ago, and nothing has moved since.
        """
        pending, self._pending = self._pending, []
        if float(self._broken) == 0.0:
            return
        for position, checked in enumerate(pending):
            for players, loss, norm in zip(self._turns, checked[::2], checked[1::2], strict=True):
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


def capture(
    eager: EagerStep, data: Dataset, batch: Batch, *, fused: bool = True, build: Callable[[Flat], Runner] | None = None
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
    from torch.fx.experimental.proxy_tensor import make_fx  # costs seconds where nothing is captured

    updates, outside = _updates(eager, fused)
    broken = torch.zeros((), device=batch.rows.device)
    names: tuple[str, ...] = ()
    turns: list[tuple[str, ...]] = []

    def whole_step(*arguments: Tensor) -> list[Tensor]:
        nonlocal names
        *given, rows, step = arguments
        part = tuple(given) or as_data(data[rows])
        checked: list[Tensor] = []
        mover = _Mover(eager.players, updates, broken, turns, checked, outside)
        inner = Batch(part, rows, batch.size, step)
        report = eager.play(inner, mover)
        names = tuple(report)
        return [*report.values(), *checked, *mover.left]

    gathered = gathers_in_graph(data)
    given = () if gathered else batch.data
    births = eager.pair.births
    with _unchanged(eager, updates, broken), pyro.validation_enabled(False):
        # Captured on other rows, data and step than it is checked on: what was read as a number shows.
        other = [part.flip(0) for part in given]
        try:
            graph = make_fx(whole_step)(*other, batch.rows.flip(0), batch.step + 7)
        except CannotCaptureError:
            raise
        except Exception as error:
            raise CannotCaptureError(_first_line(error)) from error
    if (operation := shaped_by_values(graph)) is not None:
        raise CannotCaptureError(f"the shapes behind {operation} depend on draws or data (a rejection loop, a mask)")
    if eager.pair.births != births:
        raise CannotCaptureError("a parameter was born during the step")
    mutable = [broken, *_state(eager, updates), *(lr for update in updates.values() for lr in update.lr)]
    rows_of_data = [data] if isinstance(data, Tensor) else list(data.parts) if isinstance(data, Tensors) else []
    flat = flatten_graph(graph, [*mutable, *rows_of_data])
    run = flat if build is None else build(flat)
    captured = CapturedStep(run, names, turns, list(updates.values()), broken, outside)
    _insist_on_equality(eager, updates, broken, captured, batch, gathered)
    return captured


def gathers_in_graph(data: Dataset) -> bool:
    """Whether a data set's rows are looked up by tensor operations, so that the look-up can be captured."""
    return isinstance(data, Tensor | Tensors)


def flatten_graph(graph: GraphModule, state: list[Tensor]) -> Flat:
    """Make known tensors inputs of a traced graph, and clear away what does nothing.

    Raises:
        CannotCaptureError: Some other tensor that wants a gradient is baked in.
    """
    known = {id(tensor): tensor for tensor in state}
    inputs: dict[int, Node] = {}
    first = next(iter(graph.graph.nodes))
    for node in list(graph.graph.nodes):
        if node.op == "get_attr":
            tensor = getattr(graph, node.target)
            if id(tensor) in known:
                if id(tensor) not in inputs:
                    with graph.graph.inserting_before(first):
                        inputs[id(tensor)] = graph.graph.placeholder(f"state_{len(inputs)}")
                        inputs[id(tensor)].meta["val"] = tensor.detach()
                node.replace_all_uses_with(inputs[id(tensor)])
                graph.graph.erase_node(node)
            elif tensor.requires_grad:
                raise CannotCaptureError(
                    f"a tensor of shape {tuple(tensor.shape)} wants a gradient but is no parameter of the pair; "
                    "make it a pyro.param or a parameter of a module"
                )
        elif node.target in (torch.ops.aten.detach.default, torch.ops.aten.alias.default):
            node.replace_all_uses_with(node.args[0])
            graph.graph.erase_node(node)
    graph.graph.eliminate_dead_code()  # what Pyro scores and no loss reads; draws and moves in place are kept
    redirect_products(graph)
    graph.graph.lint()
    graph.recompile()
    used = {node.target for node in graph.graph.nodes if node.op == "get_attr"}
    for name in {*graph._parameters, *graph._buffers} - used:
        delattr(graph, name)
    return Flat(graph, tuple(known[key] for key in inputs))


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
        """What they are called, for an error."""
        return " and ".join(sorted({type(optimizer).__name__ for optimizer in self.optimizers.values()}))


def _updates(eager: EagerStep, fused: bool) -> tuple[dict[str, Update], Outside]:
    """The updates that can be part of the graph, and the optimisers that cannot."""
    found = {player: update_of(optimizer, fused) for player, optimizer in eager.players.optimizers.items()}
    updates = {player: update for player, update in found.items() if update is not None}
    return updates, Outside({p: o for p, o in eager.players.optimizers.items() if p not in updates})


def _state(eager: EagerStep, updates: dict[str, Update]) -> list[Tensor]:
    """Everything that a step may change in place."""
    modules = (eager.pair, eager.memory)
    owned = [tensor for module in modules for tensor in (*module.parameters(), *module.buffers())]
    optimizers = eager.players.optimizers.values()
    owned += [p for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]]
    owned += [tensor for update in updates.values() for tensor in update.tensors]
    return list({id(tensor): tensor for tensor in owned}.values())


@contextmanager
def _unchanged(eager: EagerStep, updates: dict[str, Update], broken: Tensor) -> Iterator[None]:
    """Put state and random streams back afterwards."""
    state = [*_state(eager, updates), broken]
    kept = [tensor.detach().clone() for tensor in state]
    others = [optimizer for player, optimizer in eager.players.optimizers.items() if player not in updates]
    states = [deepcopy(optimizer.state_dict()) for optimizer in others]
    devices = [broken.device] if broken.device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        with torch.no_grad():
            for tensor, value in zip(state, kept, strict=True):
                tensor.copy_(value)
        for optimizer, before in zip(others, states, strict=True):
            optimizer.load_state_dict(before)


def _insist_on_equality(
    eager: EagerStep, updates: dict[str, Update], broken: Tensor, captured: CapturedStep, batch: Batch, gathered: bool
) -> None:
    results = []
    bare = batch._replace(data=()) if gathered else batch
    for step, argument in ((eager, batch), (captured, bare)):
        with _unchanged(eager, updates, broken):
            try:
                report = step(argument)
            except NotFinite:  # the run itself will say so, with its step and its site
                return
            except RuntimeError as error:
                raise CannotCaptureError(_first_line(error)) from error
            results.append(([v.detach().clone() for v in _state(eager, updates)], report))
    (state, report), (captured_state, captured_report) = results
    if eager.players.outdated:
        raise CannotCaptureError("a parameter was born during the step")
    for name, value in report.items():
        if not _close(captured_report[name], value):
            raise CannotCaptureError(
                f"the captured step reports {name} {float(captured_report[name]):g}, the eager one {float(value):g}: "
                "something in the programs is read as a Python number or drawn outside torch"
            )
    if not all(_close(a, b) for a, b in zip(captured_state, state, strict=True)):
        raise CannotCaptureError("the captured step leaves other parameters than the eager one")


def _close(a: Tensor, b: Tensor) -> bool:
    """Whether two results are one up to rounding (a rare entry may differ where rounding decides a sign)."""
    apart = (a.double() - b.double()).norm()
    return bool(apart <= _RELATIVE * b.double().norm() + _ABSOLUTE)


def _first_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:200]}"
