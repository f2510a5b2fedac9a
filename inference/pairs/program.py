"""A Pyro program that carries its own parameters."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pyro
import torch
from torch import Tensor, nn
from torch.distributions import constraints, transform_to

from .handlers import Parameters, watched
from .sites import ContractError

__all__ = ["Program", "as_program"]


class Program(nn.Module):
    """A callable of Pyro statements that carries its own parameters.

    A plain function's ``pyro.param`` and ``pyro.module`` statements are adopted as parameters and submodules
    of this module the first time they run, so two programs never share a store by accident and
    ``parameters()``, ``state_dict()`` and ``to()`` mean what they mean for any module.

    Args:
        fn: A plain function, a bound method or an ``nn.Module``.
    """

    def __init__(self, fn: Callable[..., Any]) -> None:
        super().__init__()
        self.fn = fn
        self.births = 0  # how many parameters were adopted: a trainer sees late ones by it
        self._constraints: dict[str, constraints.Constraint] = {}
        self._keys: dict[str, str] = {}
        self._peer: tuple[Program, ...] = ()  # a tuple, so that the peer is no submodule
        self._put_to_rest: list[nn.Module] = []  # adopted in training mode while this program was in evaluation mode

    def forward(self, *data: Tensor) -> Any:
        """Run the program; its parameters are this module's."""
        # A PyroModule hands its parameters through the global store: it finds an empty one here, and what it leaves
        # in it is adopted, so nothing outlives the call and no other program's parameter is met by name.
        with pyro.get_param_store().scope() as store, self._adopting(), Parameters(self.parameter):
            result = self.fn(*data)
            if watched():
                self._announce()
        self._adopt_left_behind(store)
        return result

    def parameter(self, name: str, init: Any, constraint: constraints.Constraint) -> Tensor:
        """Return the (constrained) value of the parameter ``name``, adopting it when it is new."""
        if hasattr(init, "unconstrained"):
            return init
        if isinstance(init, Tensor) and any(init is known for known in self.parameters()):
            return _traceable(init, init) if watched() else init  # a module hands its own through
        if isinstance(init, nn.Parameter):
            self._adopt(name, init)
            return _traceable(init, init) if watched() else init
        if name not in self._keys and not self._borrow(name):
            if init is None:
                raise ContractError(
                    f"pyro.param({name!r}) has no initial value and no parameter of that name exists; "
                    "give it one: pyro.param(name, init)."
                )
            value = init() if callable(init) else init
            with torch.no_grad():
                free = transform_to(constraint).inv(value.detach()).clone()
            self._adopt(name, nn.Parameter(free))
            self._constraints[name] = constraint
        free = getattr(self, self._keys[name])
        return _traceable(transform_to(self._constraints[name])(free), free)

    def share_parameters_with(self, peer: Program) -> None:
        """Share from now on the ``pyro.param`` names of a pair's other program, as Pyro's one store does."""
        if peer is not self:
            self._peer = (peer,)

    def wake(self) -> None:
        """Give back the training mode that modules adopted in evaluation mode came with."""
        for module in self._put_to_rest:
            module.training = True
        self._put_to_rest.clear()

    def values(self) -> dict[str, Tensor]:
        """Map every parameter's own name to its constrained value."""
        found: dict[str, Tensor] = {}
        own = {key: name for name, key in self._keys.items()}
        for key, value in self.named_parameters():
            name = own.get(key)
            if name is None:
                name, constrained = _module_value(self, key, value)
            else:
                constrained = transform_to(self._constraints.get(name, constraints.real))(value)
            found[name] = constrained.detach()
        return found

    def _borrow(self, name: str) -> bool:
        """Adopt a peer's parameter of this name, if there is one."""
        for peer in self._peer:
            if name in peer._constraints and name in peer._keys:
                self._adopt(name, getattr(peer, peer._keys[name]))
                self._constraints[name] = peer._constraints[name]
                return True
        return False

    def _announce(self) -> None:
        """State every parameter to whoever runs this program: SVI trains what it hears of."""
        for key, value in self.named_parameters():
            if value.requires_grad:
                pyro.param(key, _traceable(value, value))

    def _adopt_left_behind(self, store: Any) -> None:
        if not store["params"]:
            return
        known = {id(parameter) for parameter in self.parameters()}
        for name, value in store["params"].items():
            if isinstance(value, nn.Parameter) and id(value) not in known and name not in self._keys:
                self._adopt(name, value)
                self._constraints[name] = store["constraints"][name]

    def _adopt(self, name: str, value: nn.Parameter) -> None:
        key = name.replace(".", "/")
        self._keys[name] = key
        self.register_parameter(key, value)
        self.births += 1

    @contextmanager
    def _adopting(self) -> Iterator[None]:
        # pyro.module announces the parameters of a module but not the module, whose buffers (batch-norm
        # statistics) belong to the program as well: so the announcement itself is overheard.
        announce = pyro.module

        def overhear(name: str, nn_module: nn.Module, *args: Any, **kwargs: Any) -> nn.Module:
            if any(nn_module is module for module in self.modules()):
                return nn_module  # its parameters are this program's already
            key = name.replace(".", "/")
            if key not in self._modules:
                self.add_module(key, nn_module)
                self.births += 1
                if not self.training:
                    self._put_to_rest += [module for module in nn_module.modules() if module.training]
                    nn_module.eval()
            return announce(name, nn_module, *args, **kwargs)

        pyro.module = overhear
        try:
            yield
        finally:
            pyro.module = announce


def as_program(fn: Callable[..., Any]) -> Program:
    """Make a callable a program."""
    # The programs of a run are taken as they are: their parameters are already their own.
    return fn if isinstance(fn, Program) else Program(fn)


def _traceable(value: Tensor, free: nn.Parameter | Tensor) -> Tensor:
    """The value with a way back to its parameter; a parameter itself stays without, or it could not be pickled."""
    seen = value.view_as(value) if value is free else value
    seen.unconstrained = weakref.ref(free)  # type: ignore[attr-defined]
    return seen


def _module_value(program: nn.Module, key: str, value: Tensor) -> tuple[str, Tensor]:
    """The user's name and constrained value of a parameter that lives in a module."""
    name = key.removeprefix("fn.")
    if name.endswith("_unconstrained"):  # a PyroParam: its module knows the constraint
        owner, _, leaf = key.removesuffix("_unconstrained").rpartition(".")
        with pyro.get_param_store().scope():
            return name.removesuffix("_unconstrained"), getattr(program.get_submodule(owner), leaf)
    return name, value
