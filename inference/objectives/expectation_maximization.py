r"""Expectation maximisation, exact where the posterior and the best parameters have closed forms.

    E-step:  s = sum_i E_{p(z|x_i)} [ t(x_i, z) ]        M-step:  theta = argmax_theta  E[ log p(x, z) | s ]

A model takes part by two methods in the vocabulary of sufficient statistics, :class:`Summarized`. On a minibatch the
statistics are a running average with a falling gain, (t + 2)^-0.7, which is online EM.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn

from ..data import Dataset, chunks
from ..pair import Pair
from .objective import Batch, Phase

__all__ = ["EM", "Summarized"]

_ROWS = 1000  # datapoints summarised at once


@runtime_checkable
class Summarized(Protocol):
    """A model whose E- and M-step have closed forms."""

    def summarize(self, *data: Tensor) -> Mapping[str, Tensor]:
        """The E-step: expected sufficient statistics, summed over the datapoints; ``"log_evidence"`` among them."""

    def from_summaries(self, statistics: Mapping[str, Tensor]) -> None:
        """The M-step: set the parameters to their optimum given summed (or averaged) statistics."""


class _Statistics(nn.Module):
    """The memory: the running mean of every statistic."""

    def __init__(self, means: Mapping[str, Tensor]) -> None:
        super().__init__()
        for name, value in means.items():
            self.register_buffer(name, value)

    def means(self) -> dict[str, Tensor]:
        return dict(self.named_buffers())


@dataclass(frozen=True)
class EM:
    """Maximise the likelihood by exact EM: no guide, no gradient, no step size.

    A batch of the whole data set makes each step one EM iteration, whose likelihood never falls.

    Raises:
        ValueError: The model has no ``summarize`` and ``from_summaries``.

    References:
        Maximum Likelihood from Incomplete Data via the EM Algorithm (Dempster, Laird & Rubin, 1977);
        On-line Expectation-Maximization Algorithm for Latent Data Models (Cappe & Moulines, 2009),
        https://arxiv.org/abs/0712.4273
    """

    @property
    def trains(self) -> frozenset[str]:
        """The model alone."""
        return frozenset({"model"})

    def start(self, pair: Pair, data: Dataset) -> nn.Module:
        """Summarise the data once under the parameters as they are."""
        model = _model(pair)
        with torch.no_grad():
            total: dict[str, Tensor] = {}
            for part in chunks(data, _ROWS):
                for name, value in model.summarize(*part).items():
                    total[name] = total[name] + value if name in total else value
        return _Statistics({name: value / len(data) for name, value in total.items()})

    def __call__(self, pair: Pair, batch: Batch, memory: nn.Module) -> Iterator[Phase]:
        """Do the E- and the M-step, then yield a phase in which nobody has anything left to minimise."""
        model, running = _model(pair), cast(_Statistics, memory).means()
        rows = len(batch.rows)
        gain = torch.ones_like(batch.step, dtype=torch.get_default_dtype())
        if rows < batch.size:
            gain = (batch.step.to(gain.dtype) + 2.0) ** -0.7
        with torch.no_grad():
            fresh = model.summarize(*batch.data)
            for name, mean in running.items():
                mean.copy_(torch.lerp(mean, fresh[name] / rows, gain.to(mean.dtype)))
            model.from_summaries(running)
        yield Phase({}, {"bound": fresh["log_evidence"] / rows})


def _model(pair: Pair) -> Summarized:
    model = pair.model.fn
    if not isinstance(model, Summarized):
        raise ValueError(
            f"EM needs closed-form E- and M-steps, but {type(model).__name__} has no summarize(*data) and "
            "from_summaries(statistics); use a model that has them (GaussianMixture, ProbabilisticPCA), or MCEM."
        )
    return model
