r"""Any ``pyro.infer.ELBO`` as an objective, with the semantics of ``pyro.infer.SVI``.

Model and guide both minimise the surrogate loss whose value is -ELBO and whose gradient is Pyro's estimator, here
divided by the batch size: nats per datapoint, which is eq. (8) over N.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
from pyro.infer import ELBO, TraceMeanField_ELBO
from torch import Tensor, nn

from ..pairs.data import Rows
from ..pairs.pair import Pair
from .objective import Batch, Phase

__all__ = ["PyroELBO"]


@dataclass(frozen=True)
class PyroELBO:
    """Train model and guide on one of Pyro's own bounds.

    Args:
        elbo: An instance that has ``differentiable_loss``: ``Trace_ELBO``, ``TraceMeanField_ELBO``, ... Pyro's
            RenyiELBO has none (and weighs whole batches); use ``IWAE`` instead.

    References:
        Auto-Encoding Variational Bayes (Kingma & Welling, 2013), eqs. (6)-(8), https://arxiv.org/abs/1312.6114
    """

    elbo: ELBO

    def __post_init__(self) -> None:
        if not hasattr(self.elbo, "differentiable_loss"):
            raise ValueError(
                f"{type(self.elbo).__name__} has no differentiable_loss, so it cannot be an objective here; use "
                "Trace_ELBO, TraceMeanField_ELBO or TraceEnum_ELBO, or this library's own objective."
            )

    @property
    def trains(self) -> frozenset[str]:
        """Model and guide."""
        return frozenset({"model", "guide"})

    def start(self, pair: Pair, data: Rows) -> nn.Module:
        """No memory; a guide without a density is refused, or one whose order Pyro's closed forms do not bear."""
        pair.insist_on_density()
        out_of_order = [site.name for site in pair.latents if not site.has_closed_form]
        if out_of_order and isinstance(self.elbo, TraceMeanField_ELBO):
            raise ValueError(
                f"{type(self.elbo).__name__} takes the divergence of {out_of_order} in closed form, which need not "
                "hold: the guide draws latents after them that the model draws before, or masks them otherwise than "
                'the model. Use SGVB(estimator="B"), which samples those sites, or Trace_ELBO.'
            )
        return nn.Module()

    def __call__(self, pair: Pair, batch: Batch, memory: nn.Module) -> Iterator[Phase]:
        """Yield the one phase: both players on the same loss."""
        loss = surrogate_loss(self.elbo, pair, batch) / len(batch.rows)
        yield Phase({"model": loss, "guide": loss}, {"bound": -loss.detach()})


def surrogate_loss(elbo: Any, pair: Pair, batch: Batch) -> Tensor:
    """Pyro's differentiable loss of a pair on a batch, a scalar tensor in nats (summed over the batch)."""
    with _numbers_stay_tensors(elbo):
        loss: Tensor = elbo.differentiable_loss(pair.model, pair.guide, *batch.data)
    return loss


@contextmanager
def _numbers_stay_tensors(elbo: Any) -> Iterator[None]:
    # Pyro reads the loss out as a Python number at every step, which stalls an accelerator and cannot be captured
    # in a graph. Its two helpers for that are given tensors back; the trainer does the finiteness check.
    modules = {sys.modules[cls.__module__] for cls in type(elbo).__mro__ if cls.__module__.startswith("pyro.infer")}
    with ExitStack() as stack:
        for module in modules:
            if hasattr(module, "torch_item"):
                stack.enter_context(patch.object(module, "torch_item", _detached))
            if hasattr(module, "warn_if_nan"):
                stack.enter_context(patch.object(module, "warn_if_nan", lambda value, msg="": value))
        yield


def _detached(value: Any) -> Any:
    return value.detach() if isinstance(value, torch.Tensor) else value
