r"""Torch's optimisers as tensor operations on their own state, so that an update can be part of a captured step.

    Adam:     m <- b1 m + (1-b1) g,  v <- b2 v + (1-b2) g^2,  p <- p - lr m / (1-b1^t) / (sqrt(v / (1-b2^t)) + eps)
    Adagrad:  s <- s + g^2,          p <- p - lr / (1 + (t-1) decay) g / (sqrt(s) + eps)
    SGD:      b <- mu b + g,         p <- p - lr b

The state lives in the torch optimiser under torch's names: checkpoints, and eager steps in between, see one state.
An update is skipped where ``broken`` is 1, without asking the processor that computes for its value.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from ..graphs.torch_internals import capture

__all__ = ["Update", "is_dense", "laid_out_like", "step_hooks", "update_of"]

Group = dict[str, Any]


@dataclass(frozen=True)
class Update:
    """One torch optimiser's update.

    ``lr`` holds each parameter group's learning rate as a tensor, which :meth:`refresh` keeps at its present value.
    """

    optimizer: torch.optim.Optimizer
    lr: tuple[Tensor, ...]
    fused: bool

    def __call__(self, gradients: dict[int, Tensor], broken: Tensor) -> None:
        """Move the parameters that have a gradient (by ``id``), unless ``broken`` is 1."""
        rule = _RULES[type(self.optimizer)]
        for group, lr in zip(self.optimizer.param_groups, self.lr, strict=True):
            moved = [p for p in group["params"] if id(p) in gradients]
            if moved:
                states = [self.optimizer.state[p] for p in moved]
                rule(group, lr, moved, [gradients[id(p)] for p in moved], states, broken, self.fused)

    def refresh(self) -> None:
        """Read the learning rates again (a scheduler may have changed them)."""
        for group, lr in zip(self.optimizer.param_groups, self.lr, strict=True):
            lr.fill_(group["lr"])

    @property
    def settings(self) -> list[Group]:
        """Everything an optimiser was told; while it is the same, so are learning rates and constants."""
        return [{**group, "params": [*map(id, group["params"])]} for group in self.optimizer.param_groups]

    @property
    def constants(self) -> tuple[Any, ...]:
        """The numbers that a captured update has baked in; if one changes, the step is captured again."""
        return tuple(
            (*((k, v) for k, v in group.items() if k not in ("params", "lr")), *map(id, group["params"]))
            for group in self.optimizer.param_groups
        )

    @property
    def tensors(self) -> list[Tensor]:
        """The state that the update changes."""
        return [value for state in self.optimizer.state.values() for value in state.values() if value is not None]


def update_of(optimizer: torch.optim.Optimizer, fused: bool) -> Update | None:
    """The update of a torch optimiser; ``None`` where it is not one of those written down here.

    Args:
        optimizer: Its state is made here if it has none.
        fused: Call torch's own kernels, fastest in a graph that nothing compiles.
    """
    if type(optimizer) not in _RULES or not all(_supported(group) for group in optimizer.param_groups):
        return None
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            _begin(optimizer, group, parameter)
    device = next((p.device for group in optimizer.param_groups for p in group["params"]), torch.device("cpu"))
    # Torch's kernels read a learning rate as a double on the CPU and as a float elsewhere.
    dtype = torch.float64 if device.type == "cpu" else torch.float32
    fused = fused and all(is_dense(p) for group in optimizer.param_groups for p in group["params"])
    lr = tuple(torch.tensor(float(group["lr"]), dtype=dtype, device=device) for group in optimizer.param_groups)
    return Update(optimizer, lr, fused)


def step_hooks(optimizer: torch.optim.Optimizer) -> bool:
    """Tell whether anything is called before, after or in place of an optimiser's step (torch's schedulers aside)."""
    everywhere = (capture.global_pre_hooks, capture.global_post_hooks)
    own = (capture.pre_hooks(optimizer), capture.post_hooks(optimizer))
    step = vars(optimizer).get("step")
    return any(everywhere) or any(own) or not (step is None or hasattr(step, "_wrapped_by_lr_sched"))


def is_dense(parameter: Tensor) -> bool:
    """Tell whether a tensor fills its memory without gaps, in any order, as torch's fused kernels take for granted.

    Example:
        >>> is_dense(torch.zeros(3, 4).t()), is_dense(torch.zeros(3, 4)[:, 0])
        (True, False)
    """
    return _order(torch.empty_like(parameter, device="meta")) == _order(parameter)


def laid_out_like(gradient: Tensor, parameter: Tensor) -> Tensor:
    """A gradient in the order in which its parameter lies in memory, as ``backward()`` would leave it there.

    Torch's fused kernels go through parameter, gradient and moments as they lie in memory, whatever their strides.
    """
    return gradient if _order(gradient) == _order(parameter) else torch.empty_like(parameter).copy_(gradient)


def _order(tensor: Tensor) -> list[int]:
    return [stride for stride, size in zip(tensor.stride(), tensor.shape, strict=True) if size > 1]


def _supported(group: Group) -> bool:
    odd = group.get("amsgrad") or group.get("differentiable") or group.get("dampening", 0.0) != 0.0
    return not odd and not isinstance(group["lr"], Tensor)


def _begin(optimizer: torch.optim.Optimizer, group: Group, parameter: Tensor) -> None:
    state = optimizer.state[parameter]
    for name in _STATE[type(optimizer)](group):
        if state.get(name) is None:
            like = torch.zeros((), device=parameter.device) if name == "step" else torch.zeros_like(parameter)
            state[name] = like.detach()
        state[name] = state[name].to(parameter.device)


def _adam(
    group: Group, lr: Tensor, ps: list[Tensor], gs: list[Tensor], states: list[Any], broken: Tensor, fused: bool
) -> None:
    b1, b2 = (float(b) for b in group["betas"])
    steps, ms, vs = ([state[name] for state in states] for name in ("step", "exp_avg", "exp_avg_sq"))
    decoupled = bool(group.get("decoupled_weight_decay", False))
    capture.add_to_each(steps, 1)
    if fused:
        kernel = capture.fused_adamw if decoupled else capture.fused_adam
        kernel(
            ps, gs, ms, vs, [], steps, lr=lr, beta1=b1, beta2=b2, weight_decay=group["weight_decay"],
            eps=group["eps"], amsgrad=False, maximize=group["maximize"], grad_scale=None, found_inf=broken,
        )  # fmt: skip
    else:
        sizes = [(lr / (1 - b1 ** t.double())) for t in steps]
        numbers = _computed_once(sizes + [(1 - b2 ** t.double()).sqrt() for t in steps], ps)
        sizes, roots = numbers[: len(steps)], numbers[len(steps) :]
        decay = group["weight_decay"]
        for p, g, m, v, size, root in zip(ps, gs, ms, vs, sizes, roots, strict=True):
            g = _signed(group, p, g, 0.0 if decoupled else decay)
            first, second = m + (1 - b1) * (g - m), b2 * v + (1 - b2) * g * g
            kept = p * (1 - lr * decay).to(p.dtype) if decoupled and decay else p
            new = kept - size.to(p.dtype) * first / (second.sqrt() / root.to(p.dtype) + group["eps"])
            _put(broken, (m, first), (v, second), (p, new))
    capture.subtract_from_each(steps, [broken] * len(steps))


def _adagrad(
    group: Group, lr: Tensor, ps: list[Tensor], gs: list[Tensor], states: list[Any], broken: Tensor, fused: bool
) -> None:
    steps, sums = ([state[name] for state in states] for name in ("step", "sum"))
    capture.add_to_each(steps, 1)
    # Torch's fused Adagrad takes no tensor for "skip this update" on every device, so there is one form of it.
    for p, g, s, t in zip(ps, gs, sums, steps, strict=True):
        g = _signed(group, p, g, group["weight_decay"])
        total = s + g * g
        size = (lr / (1 + (t - 1) * group["lr_decay"])).to(p.dtype)
        _put(broken, (s, total), (p, p - size * g / (total.sqrt() + group["eps"])))
    capture.subtract_from_each(steps, [broken] * len(steps))


def _sgd(
    group: Group, lr: Tensor, ps: list[Tensor], gs: list[Tensor], states: list[Any], broken: Tensor, fused: bool
) -> None:
    momentum = group["momentum"]
    for p, g, state in zip(ps, gs, states, strict=True):
        g = _signed(group, p, g, group["weight_decay"])
        if momentum:
            buffer = momentum * state["momentum_buffer"] + g
            g = g + momentum * buffer if group["nesterov"] else buffer
            _put(broken, (state["momentum_buffer"], buffer))
        _put(broken, (p, p - lr.to(p.dtype) * g))


def _computed_once(numbers: list[Tensor], ps: list[Tensor]) -> list[Tensor]:
    """Scalars as precise as parameters, not to be inlined: a compiler would take the power anew for each of them."""
    dtype = reduce(torch.promote_types, {p.dtype for p in ps})
    column = torch.stack(numbers).to(dtype).unsqueeze(-1)
    return list(torch.mm(column, torch.ones_like(column[:1])).squeeze(-1).unbind())


def _signed(group: Group, p: Tensor, g: Tensor, weight_decay: float) -> Tensor:
    g = -g if group["maximize"] else g
    return g + weight_decay * p if weight_decay else g


def _put(broken: Tensor, *changes: tuple[Tensor, Tensor]) -> None:
    for old, new in changes:
        old.copy_(torch.where(broken == 0, new, old))


_RULES: dict[type, Callable[..., None]] = {
    torch.optim.Adam: _adam,
    torch.optim.AdamW: _adam,
    torch.optim.Adagrad: _adagrad,
    torch.optim.SGD: _sgd,
}
_STATE: dict[type, Callable[[Group], tuple[str, ...]]] = {
    torch.optim.Adam: lambda group: ("step", "exp_avg", "exp_avg_sq"),
    torch.optim.AdamW: lambda group: ("step", "exp_avg", "exp_avg_sq"),
    torch.optim.Adagrad: lambda group: ("step", "sum"),
    torch.optim.SGD: lambda group: ("momentum_buffer",) if group["momentum"] else (),
}
