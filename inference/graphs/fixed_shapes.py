"""A captured graph holds for one set of shapes; operations whose shapes depend on values must not be in it.

A rejection loop (``while todo.numel(): todo = todo[~accepted]``) runs while it is captured, with the shapes of those
draws; played again with other draws it would go as many rounds as the first time, and be wrong without a word.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

__all__ = ["shaped_by_values"]

_UNTAGGED = ("aten._pack_padded_sequence.default",)  # torch does not say so of it


def shaped_by_values(graph: GraphModule) -> str | None:
    """The first operation of a traced graph whose output's shape depends on values, by name; ``None`` if there is none.

    Example:
        >>> from aevb.inference.graphs.torch_internals import capture
        >>> shaped_by_values(capture.make_fx(lambda x: x[x > 0])(torch.ones(3)))
        'aten.index.Tensor'
        >>> shaped_by_values(capture.make_fx(lambda x: x[:2])(torch.ones(3)))
    """
    for node in graph.graph.nodes:
        tags = getattr(node.target, "tags", ())
        if str(node.target) in _UNTAGGED or (torch.Tag.dynamic_output_shape in tags and not _by_position(node)):
            return str(node.target)
    return None


def _by_position(node: Node) -> bool:
    """Whether a look-up is by numbers: their count is a shape, where the count of true values is not."""
    if node.target is not torch.ops.aten.index.Tensor:
        return False
    values = [index.meta.get("val") for index in node.args[1] if isinstance(index, Node)]  # type: ignore[union-attr]
    return not any(isinstance(value, Tensor) and value.dtype in (torch.bool, torch.uint8) for value in values)
