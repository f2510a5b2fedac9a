r"""Expectation maximisation, its E-step exact.

    E-step:  p(z|x_i, theta_old)        M-step:  theta = argmax_theta  sum_i E_{p(z|x_i)} [ log p(x_i, z | theta) ]

A model whose M-step has a closed form takes part by two methods in the vocabulary of sufficient statistics,
:class:`Summarized`; on a minibatch the statistics are a running average with a falling gain, (t + 2)^-0.7, which is
online EM. Of any other model the posterior is exact where log p(x, z) is quadratic in z (a linear-Gaussian program):
then the expectation is a mean over 2 D points, exactly, and the M-step is as many updates by the optimiser
(generalised EM). The first of them is a gradient step on the exact log p(x): Fisher's identity.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn

from ..pairs.data import Rows, chunks
from ..pairs.pair import Pair
from ..pairs.unconstrained import unflatten
from ..posterior.gaussian import gaussian_posterior, refuse_unless_gaussian
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

    evaluations_per_visit = 0  # closed forms take no gradient

    def __init__(self, means: Mapping[str, Tensor]) -> None:
        super().__init__()
        for name, value in means.items():
            self.register_buffer(name, value)

    def means(self) -> dict[str, Tensor]:
        return dict(self.named_buffers())


@dataclass(frozen=True, kw_only=True)
class EM:
    """Maximise the likelihood by exact EM: no guide, and where the M-step has a closed form no gradient or step size.

    With closed forms a batch of the whole data set makes each step one EM iteration, whose likelihood never falls.

    Args:
        num_updates: Weight updates on each posterior, where the M-step has no closed form.

    Raises:
        ValueError: The model has no ``summarize`` and ``from_summaries``, nor is it jointly Gaussian in z and x.

    References:
        Maximum Likelihood from Incomplete Data via the EM Algorithm (Dempster, Laird & Rubin, 1977);
        On-line Expectation-Maximization Algorithm for Latent Data Models (Cappe & Moulines, 2009),
        https://arxiv.org/abs/0712.4273
    """

    num_updates: int = 5

    def __post_init__(self) -> None:
        if self.num_updates < 1:
            raise ValueError(f"num_updates={self.num_updates} must be at least 1.")

    @property
    def trains(self) -> frozenset[str]:
        """The model alone."""
        return frozenset({"model"})

    @property
    def evaluations_per_visit(self) -> int:
        """One a weight update, where there is no closed form."""
        return self.num_updates

    def start(self, pair: Pair, data: Rows) -> nn.Module:
        """Summarise the data once under the parameters as they are, or see that the posterior is Gaussian."""
        model = pair.model.fn
        if not isinstance(model, Summarized):
            with pair.evaluation():
                refuse_unless_gaussian(pair, next(iter(chunks(data, _ROWS))), "EM")
            return nn.Module()
        with pair.evaluation():
            total: dict[str, Tensor] = {}
            for part in chunks(data, _ROWS):
                for name, value in model.summarize(*part).items():
                    total[name] = total[name] + value if name in total else value
        return _Statistics({name: value / len(data) for name, value in total.items()})

    def __call__(self, pair: Pair, batch: Batch, memory: nn.Module) -> Iterator[Phase]:
        """Do the E- and the M-step; in closed form nobody has anything left to minimise."""
        model = pair.model.fn
        if isinstance(model, Summarized):
            yield _by_closed_forms(model, batch, cast(_Statistics, memory).means())
        else:
            yield from self._by_gradients(pair, batch)

    def _by_gradients(self, pair: Pair, batch: Batch) -> Iterator[Phase]:
        with pair.evaluation():
            posterior = gaussian_posterior(pair, batch.data)
        z, _ = unflatten(pair, posterior.points())
        for update in range(self.num_updates):
            loss = -pair.log_joint(z, batch.data).mean()
            report = {"bound": posterior.log_px.mean(), "log_joint": -loss.detach()}
            yield Phase({"model": loss}, report if update == self.num_updates - 1 else {})


def _by_closed_forms(model: Summarized, batch: Batch, running: Mapping[str, Tensor]) -> Phase:
    rows = len(batch.rows)
    gain = torch.ones_like(batch.step, dtype=torch.get_default_dtype())
    if rows < batch.size:
        gain = (batch.step.to(gain.dtype) + 2.0) ** -0.7
    with torch.no_grad():
        fresh = model.summarize(*batch.data)
        for name, mean in running.items():
            mean.copy_(torch.lerp(mean, fresh[name] / rows, gain.to(mean.dtype)))
        model.from_summaries(running)
    return Phase({}, {"bound": fresh["log_evidence"] / rows})
