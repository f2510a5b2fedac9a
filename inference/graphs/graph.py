"""Tensor operations traced as a graph whose state is among its inputs: it then serves other parameters and data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from .matrix_products import redirect_products
from .torch_internals import CannotCaptureError, capture

__all__ = ["Flat", "first_line", "flatten_graph", "lift_constants", "tidy", "trace_operations"]


@dataclass(frozen=True)
class Flat:
    """A graph whose state is among its inputs; it is called with the others."""

    module: GraphModule
    state: tuple[Tensor, ...]

    def __call__(self, *arguments: Tensor) -> Any:
        """Run the graph."""
        with torch.no_grad():
            return self.module(*self.state, *arguments)


def trace_operations(function: Callable[..., Any], *examples: Tensor) -> GraphModule:
    """Run a function of tensors with every tensor operation overheard."""
    fake = capture.FakeTensorMode()
    with capture.tracing(capture.TracingContext(fake)):  # without it torch makes one for each operation: twice the time
        graph: GraphModule = capture.make_fx(function)(*examples)
    return graph


def flatten_graph(graph: GraphModule, state: list[Tensor]) -> Flat:
    """Make known tensors inputs of a traced graph, and tidy it.

    Raises:
        CannotCaptureError: Some other tensor that wants a gradient is baked in.
    """
    known = {id(tensor): tensor for tensor in state}
    inputs: dict[int, Node] = {}

    def lift(graph: GraphModule) -> None:
        first = next(iter(graph.graph.nodes))
        for node in graph.graph.find_nodes(op="get_attr"):
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

    tidy(graph, lift)
    return Flat(graph, tuple(known[key] for key in inputs))


def tidy(graph: GraphModule, change: Callable[[GraphModule], None]) -> None:
    """Clear away what does nothing, before and after a change, and send the products where they are fastest."""
    for node in list(graph.graph.nodes):
        if node.target in (torch.ops.aten.detach.default, torch.ops.aten.alias.default):
            node.replace_all_uses_with(node.args[0])
            graph.graph.erase_node(node)
    change(graph)
    graph.graph.eliminate_dead_code()  # what Pyro scores and no loss reads; draws and moves in place are kept
    redirect_products(graph)
    graph.graph.lint()
    graph.recompile()
    used = {node.target for node in graph.graph.find_nodes(op="get_attr")}
    for name in {n for n, _ in (*graph.named_parameters(recurse=False), *graph.named_buffers(recurse=False))} - used:
        delattr(graph, name)


def lift_constants(graph: GraphModule) -> Flat:
    """The graph with its constants among its inputs: what is compiled then serves other data and parameters as well."""
    lifted, state, inputs = torch.fx.Graph(), list[Tensor](), dict[str, Node]()
    for name in dict.fromkeys(str(node.target) for node in graph.graph.nodes if node.op == "get_attr"):
        inputs[name] = lifted.placeholder(f"constant_{len(state)}")
        state.append(getattr(graph, name).detach())
    found: dict[Node, Node] = {}
    for node in graph.graph.nodes:
        found[node] = inputs[str(node.target)] if node.op == "get_attr" else lifted.node_copy(node, found.__getitem__)
        found[node].type = None
    return Flat(GraphModule(torch.nn.Module(), lifted), tuple(state))


def first_line(error: BaseException) -> str:
    """An error in one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:200]}"
