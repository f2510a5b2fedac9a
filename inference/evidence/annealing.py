r"""Annealed chains, forward from the start to the posterior and back from a posterior draw.

Forward, u_0 ~ s, and transitions that leave f_b invariant carry the chain upwards; its weight

    log w = sum_t (b_t - b_{t-1}) [log p(x, u_{t-1}) - log s(u_{t-1})]

has E[w] = p(x). Backward, the chain begins at an *exact* draw of the posterior and walks the same transitions in
reverse order; the same sum then has E[1/w] = 1/p(x). Both hold whatever the transitions do, so long as they leave
their f_b invariant and are fixed before the run: step sizes are tuned by chains of their own, and frozen.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..posterior.hmc import Place, advance, jittered
from .annealing_path import Path, ladder

__all__ = ["Annealing", "Tick"]

_GAIN = 0.5  # of the Robbins-Monro steps of the tuning run
_KEEPING_UP = 3  # tuning transitions per temperature: a step size must keep up with the posterior as it sharpens
_SPREADING = 5  # transitions by which chains that begin at one posterior draw part company
_FIRST_STEP = 0.3  # in units of the path's scales

Tick = Callable[[], None]


class Annealing:
    """The chains of a few datapoints on one path.

    Args:
        path: The path.
        schedule: How the temperatures are spaced.
        num_temperatures: Temperatures T above zero.
        num_tuning: Temperatures of the tuning run.
        num_chains: Chains a datapoint.
        num_leapfrog: Leapfrog steps a transition.
        target_accept: The acceptance that is tuned for.
        tick: Called after every temperature of a run, for a progress bar.
    """

    def __init__(
        self,
        path: Path,
        *,
        schedule: str,
        num_temperatures: int,
        num_tuning: int,
        num_chains: int,
        num_leapfrog: int,
        target_accept: float,
        tick: Tick = lambda: None,
    ) -> None:
        self.path, self.num_chains, self.num_leapfrog, self.tick = path, num_chains, num_leapfrog, tick
        self.betas = ladder(num_temperatures, schedule).tolist()
        coarse = ladder(num_tuning, schedule)
        steps = self._tune(coarse[1:].tolist(), target_accept)
        nearest = (ladder(num_temperatures, schedule)[1:, None] - coarse[None, 1:]).abs().argmin(1)
        self._steps = [steps[i] for i in nearest.tolist()]

    def forward(self) -> Tensor:
        """Log-weights of chains from the start to the posterior, ``[C, batch]`` in float64; E[w] = p(x)."""
        place = self.path.terms(self.path.draw(self.num_chains))
        log_weight = torch.zeros(place.u.shape[:2], dtype=torch.float64, device=place.u.device)
        for t in range(1, len(self.betas)):
            log_weight += (self.betas[t] - self.betas[t - 1]) * place.values[1].double()
            if t < len(self.betas) - 1:  # at the last temperature nothing is left to weigh
                place = self.move(place, t)
            self.tick()
        return log_weight

    def backward(self, u: Tensor) -> Tensor:
        """Log-weights of chains from posterior draws back to the start, ``[C, batch]`` in float64; E[1/w] = 1/p(x).

        Args:
            u: Exact draws of each datapoint's posterior, ``[C, batch, D]``; they may be copies of one.
        """
        place = self.path.terms(u)
        last = len(self.betas) - 1
        for _ in range(_SPREADING):
            place = self.move(place, last)  # leaves the posterior invariant: every chain stays an exact draw
        log_weight = torch.zeros(place.u.shape[:2], dtype=torch.float64, device=place.u.device)
        for t in range(last, 0, -1):
            log_weight += (self.betas[t] - self.betas[t - 1]) * place.values[1].double()
            if t > 1:
                place = self.move(place, t - 1)
            self.tick()
        return log_weight

    def move(self, place: Place, t: int) -> Place:
        """One transition of every chain at temperature ``t``, by step sizes that are fixed."""
        return self._transition(place, self.betas[t], self._steps[t - 1])[0]

    def _transition(self, place: Place, beta: float, step: Tensor) -> tuple[Place, Tensor]:
        sizes = jittered(step.expand(place.u.shape[:2])).unsqueeze(-1) * self.path.scale
        return advance(self.path.terms, place, (1.0, beta), sizes, self.num_leapfrog)

    def _tune(self, betas: list[float], target_accept: float) -> list[Tensor]:
        """A step size ``[batch]`` for each temperature, from chains that are thrown away."""
        place = self.path.terms(self.path.draw(self.num_chains))
        log_step = place.u.new_full(place.u.shape[1:2], math.log(_FIRST_STEP))
        steps = []
        for beta in betas:
            for _ in range(_KEEPING_UP):
                place, accept_prob = self._transition(place, beta, log_step.exp())
                log_step = log_step + _GAIN * (accept_prob.mean(0) - target_accept)
            steps.append(log_step.exp())
        return steps
