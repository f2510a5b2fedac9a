"""A function of tensors as a plain graph of tensor operations, for where it is called thousands of times.

A density run under Pyro's handlers spends more on handlers and autograd's bookkeeping than on a small net's products.
The graph has none of them, and what does not depend on the argument (an encoder run on the data, the square roots of
parameters) is worked out once. So it holds as long as data and parameters do.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import pyro
import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from . import inductor
from .agreement import agree
from .fixed_shapes import shaped_by_values
from .graph import first_line, lift_constants, tidy, trace_operations
from .python_state import PythonState
from .reads import ReadError, WithoutReads
from .torch_internals import CannotCaptureError, CannotCompileError, capture

__all__ = ["captured", "worth_compiling"]

Function = Callable[..., tuple[Tensor, ...]]

_REASONS = (CannotCaptureError, ReadError)
_said: WeakKeyDictionary[Any, set[str]] = WeakKeyDictionary()  # what was told, by the modules it was told of
_WORTH_COMPILING = 10_000_000  # evaluations times rows: some tens of seconds of a small net


def captured(function: Function, *examples: Tensor, compile: bool = False) -> Function:
    """Write a function down as a graph; it comes back as it is where it cannot be captured, and a warning says why.

    The graph must give the same numbers at another place than the one it was captured at, from the same random state.
    A function that reads a tensor's values into Python, draws outside torch or changes what it holds is left as it is.
    What the function holds (numbers, parameters, switches) is taken as it is now: capture it anew after a change.

    Args:
        function: From tensors of the examples' shapes to tensors; it may draw, and take gradients inside.
        examples: Arguments to capture it at.
        compile: Fuse the graph's elementwise work by torch's compiler: seconds once, less for a net that was compiled
            before. Where there is no compiler the graph runs as it is, and a warning says so.

    Returns:
        A function of such tensors; those of another shape or type are given to ``function`` itself.

    Example:
        >>> double = captured(lambda u: (2.0 * u,), torch.zeros(3))
        >>> double(torch.ones(3))
        (tensor([2., 2., 2.]),)
    """
    examples = tuple(example.detach().contiguous() for example in examples)  # the graph reshapes as this layout lets it
    try:
        before = PythonState({"function": function})
    except CannotCaptureError as error:
        _say_uncaptured(function, (), str(error))
        return function
    try:
        elsewhere, expected = _place_to_compare(function, examples)
        filled = PythonState({"function": function})  # a first call may fill a cache
        run = _graph(function, examples, compile)
        with _aside(examples):
            found = run(*elsewhere)
        if filled.changed() is not None or before.drawn() is not None or not _all_agree(found, expected):
            raise CannotCaptureError("played again from the same random state it gives other numbers")
    except Exception as error:  # programs that branch on values: the handlers run at every evaluation
        before.restore()
        reason = str(error) if isinstance(error, _REASONS) else first_line(error)
        _say_uncaptured(function, before.modules, reason)
        return function
    kinds = [(example.shape, example.dtype) for example in examples]

    def replay(*arguments: Tensor) -> tuple[Tensor, ...]:
        if [(argument.shape, argument.dtype) for argument in arguments] != kinds:
            return function(*arguments)
        with torch.no_grad():
            return tuple(run(*(argument.contiguous() for argument in arguments)))

    return replay


def worth_compiling(evaluations: int, rows: int) -> bool:
    """Tell whether so many evaluations of so many rows each win back what compiling costs.

    It looks at the sizes and never at a clock, so that the same call always takes the same path.
    """
    return evaluations * rows >= _WORTH_COMPILING


def _say_uncaptured(function: Function, modules: Sequence[Any], reason: str) -> None:
    """Warn once of a reason and the modules that a function holds, the pair's; or the code of one that holds none."""
    holders = modules or [getattr(function, "__code__", function)]
    told = any(reason in _said.get(holder, ()) for holder in holders)
    for holder in holders:
        _said.setdefault(holder, set()).add(reason)
    if not told:
        message = f"a density runs uncaptured, several times slower on a small net: {reason}."
        warnings.warn(message, RuntimeWarning, stacklevel=3)


@contextmanager
def _aside(examples: tuple[Tensor, ...]) -> Iterator[None]:
    """Draw from the random streams without moving them; no gradients, none of Pyro's validation."""
    devices = list({example.device for example in examples if example.device.type == "cuda"})
    with torch.random.fork_rng(devices), torch.no_grad(), pyro.validation_enabled(False):
        yield


def _graph(function: Function, examples: tuple[Tensor, ...], compile: bool) -> Callable[..., Any]:
    def overheard(*arguments: Tensor) -> tuple[Tensor, ...]:
        with WithoutReads():
            return function(*arguments)

    with _aside(examples):
        graph = trace_operations(overheard, *examples)
    if (operation := shaped_by_values(graph)) is not None:
        raise CannotCaptureError(f"the shapes behind {operation} depend on draws or data (a rejection loop, a mask)")
    tidy(graph, _fold)
    return _compiled(graph, list(examples)) if compile else graph


def _place_to_compare(function: Function, examples: tuple[Tensor, ...]) -> tuple[list[Tensor], tuple[Tensor, ...]]:
    """Arguments where the function is finite somewhere, and its values there."""
    for elsewhere in (_halved, _repeated):
        place = [elsewhere(example) for example in examples]
        with _aside(examples):
            values = function(*place)
        if any(bool(torch.isfinite(value).any()) for value in values):
            return place, values
    raise CannotCaptureError("it is finite nowhere that was looked at")


def _compiled(graph: GraphModule, examples: list[Tensor]) -> Callable[..., Any]:
    flat = lift_constants(graph)
    try:
        return inductor.compiled(flat, examples)
    except CannotCompileError as error:
        warnings.warn(f"a density runs uncompiled: {error}.", RuntimeWarning, stacklevel=2)
        return graph


def _halved(example: Tensor) -> Tensor:
    """Other numbers of the same kind."""
    return example * 0.5 + 0.1 if example.is_floating_point() else _repeated(example)


def _repeated(example: Tensor) -> Tensor:
    """The first half of the rows, twice each and in another order."""
    return example[torch.arange(len(example), device=example.device).flip(0) // 2] if example.dim() else example


def _fold(graph: GraphModule) -> None:
    """Work out what does not depend on the argument."""
    nodes = list(graph.graph.nodes)
    if any(_writes(node) for node in nodes):
        return  # an operation in place could change what is folded
    known: dict[Node, Any] = {}
    for node in nodes:
        if node.op == "get_attr":
            known[node] = getattr(graph, node.target)
        elif node.op == "call_function" and not _draws(node) and all(i in known for i in node.all_input_nodes):
            args, kwargs = torch.fx.map_arg((node.args, node.kwargs), lambda i: known[i])
            known[node] = node.target(*args, **kwargs)
    for node in nodes:
        if (
            node.op == "call_function"
            and isinstance(known.get(node), Tensor)
            and any(u not in known for u in node.users)
        ):
            name = f"folded_{node.name}"
            graph.register_buffer(name, known[node].detach())
            with graph.graph.inserting_before(node):
                constant = graph.graph.get_attr(name)
            constant.meta = dict(node.meta)
            node.replace_all_uses_with(constant)


def _all_agree(found: Sequence[Tensor], expected: Sequence[Tensor]) -> bool:
    return all(agree(a, b, absolute=1e-5) for a, b in zip(found, expected, strict=True))


def _writes(node: Node) -> bool:
    return isinstance(node.target, capture.OpOverload) and capture.schema(node.target).is_mutable


def _draws(node: Node) -> bool:
    return torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())
