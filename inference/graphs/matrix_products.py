"""Matrix products of a captured graph by whatever is fastest at their size.

Torch sends a float32 product to MKL, which runs at half speed or less on processors that are not Intel's. There,
large products go to oneDNN, the other library that torch carries; a compiled graph has the smaller ones written into
its own code (:mod:`~aevb.inference.graphs.product_kernel`). The precision is the same: all accumulate in float32.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, cast
from zlib import crc32

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from .torch_internals import Internals, onednn, product_kernel

__all__ = [
    "is_float32_on_cpu",
    "lower_product",
    "product_operator",
    "products_for_compiler",
    "redirect_products",
]

_libraries: list[Any] = []  # an operator lives as long as its library
_FEWEST = 1_500_000  # multiplications below which MKL is as fast, since a call of oneDNN costs more
_MOST = 50_000_000  # multiplications up to which a product written into the compiled code is faster than oneDNN's


def redirect_products(graph: GraphModule) -> None:
    """Send the large float32 products of a traced graph to oneDNN, where MKL is slow."""
    if not _mkl_is_slow() or _lost(onednn):
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
    return is_float32_on_cpu(left, right) and _multiplications(left, right) >= _FEWEST


def is_float32_on_cpu(*tensors: Tensor) -> bool:
    """Tell whether tensors are what this library's own kernels are written for."""
    return all(tensor.device.type == "cpu" and tensor.dtype == torch.float32 for tensor in tensors)


def _multiplications(a: Tensor, b: Tensor) -> int:
    return a.shape[0] * a.shape[1] * b.shape[1]


def _value(node: Node) -> Tensor:
    value: Tensor = node.meta["val"]
    return value


@cache
def product_operator() -> Any:
    """OneDNN's product as an operator of its own: the compiler takes torch's only with constant weights."""
    # What torch compiled it keeps on disk under the operators' names, so ours tells how it is compiled.
    ways = [Path(__file__), Path(__file__).with_name("product_kernel.py")]
    name = f"product_{crc32(b''.join(path.read_bytes() for path in ways)):08x}"
    library = torch.library.Library("aevb", "DEF")
    library.define(f"{name}(Tensor a, Tensor b, Tensor? bias) -> Tensor")
    library.impl(name, _product, "CPU")
    torch.library.register_fake(f"aevb::{name}", lambda a, b, bias: a.new_empty(a.shape[0], b.shape[1]), lib=library)
    _libraries.append(library)
    return getattr(torch.ops.aevb, name).default


def _product(a: Tensor, b: Tensor, bias: Tensor | None) -> Tensor:
    return cast("Tensor", onednn.linear(a, b.t(), bias, "none", [], ""))


def products_for_compiler() -> dict[Any, Callable[..., Tensor]]:
    """Products as the compiler is to see them, by operator; none where torch's own serve."""
    if not _written_out():
        return {}
    return {torch.ops.aten.mm.default: _mm, torch.ops.aten.addmm.default: _addmm}


def _written_out() -> bool:
    """Whether the compiled code's products are not torch's own: where those are slow, and this torch allows others."""
    return _mkl_is_slow() and not _lost(onednn) and not _lost(product_kernel)


def _lost(names: Internals) -> bool:
    if (reason := names.missing()) is not None:
        _say_lost(reason)
    return reason is not None


@cache
def _say_lost(reason: str) -> None:
    warnings.warn(
        f"matrix products are made by MKL, which is slow on this processor: {reason}.", RuntimeWarning, stacklevel=2
    )


def _mm(a: Tensor, b: Tensor) -> Tensor:
    if not is_float32_on_cpu(a, b) or _multiplications(a, b) == 0:
        return NotImplemented
    return cast("Tensor", product_operator()(a, b, None))


def _addmm(bias: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    product = _mm(a, b) if beta == alpha == 1 else NotImplemented
    return NotImplemented if product is NotImplemented else bias + product


def lower_product() -> None:
    """Tell Inductor to write small products into the compiled code, and to call oneDNN itself for the others."""
    if _written_out():
        _lower_product()


@cache
def _lower_product() -> None:
    from .product_kernel import written_out  # costs seconds: it stands on Inductor

    def lowered(a: Any, b: Any, bias: Any) -> Any:
        if int(a.get_size()[0]) * int(a.get_size()[1]) * int(b.get_size()[1]) > _MOST:
            return by_onednn(a, b, bias)
        return written_out(a, b, bias)

    def by_onednn(a: Any, b: Any, bias: Any) -> Any:
        rows = product_kernel.ExternKernel.require_contiguous(product_kernel.ExternKernel.realize_input(a))
        columns = product_kernel.ExternKernel.require_stride1(
            product_kernel.ExternKernel.realize_input(product_kernel.permute(b, [1, 0]))
        )
        size = [rows.get_size()[0], columns.get_size()[0]]
        device = rows.get_device_or_error()
        layout = product_kernel.FixedLayout(device=device, dtype=rows.get_dtype(), size=size)
        how: list[Any] = ["none", [-1], ""]
        if bias is None:
            product = product_kernel.LinearUnary(layout=layout, inputs=[rows, columns], constant_args=[None, *how])
        else:
            added = product_kernel.ExternKernel.require_contiguous(product_kernel.ExternKernel.realize_input(bias))
            product = product_kernel.LinearUnary(layout=layout, inputs=[rows, columns, added], constant_args=how)
        output = product_kernel.MultiOutput(layout, product, [])
        product.layout, product.outputs = product_kernel.MultiOutputLayout(device=device), [output]
        return product_kernel.TensorBox.create(output)

    product_kernel.register_lowering(product_operator(), type_promotion_kind=None)(lowered)


@cache
def _mkl_is_slow() -> bool:
    cpu = Path("/proc/cpuinfo")
    if not torch.backends.mkldnn.is_available() or not torch.backends.mkl.is_available() or not cpu.exists():
        return False
    return "AuthenticAMD" in cpu.read_text(encoding="utf-8")
