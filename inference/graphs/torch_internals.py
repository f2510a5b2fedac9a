"""The one door to torch's private and experimental names: what capturing, compiling and fast products reach for.

Torch may move such a name in any release. It is looked up here when it is used, never at import, and a missing one is
told as an error that is fallen back from: a step runs uncaptured, a graph uncompiled, a product the way torch makes it.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import cache
from typing import Any

import torch

__all__ = [
    "CannotCaptureError",
    "CannotCompileError",
    "Internals",
    "capture",
    "compiler",
    "dispatch_mode",
    "onednn",
    "product_kernel",
]


class CannotCaptureError(RuntimeError):
    """A step or a density cannot be captured; the message says why."""


class CannotCompileError(RuntimeError):
    """The compiler failed, or there is none; the message says how."""


class Internals:
    """Names of torch, each an attribute of this that is looked up when it is read.

    Args:
        error: What is raised for a name that is not there.
        where: By our name, the path to torch's (``module:name``); one that begins with a dot is an attribute of an
            object, and comes as the function that reads it.

    Example:
        >>> names = Internals(CannotCaptureError, {"float": "torch:float32", "gone": "torch:_gone", "size": ".shape"})
        >>> names.float, names.size(torch.zeros(2))
        (torch.float32, torch.Size([2]))
        >>> names.gone
        Traceback (most recent call last):
        ...
        aevb.inference.graphs.torch_internals.CannotCaptureError: torch ... has no torch:_gone
    """

    def __init__(self, error: type[RuntimeError], where: Mapping[str, str]) -> None:
        self.error, self.where = error, dict(where)

    def __getattr__(self, name: str) -> Any:
        if name not in self.__dict__.get("where", {}):
            raise AttributeError(name)
        path = self.where[name]
        if path.startswith("."):
            return lambda owner: self._attribute(owner, path[1:])
        try:
            return pkgutil.resolve_name(path)
        except (ImportError, AttributeError) as error:
            raise self._missing(path) from error

    def missing(self) -> str | None:
        """The error's message for the first name that is not there; ``None`` if all are."""
        for name in self.where:
            try:
                getattr(self, name)
            except self.error as error:
                return str(error)
        return None

    def _attribute(self, owner: Any, name: str) -> Any:
        try:
            return getattr(owner, name)
        except AttributeError as error:
            raise self._missing(f"{type(owner).__name__}.{name}") from error

    def _missing(self, path: str) -> RuntimeError:
        return self.error(f"torch {torch.__version__} has no {path}")


capture = Internals(
    CannotCaptureError,
    {
        "make_fx": "torch.fx.experimental.proxy_tensor:make_fx",
        "FakeTensorMode": "torch._subclasses.fake_tensor:FakeTensorMode",
        "TracingContext": "torch._guards:TracingContext",
        "tracing": "torch._guards:tracing",
        "TorchDispatchMode": "torch.utils._python_dispatch:TorchDispatchMode",
        "OpOverload": "torch._ops:OpOverload",
        "tree_leaves": "torch.utils._pytree:tree_leaves",
        "add_to_each": "torch:_foreach_add_",
        "subtract_from_each": "torch:_foreach_sub_",
        "fused_adam": "torch:_fused_adam_",
        "fused_adamw": "torch:_fused_adamw_",
        "global_pre_hooks": "torch.optim.optimizer:_global_optimizer_pre_hooks",
        "global_post_hooks": "torch.optim.optimizer:_global_optimizer_post_hooks",
        "pre_hooks": "._optimizer_step_pre_hooks",
        "post_hooks": "._optimizer_step_post_hooks",
        "backward_hooks": "._backward_hooks",
        "schema": "._schema",
        "version": "._version",
    },
)
compiler = Internals(
    CannotCompileError,
    {
        "compile_fx": "torch._inductor.compile_fx:compile_fx",
        "compile_fx_inner": "torch._inductor.compile_fx:compile_fx_inner",
        "ShapeEnv": "torch.fx.experimental.symbolic_shapes:ShapeEnv",
        "config": "torch._inductor.config",
        "select_decomp_table": "torch._inductor.decomposition:select_decomp_table",
        "norms": "torch:ops.aten._foreach_norm.Scalar",
    },
)
onednn = Internals(CannotCompileError, {"linear": "torch:ops.mkldnn._linear_pointwise.default"})
product_kernel = Internals(
    CannotCompileError,
    {
        "lowering": "torch._inductor.lowering",
        "ExternKernel": "torch._inductor.ir:ExternKernel",
        "FixedLayout": "torch._inductor.ir:FixedLayout",
        "MultiOutput": "torch._inductor.ir:MultiOutput",
        "MultiOutputLayout": "torch._inductor.ir:MultiOutputLayout",
        "TensorBox": "torch._inductor.ir:TensorBox",
        "permute": "torch._inductor.lowering:permute",
        "add": "torch._inductor.lowering:add",
        "register_lowering": "torch._inductor.lowering:register_lowering",
        "LinearUnary": "torch._inductor.mkldnn_ir:LinearUnary",
        "get_export_declaration": "torch._inductor.codegen.cpp:get_export_declaration",
        "CppTemplate": "torch._inductor.codegen.cpp_template:CppTemplate",
        "parallel_num_threads": "torch._inductor.utils:parallel_num_threads",
    },
)

Handler = Callable[[Any, tuple[Any, ...], Mapping[str, Any]], Any]


def dispatch_mode(handle: Handler) -> AbstractContextManager[Any]:
    """The context in which every operation goes through ``handle(operation, args, kwargs)``.

    Raises:
        CannotCaptureError: This torch has no such mode.
    """
    mode: AbstractContextManager[Any] = _handled(capture.TorchDispatchMode)(handle)
    return mode


@cache
def _handled(base: Any) -> Any:
    class Handled(base):
        def __init__(self, handle: Handler) -> None:
            super().__init__()
            self._handle = handle

        def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
            return self._handle(func, args, kwargs or {})

    return Handled
