"""A captured graph compiled by torch's Inductor: elementwise work fused, the optimiser with it.

Torch keeps what it compiled on disk, so a second run of the same net starts warm. Draws stay torch's own, so the
random stream is that of the uncompiled graph.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .compile import Flat

__all__ = ["CannotCompileError", "compiled"]


class CannotCompileError(RuntimeError):
    """The compiler failed, or there is none; the message says how."""


def compiled(flat: Flat, arguments: list[Tensor]) -> Callable[..., Any]:
    """Compile a captured graph for the shapes of its state and arguments.

    Args:
        flat: The graph; it is left as it was.
        arguments: Examples of what it is called with after its state; nothing is run.

    Returns:
        A function to be called as ``flat.module`` is.

    Raises:
        CannotCompileError: The compiler failed, or there is none.
    """
    try:
        from torch._guards import TracingContext, tracing
        from torch._inductor import config
        from torch._inductor.compile_fx import compile_fx
        from torch._subclasses.fake_tensor import FakeTensorMode
        from torch.fx.experimental.symbolic_shapes import ShapeEnv

        examples = [tensor.detach() for tensor in (*flat.state, *arguments)]
        # Inductor keeps on disk only what was compiled under a shape environment, even where no shape is symbolic.
        fake = FakeTensorMode(shape_env=ShapeEnv())
        with torch.no_grad(), config.patch(fallback_random=True), tracing(TracingContext(fake)):
            fakes = [fake.from_tensor(example, static_shapes=True) for example in examples]
            function: Any = compile_fx(flat.module, fakes)
    except Exception as error:  # whatever a compiler does, the graph still runs
        lines = str(error).strip().splitlines() or [""]
        raise CannotCompileError(f"{type(error).__name__}: {lines[0][:200]}") from error
    # The compiled function was made for tensors that want no gradient; aliases share the storage.
    aliases = {id(tensor): tensor.detach() for tensor in flat.state}

    def run(*inputs: Tensor) -> Any:
        return function(*[aliases.get(id(tensor), tensor) for tensor in inputs])

    return run
