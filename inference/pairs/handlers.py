"""Pyro's effect handlers as this package uses them: the one module that touches them."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import Distribution, constraints

from .sites import Data, Sites

__all__ = ["Change", "Changing", "Detaching", "Dreaming", "Parameters", "conditioned", "trace_sites", "watched"]

Change = Callable[[str, Distribution], Distribution]
_SAMPLE_PLATE = "_aevb_samples"
_own_run: ContextVar[bool] = ContextVar("_own_run", default=False)


class Parameters(Messenger):
    """Answers every ``pyro.param`` by ``answer(name, initial value, constraint)`` instead of the global store.

    The answer is a value that knows its parameter, ``value.unconstrained()``, as values from Pyro's store do: by it SVI
    finds what to train, and an automatic guide what it has made.
    """

    def __init__(self, answer: Callable[[str, Any, constraints.Constraint], Tensor]) -> None:
        super().__init__()
        self.answer = answer

    def _pyro_param(self, msg: Any) -> None:
        init = msg["args"][1] if len(msg["args"]) > 1 else None
        if init is None and msg["name"] in pyro.get_param_store():
            return  # a PyroModule has just put its own parameter there
        msg["value"] = self.answer(msg["name"], init, msg["kwargs"].get("constraint", constraints.real))
        msg["done"] = True


class Dreaming(Messenger):
    """Draws every observed site, as ``poutine.uncondition`` does, and leaves computed ones as they are computed."""

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"] and not msg["infer"].get("_deterministic"):
            msg["is_observed"], msg["done"], msg["value"] = False, False, None


class Detaching(Messenger):
    """Cuts every draw off from the parameters it was drawn by."""

    def _pyro_post_sample(self, msg: Any) -> None:
        msg["value"] = msg["value"].detach()


class Changing(Messenger):
    """Puts another distribution in the place of each latent's; what is to be changed has all of ``dims`` in front."""

    def __init__(self, names: frozenset[str], change: Change, dims: int) -> None:
        super().__init__()
        self.names, self.change, self.dims = names, change, dims

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self.names:
            # The plate of samples is entered further out: what does not depend on another draw knows nothing of it.
            shape = torch.Size(msg["fn"].batch_shape)
            missing = (1,) * (self.dims - len(shape))
            msg["fn"] = self.change(msg["name"], msg["fn"].expand(missing + shape))


def conditioned(program: Callable[..., Any], values: dict[str, Tensor]) -> Callable[..., Any]:
    """The program with some of its sites held at given values."""
    fixed: Callable[..., Any] = poutine.condition(program, data=values)
    return fixed


def watched() -> bool:
    """Tell whether a program runs by itself or for somebody else: not for this package, which knows its parameters."""
    return not _own_run.get()


def trace_sites(program: Callable[..., Any], data: Data, num_samples: int | None, max_plate_nesting: int) -> Sites:
    """Run a program and return its sample sites by name; ``None`` runs it without a sample plate."""
    token = _own_run.set(True)
    try:
        with poutine.trace() as recorder:
            if num_samples is None:
                program(*data)
            else:
                with pyro.plate(_SAMPLE_PLATE, num_samples, dim=-1 - max_plate_nesting):
                    program(*data)
    finally:
        _own_run.reset(token)
    return {
        name: site
        for name, site in recorder.trace.nodes.items()
        if site["type"] == "sample" and not site_is_subsample(site) and not (site["infer"] or {}).get("_deterministic")
    }
