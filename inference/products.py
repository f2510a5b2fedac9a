"""Matrix products of a captured graph through the faster of torch's two float32 kernels.

Torch sends a float32 product to MKL, which runs at half speed or less on processors that are not Intel's; oneDNN, the
other library that torch carries, has the same precision (both accumulate in float32) and is as fast everywhere.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

__all__ = ["lower_product", "product_operator", "redirect_products"]

_libraries: list[Any] = []  # an operator lives as long as its library
_FEWEST = 1_500_000  # multiplications below which MKL is as fast, since a call of oneDNN costs more


def redirect_products(graph: GraphModule) -> None:
    """Send the large float32 products of a traced graph to oneDNN, where MKL is slow."""
    if not _mkl_is_slow():
        return
    product_op = product_operator()
    for node in list(graph.graph.nodes):
        bias: Any = None
        if node.target is torch.ops.aten.mm.default:
            a, b = node.args
        elif node.target is torch.ops.aten.addmm.default and len(node.args) == 3 and not node.kwargs:
            bias, a, b = node.args
        else:
            continue
        if not _worth_it(a, b) or (bias is not None and _value(bias).dim() != 1):
            continue
        with graph.graph.inserting_before(node):
            product = graph.graph.call_function(product_op, (a, b, bias))
        product.meta = dict(node.meta)
        node.replace_all_uses_with(product)
        graph.graph.erase_node(node)


def _worth_it(a: Any, b: Any) -> bool:
    left, right = _value(a), _value(b)
    on_cpu = left.device.type == "cpu" and left.dtype == right.dtype == torch.float32
    return on_cpu and left.shape[0] * left.shape[1] * right.shape[1] >= _FEWEST


def _value(node: Node) -> Tensor:
    value: Tensor = node.meta["val"]
    return value


@cache
def product_operator() -> Any:
    """OneDNN's product as an operator of its own: the compiler takes torch's only with constant weights."""
    library = torch.library.Library("aevb", "DEF")
    library.define("product(Tensor a, Tensor b, Tensor? bias) -> Tensor")
    library.impl("product", _product, "CPU")
    torch.library.register_fake("aevb::product", lambda a, b, bias: a.new_empty(a.shape[0], b.shape[1]), lib=library)
    _libraries.append(library)
    return torch.ops.aevb.product.default


def _product(a: Tensor, b: Tensor, bias: Tensor | None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise.default(a, b.t(), bias, "none", [], "")


@cache
def lower_product() -> None:
    """Tell Inductor to call oneDNN itself, and to write a transposed factor in order where it is made."""
    from torch._inductor.ir import ExternKernel, FixedLayout, MultiOutput, MultiOutputLayout, TensorBox
    from torch._inductor.lowering import permute, register_lowering
    from torch._inductor.mkldnn_ir import LinearUnary

    def lowered(a: Any, b: Any, bias: Any) -> Any:
        rows = ExternKernel.require_contiguous(ExternKernel.realize_input(a))
        columns = ExternKernel.require_stride1(ExternKernel.realize_input(permute(b, [1, 0])))
        size = [rows.get_size()[0], columns.get_size()[0]]
        device = rows.get_device_or_error()
        layout = FixedLayout(device=device, dtype=rows.get_dtype(), size=size)
        how: list[Any] = ["none", [-1], ""]
        if bias is None:
            product = LinearUnary(layout=layout, inputs=[rows, columns], constant_args=[None, *how])
        else:
            added = ExternKernel.require_contiguous(ExternKernel.realize_input(bias))
            product = LinearUnary(layout=layout, inputs=[rows, columns, added], constant_args=how)
        output = MultiOutput(layout, product, [])
        product.layout, product.outputs = MultiOutputLayout(device=device), [output]
        return TensorBox.create(output)

    register_lowering(product_operator(), type_promotion_kind=None)(lowered)


@cache
def _mkl_is_slow() -> bool:
    cpu = Path("/proc/cpuinfo")
    if not torch.backends.mkldnn.is_available() or not torch.backends.mkl.is_available() or not cpu.exists():
        return False
    return "AuthenticAMD" in cpu.read_text(encoding="utf-8")
