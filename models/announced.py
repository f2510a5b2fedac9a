"""Blocks that Pyro's own inference trains: each announces its parameters wherever somebody listens."""

from __future__ import annotations

from contextvars import ContextVar
from itertools import count
from typing import Any

import pyro
from pyro.poutine.runtime import am_i_wrapped
from torch import nn

__all__ = ["Announced"]

_announcing: ContextVar[bool] = ContextVar("_announcing", default=False)


class Announced(nn.Module):
    """A module that registers itself by ``pyro.module`` when it is run under one of Pyro's handlers.

    So ``pyro.infer.SVI`` finds what to train in a model or guide of this package as it is, and in a plain function that
    calls one of its priors or likelihoods. Of blocks within blocks the outermost speaks for all. The name is the
    class's, with a number where the store holds another module under it: of two modules under one name Pyro trains the
    first and runs the second. Stored values are taken by ``pyro.module(name, block, update_module_params=True)``.

    Example:
        >>> import torch
        >>> from pyro.infer import SVI, Trace_ELBO
        >>> from aevb.models import priors
        >>> prior = priors.LearnedNormal(2)
        >>> pyro.clear_param_store()
        >>> def model():
        ...     pyro.sample("z", prior(), obs=torch.ones(2))
        >>> _ = SVI(model, lambda: None, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO()).step()
        >>> sorted(pyro.get_param_store())
        ['LearnedNormal$$$log_scale', 'LearnedNormal$$$mean']
        >>> pyro.clear_param_store()
    """

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the block, then announce it: its parameters may be born in the run."""
        if _announcing.get():
            return super().__call__(*args, **kwargs)
        heard = am_i_wrapped()  # asked before the block itself enters a plate
        token = _announcing.set(True)
        try:
            result = super().__call__(*args, **kwargs)
        finally:
            _announcing.reset(token)
        if heard:
            pyro.module(_free_name(self), self)
        return result


def _free_name(module: nn.Module) -> str:
    """The class's name, numbered where the store holds another module's parameters under it."""
    parameters, store = list(module.named_parameters()), pyro.get_param_store()

    def free(name: str) -> bool:
        return all(store._params.get(f"{name}$$${key}", value) is value for key, value in parameters)

    name = type(module).__name__
    return name if free(name) else next(n for n in (f"{name}_{number}" for number in count(2)) if free(n))
