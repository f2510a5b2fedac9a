"""A captured graph compiled by torch's Inductor: elementwise work fused, the optimiser with it.

Torch keeps what it compiled on disk, so a second run of the same net starts warm. Draws stay torch's own, so the
random stream is that of the uncompiled graph.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, cast

import torch
from torch import Tensor
from torch.fx import GraphModule

from .graph import Flat
from .matrix_products import is_float32_on_cpu, lower_product, products_for_compiler
from .torch_internals import CannotCompileError, capture, compiler

__all__ = ["compiled"]

_Kernel = Callable[[list[Tensor]], Any]  # it empties the list
_NO_REDUCTION, _MEAN = 0, 1  # as torch's operators number them


def compiled(flat: Flat, arguments: list[Tensor]) -> Callable[..., Any]:
    """Compile a captured graph for the shapes of its state and arguments.

    Args:
        flat: The graph; it is left as it was.
        arguments: Examples of what it is called with after its state; nothing is run.

    Returns:
        A function to be called as ``flat`` is.

    Raises:
        CannotCompileError: The compiler failed, or there is none.
    """
    try:
        function = _compile(flat, [tensor.detach() for tensor in (*flat.state, *arguments)])
    except Exception as error:  # whatever a compiler does, the graph still runs
        lines = str(error).strip().splitlines() or [""]
        raise CannotCompileError(f"{type(error).__name__}: {lines[0][:200]}") from error
    # The compiled function was made for tensors that want no gradient; aliases share the storage.
    state = [tensor.detach() for tensor in flat.state]

    def run(*arguments: Tensor) -> Any:
        return function([*state, *arguments])

    return run


def _compile(flat: Flat, examples: list[Tensor]) -> _Kernel:
    on_cpu = all(example.device.type == "cpu" for example in examples)
    try:
        return _compile_with(flat, examples, calls_in_cpp=on_cpu)
    except Exception:  # an operation that only Python can call
        if not on_cpu:
            raise
        return _compile_with(flat, examples, calls_in_cpp=False)


def _compile_with(flat: Flat, examples: list[Tensor], calls_in_cpp: bool) -> _Kernel:
    # Inductor keeps on disk only what was compiled under a shape environment, even where no shape is symbolic.
    fake = capture.FakeTensorMode(shape_env=compiler.ShapeEnv())
    ends, inner = _ends(flat.module), list[Any]()

    def keep(graph: GraphModule, *args: Any, **kwargs: Any) -> Any:
        inner.append((graph, compiler.compile_fx_inner(graph, *args, **kwargs)))
        return inner[-1][1]

    with torch.no_grad(), _settings(calls_in_cpp), capture.tracing(capture.TracingContext(fake)):
        fakes = [fake.from_tensor(example, static_shapes=True) for example in examples]
        for node, stand_in in zip(flat.module.graph.find_nodes(op="placeholder"), fakes, strict=True):
            node.meta["val"] = stand_in  # where some have one and some have none, Inductor takes the latter for nothing
        function: Any = compiler.compile_fx(flat.module, fakes, inner_compile=keep, decompositions=_decompositions())
    if len(inner) == 1 and _ends(inner[0][0]) == ends and hasattr(inner[0][1], "current_callable"):
        return cast("_Kernel", inner[0][1].current_callable)  # what torch wraps around it has nothing to do
    return lambda arguments: function(*arguments)


def _ends(graph: GraphModule) -> tuple[int, int]:
    """How many tensors go into a graph and how many come out, 0 for one that is not in a tuple."""
    (output,) = graph.graph.find_nodes(op="output")
    came = output.args[0]
    return len(graph.graph.find_nodes(op="placeholder")), len(came) if isinstance(came, list | tuple) else 0


def _settings(calls_in_cpp: bool) -> AbstractContextManager[Any]:
    """Torch's own random stream; kernels called from C++, on one allocation; no check of what capture checked."""
    lower_product()
    asserts = dict.fromkeys(["size_asserts", "alignment_asserts", "scalar_asserts"], False)
    patched: AbstractContextManager[Any] = compiler.config.patch(
        {"fallback_random": True, "cpp_wrapper": calls_in_cpp, "memory_planning": calls_in_cpp, **asserts}
    )
    return patched


def _decompositions() -> dict[Any, Callable[..., Any]]:
    """Torch's, and those of operations that Inductor leaves to slower kernels."""
    aten = torch.ops.aten
    own: dict[Any, Callable[..., Any]] = {
        compiler.norms: _norms,
        aten.tanh.default: _tanh,
        aten.sigmoid.default: _sigmoid,
        aten.binary_cross_entropy_with_logits.default: _bernoulli,
        aten.bernoulli.default: _coins,
    }
    return {**compiler.select_decomp_table(), **own, **products_for_compiler()}


def _coins(p: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
    """Torch's own draws of a Bernoulli; Inductor would compare p with uniform numbers of another stream."""
    return cast("Tensor", torch.ops.aten.bernoulli.Tensor(torch.empty_like(p), p, generator=generator))


def _norms(tensors: list[Tensor], ord: float = 2, dtype: torch.dtype | None = None) -> list[Tensor]:
    """Norms as plain sums, which are fused with what else reads the tensors."""
    if ord != 2 or dtype is not None:
        return [torch.linalg.vector_norm(tensor, ord, dtype=dtype) for tensor in tensors]
    return [tensor.square().sum().sqrt() for tensor in tensors]


def _tanh(x: Tensor) -> Tensor:
    """Tanh in two pieces, each right to rounding: its series near 0, where 1 - 2 / (1 + e^2x) cancels."""
    if not is_float32_on_cpu(x):
        return NotImplemented
    y = x * x
    near = x * (1 + y * (-1 / 3 + y * (2 / 15 + y * (-17 / 315 + y * (62 / 2835)))))
    return torch.where(y < 0.09, near, 1 - 2 / (1 + (2 * x).exp()))


def _sigmoid(x: Tensor) -> Tensor:
    """By e^-|x|, which the Bernoulli likelihood of the same logits has worked out as well."""
    if not is_float32_on_cpu(x):
        return NotImplemented
    y = (-x.abs()).exp()
    return torch.where(x >= 0, 1.0, y) / (1.0 + y)


def _bernoulli(
    x: Tensor, target: Tensor, weight: Tensor | None = None, pos_weight: Tensor | None = None, reduction: int = 1
) -> Tensor:
    """-log p(target) of logits x; an operation that Inductor has no code for is written out in every case."""
    if is_float32_on_cpu(x, target) and weight is None and pos_weight is None and reduction == _NO_REDUCTION:
        return x.clamp(min=0.0) - x * target + _log1p_of_exp(-x.abs())
    ones = 1.0 if pos_weight is None else 1.0 + (pos_weight - 1.0) * target
    loss = (1.0 - target) * x + ones * ((-x).clamp(min=0.0) + (-x.abs()).exp().log1p())
    loss = (loss if weight is None else weight * loss).to(target.dtype)
    return loss if reduction == _NO_REDUCTION else loss.mean() if reduction == _MEAN else loss.sum()


def _log1p_of_exp(x: Tensor) -> Tensor:
    """log(1 + y) = 2 artanh(y / (2 + y)) of y = e^x in (0, 1] by its series, right to rounding."""
    y = x.exp()
    s = y / (2.0 + y)  # at most 1/3
    q = s * s
    series = 1 + q * (1 / 3 + q * (1 / 5 + q * (1 / 7 + q * (1 / 9 + q * (1 / 11 + q * (1 / 13 + q * (1 / 15)))))))
    return 2.0 * s * series
