"""Write a captured graph to bytes and read it in another process, node by node.

Torch pickles a graph as Python code and traces that code when it is read; an operation that depends on no input (a
draw) would then be carried out once and baked in. Here every node is written down as it is.
"""

from __future__ import annotations

import pickle
from typing import Any, NamedTuple

import torch
from torch.fx import Graph, GraphModule, Node
from torch.fx.node import map_aggregate

from .matrix_products import product_operator
from .torch_internals import capture

__all__ = ["read_graph", "write_graph"]


class _NodeName(NamedTuple):
    """A node where it is an argument."""

    name: str


class _Operator(NamedTuple):
    """One of torch's operators."""

    namespace: str
    name: str
    overload: str


def write_graph(module: GraphModule) -> bytes:
    """Write a graph of torch operators, and the tensors it holds."""
    nodes = [
        (node.op, node.name, _named(node.target), map_aggregate(node.args, _named), map_aggregate(node.kwargs, _named))
        for node in module.graph.nodes
    ]
    held = {str(node.target): getattr(module, str(node.target)) for node in module.graph.nodes if node.op == "get_attr"}
    return pickle.dumps((nodes, {name: tensor.detach() for name, tensor in held.items()}))


def read_graph(written: bytes) -> GraphModule:
    """Read what :func:`write_graph` wrote."""
    product_operator()  # what the graph calls must be known
    nodes, held = pickle.loads(written)
    graph, by_name = Graph(), dict[str, Node]()

    def found(value: Any) -> Any:
        if isinstance(value, _NodeName):
            return by_name[value.name]
        if isinstance(value, _Operator):
            return getattr(getattr(getattr(torch.ops, value.namespace), value.name), value.overload)
        return value

    for op, name, target, args, kwargs in nodes:
        by_name[name] = graph.create_node(op, found(target), _filled(args, found), _filled(kwargs, found), name)
    return GraphModule(held, graph)


def _named(value: Any) -> Any:
    if isinstance(value, Node):
        return _NodeName(value.name)
    if isinstance(value, capture.OpOverload):
        namespace, _, name = value.name().partition("::")
        name, _, overload = name.partition(".")
        return _Operator(namespace, name, overload or "default")
    return value


def _filled(value: Any, found: Any) -> Any:
    """Nested arguments with their nodes put back (``map_aggregate`` would walk into the named tuples)."""
    if isinstance(value, _NodeName | _Operator):
        return found(value)
    if isinstance(value, tuple | list):
        return type(value)(_filled(part, found) for part in value)
    if isinstance(value, dict):
        return {key: _filled(part, found) for key, part in value.items()}
    return value
