r"""Monte Carlo EM: no guide, the posterior is sampled by HMC.

    E-step:  z_i <- HMC transition of chain i towards p(z|x_i),     M-step:  theta descends -log p(x_i, z_i)

Each datapoint owns one chain, kept between visits. The paper's settings: 10 leapfrog steps, a step size tuned to
90 % acceptance, 5 weight updates on each sample. Chains move in evaluation mode: p(z|x_i) is then a density of one
datapoint, whatever batch normalisation or dropout the model trains with.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from ..pairs.data import Rows, chunks
from ..pairs.pair import Pair
from ..pairs.unconstrained import flatten, log_density, unflatten
from ..posterior.hmc import transition
from .objective import Batch, Phase

__all__ = ["MCEM"]

_ADAPTATION = 0.1  # how far a visit may move the log step size; small enough to average over batches


class _Chains(nn.Module):
    """The memory: one position a datapoint ``[N, D]`` and the common log step size."""

    def __init__(self, positions: Tensor, step_size: float) -> None:
        super().__init__()
        self.register_buffer("positions", positions)
        self.register_buffer("log_step", torch.full((), math.log(step_size), device=positions.device))


@dataclass(frozen=True, kw_only=True)
class MCEM:
    """Maximise the likelihood with posterior samples from HMC in place of a guide.

    Args:
        num_leapfrog: Leapfrog steps a transition.
        num_updates: Weight updates on each sample.
        target_accept: The acceptance the step size is tuned to.
        step_size: Where the tuning starts.

    References:
        Auto-Encoding Variational Bayes (Kingma & Welling, 2013), sec. 5 and appendix E; Monte Carlo EM: A Monte
        Carlo implementation of the EM algorithm (Wei & Tanner, 1990).
    """

    name = "mcem"
    num_leapfrog: int = 10
    num_updates: int = 5
    target_accept: float = 0.9
    step_size: float = 0.1

    def __post_init__(self) -> None:
        if min(self.num_leapfrog, self.num_updates) < 1:
            raise ValueError(f"num_leapfrog={self.num_leapfrog} and num_updates={self.num_updates} must be at least 1.")
        if not 0.0 < self.target_accept < 1.0 or self.step_size <= 0.0:
            raise ValueError(
                f"target_accept={self.target_accept} must lie in (0, 1) and step_size={self.step_size} above 0."
            )

    @property
    def trains(self) -> frozenset[str]:
        """The model alone."""
        return frozenset({"model"})

    @property
    def evaluations_per_visit(self) -> int:
        """One a leapfrog step and one a weight update, as the paper counts; where a trajectory starts is left out."""
        return self.num_leapfrog + self.num_updates

    def start(self, pair: Pair, data: Rows) -> nn.Module:
        """Start every chain at a draw from the prior."""
        with pair.evaluation():
            rows = [flatten(pair, pair.sample_prior(part))[0] for part in chunks(data, 1000)]
        return _Chains(torch.cat(rows), self.step_size)

    def __call__(self, pair: Pair, batch: Batch, memory: nn.Module) -> Iterator[Phase]:
        """Move the batch's chains, then yield ``num_updates`` phases for the model on the new sample."""
        chains = cast(_Chains, memory)
        positions, log_step = cast(Tensor, chains.positions), cast(Tensor, chains.log_step)
        start = positions[batch.rows].unsqueeze(0)
        with pair.evaluation():
            moved = transition(log_density(pair, batch.data), start, log_step.exp(), self.num_leapfrog)
        accept = moved.accept_prob.mean()
        with torch.no_grad():
            positions[batch.rows] = moved.u[0]
            log_step += _ADAPTATION * (accept - self.target_accept)
        z, _ = unflatten(pair, moved.u)
        for update in range(self.num_updates):
            loss = -pair.log_joint(z, batch.data).mean()
            last = update == self.num_updates - 1
            report = {"log_joint": -loss.detach(), "acceptance": accept, "step_size": log_step.exp()}
            yield Phase({"model": loss}, report if last else {})
