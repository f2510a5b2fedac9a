"""A captured step on trial: held against an eager step from the same state, and everything put back afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy

import torch
from torch import Tensor, nn

from ..graphs.agreement import agree
from ..graphs.graph import first_line
from ..graphs.python_state import PythonState
from ..graphs.torch_internals import CannotCaptureError
from ..objectives import Batch
from ..pairs.data import Rows, Tensors
from .optimizer_updates import Update
from .step import EagerStep, NotFinite, Report

__all__ = ["Trial", "rows_of"]

Overheard = Callable[[Batch], tuple[Report, list[Tensor]]]


class Trial:
    """The state that a step may read and write, kept to be put back.

    Args:
        eager: The step as it is made under Pyro's handlers.
        data: The data set.
        updates: The optimisers' updates that a captured step makes itself, by player.
        broken: The flag of a captured step.
    """

    def __init__(self, eager: EagerStep, data: Rows, updates: dict[str, Update], broken: Tensor) -> None:
        self.eager, self.data, self.updates, self.broken = eager, data, updates, broken
        self.python = self._python()

    @property
    def state(self) -> list[Tensor]:
        """Everything that a step may change in place, without the data."""
        optimizers = self.eager.players.optimizers.values()
        owned = [tensor for module in self._modules for tensor in (*module.parameters(), *module.buffers())]
        owned += [p for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]]
        owned += [tensor for update in self.updates.values() for tensor in update.tensors]
        rows = {id(part) for part in rows_of(self.data)}
        owned += [t for t in self.python.tensors.values() if id(t) not in rows and not t.requires_grad]
        return list({id(tensor): tensor for tensor in owned}.values())

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        """Put tensors, random streams and Python's state back afterwards."""
        state = [*self.state, self.broken]
        kept = [tensor.detach().clone() for tensor in state]
        others = [o for player, o in self.eager.players.optimizers.items() if player not in self.updates]
        told = [deepcopy(optimizer.state_dict()) for optimizer in others]
        noticed = PythonState({str(i): vars(optimizer) for i, optimizer in enumerate(others)})
        try:
            with torch.random.fork_rng([self.broken.device] if self.broken.device.type == "cuda" else []):
                yield
        finally:
            self.python.restore()
            noticed.restore()
            with torch.no_grad():
                for tensor, value in zip(state, kept, strict=True):
                    if not torch.equal(tensor, value):
                        tensor.copy_(value)
            for optimizer, before in zip(others, told, strict=True):
                optimizer.load_state_dict(before)

    def insist_on_equality(self, captured: Overheard, batch: Batch, bare: Batch, *, moved: bool) -> None:
        """Make a step both ways, and compare what they report, their losses, gradients and the state they leave.

        Args:
            captured: The captured step.
            batch: A batch.
            bare: The same batch as the captured step takes it.
            moved: Make them first where the parameters are moved a little: a number that was read of them shows.

        Raises:
            CannotCaptureError: The two differ, or the step reads or moves what a graph cannot.
        """
        if moved and self._compare(captured, batch, bare, moved=True):
            return
        self._compare(captured, batch, bare, moved=False)

    def _compare(self, captured: Overheard, batch: Batch, bare: Batch, *, moved: bool) -> bool:
        """Compare at one place; say whether the eager step is finite there, so that there was something to compare."""
        try:
            expected = self._made(self.eager.overheard, batch, moved, alone=True)
        except RuntimeError:
            if moved:  # a matrix is not positive definite there: the parameters as they are must do
                return False
            raise
        try:
            found = self._made(captured, bare, moved)
        except RuntimeError as error:
            raise CannotCaptureError(first_line(error)) from error
        if expected is None or found is None:
            if (expected is None) != (found is None):
                which = ("eager", "captured") if expected is None else ("captured", "eager")
                raise CannotCaptureError(f"the {which[0]} step is not finite where the {which[1]} one is")
            return False  # the run itself will say so, with its step and its site
        _insist(found, expected)
        return True

    def _made(self, step: Overheard, batch: Batch, moved: bool, *, alone: bool = False) -> _Result | None:
        """What a step leaves; ``None`` where it is not finite."""
        with self.unchanged():
            if moved:
                self._move()
            try:
                report, heard = step(batch)
            except NotFinite:
                return None
            result = _Result(report, heard, self.state)
            if alone:
                self._insist_on_still_python(batch)
        return result

    def _insist_on_still_python(self, batch: Batch) -> None:
        """A step may fill a cache, once; what it changes at every step would stand still in a graph."""
        if (stream := self.python.drawn()) is not None:
            raise CannotCaptureError(f"{stream} draws during the step; draw by torch or Pyro")
        if (name := self.python.changed()) is None:
            return
        filled = self._python()
        try:
            self.eager(batch)
        except NotFinite:
            return
        if filled.changed() is not None:
            raise CannotCaptureError(
                f"{name} is changed by the step itself; keep it in a buffer that is written in place"
            )
        self.python = filled

    def _move(self) -> None:
        with torch.no_grad():
            for parameter in {id(p): p for module in self._modules for p in module.parameters()}.values():
                if parameter.is_floating_point():
                    places = torch.arange(parameter.numel(), device=parameter.device).remainder(7)
                    wave = (places.to(parameter.dtype) / 3.0 - 1.0).view(parameter.shape)
                    parameter.add_(wave * torch.where(parameter == 0, 1e-3, 1e-2 * parameter))

    def _python(self) -> PythonState:
        pair = self.eager.pair
        roots = {"model": pair.model.fn, "guide": None if pair.guide is None else pair.guide.fn}
        rest = {"objective": self.eager.objective, "memory": self.eager.memory, "step": self.eager}
        return PythonState({**roots, **rest, "data": self.data if isinstance(self.data, Tensors) else None})

    @property
    def _modules(self) -> tuple[nn.Module, nn.Module]:
        return self.eager.pair, self.eager.memory


class _Result:
    """What a step reports, its losses and gradients' norms, and the state it leaves."""

    def __init__(self, report: Report, heard: list[Tensor], state: list[Tensor]) -> None:
        self.report = {name: value.detach().clone() for name, value in report.items()}
        self.heard = [value.detach().clone() for value in heard]
        self.state = [value.detach().clone() for value in state]


def rows_of(data: Rows) -> list[Tensor]:
    """The tensors that a data set's rows lie in, where it is made of tensors."""
    return [data] if isinstance(data, Tensor) else list(data.parts) if isinstance(data, Tensors) else []


def _insist(found: _Result, expected: _Result) -> None:
    for name, value in expected.report.items():
        if not agree(found.report[name], value):
            raise CannotCaptureError(
                f"the captured step reports {name} {float(found.report[name]):g}, the eager one {float(value):g}: "
                "something in the programs is read as a Python number or drawn outside torch"
            )
    for what, at in (("a loss", 0), ("a gradient's norm", 1)):
        for mine, other in zip(found.heard[at::2], expected.heard[at::2], strict=True):
            if not agree(mine, other, absolute=1e-5):
                raise CannotCaptureError(
                    f"{what} is {float(mine):g} in the captured step and {float(other):g} in the eager one"
                )
    if not all(agree(a, b) for a, b in zip(found.state, expected.state, strict=True)):
        raise CannotCaptureError("the captured step leaves other parameters than the eager one")
