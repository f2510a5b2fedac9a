r"""The marginal likelihood by annealed importance sampling.

A chain starts at a draw from a tractable density s(u), the prior or the guide, and is carried to the posterior along

    log f_b(u) = (1 - b) log s(u) + b log p(x, u),     0 = b_0 < b_1 < ... < b_T = 1,

by one HMC transition a temperature. Its weight, log w = sum_t (b_t - b_{t-1}) [log p(x, u_t) - log s(u_t)], is
unbiased for p(x) whatever the transitions, so long as they leave f_b invariant and are fixed before the run: the step
sizes are tuned in a run of their own, and frozen.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..coordinates import flatten, unflatten
from ..data import Dataset, chunks
from ..hmc import jittered, transition
from ..pair import Data, Pair
from .evidence import Evidence

__all__ = ["AnnealedImportanceSampling"]

Densities = Callable[[Tensor], tuple[Tensor, Tensor]]
_GAIN = 0.5  # of the Robbins-Monro steps of the tuning run


@dataclass(frozen=True)
class AnnealedImportanceSampling:
    """Anneal ``num_chains`` chains a datapoint from the prior or the guide to the posterior.

    Args:
        num_temperatures: Temperatures T above zero.
        num_chains: Chains C a datapoint.
        start: ``"guide"`` (an order of magnitude fewer temperatures do) or ``"prior"`` (needs no guide density).
        schedule: ``"sigmoid"`` crowds temperatures at both ends, ``"linear"`` spaces them evenly.
        num_leapfrog: Leapfrog steps a transition.
        target_accept: The acceptance that the separate run tunes each datapoint's step sizes to.
        num_tuning: Temperatures of the tuning run.
        rows: Chains of all datapoints that run at once; memory does not grow beyond them.

    Raises:
        ValueError: An argument is out of range, or ``start`` or ``schedule`` is unknown.

    References:
        Annealed Importance Sampling (Neal, 2001); On the Quantitative Analysis of Decoder-Based Generative Models
        (Wu, Burda, Salakhutdinov & Grosse, 2017), sec. 3, https://arxiv.org/abs/1611.04273
    """

    num_temperatures: int = 1000
    num_chains: int = 16
    start: str = "guide"
    schedule: str = "sigmoid"
    num_leapfrog: int = 10
    target_accept: float = 0.65
    num_tuning: int = 100
    rows: int = 2000

    def __post_init__(self) -> None:
        counts = {
            name: getattr(self, name) for name in ("num_temperatures", "num_chains", "num_leapfrog", "num_tuning")
        }
        low = [f"{name}={value}" for name, value in counts.items() if value < 1]
        if low:
            raise ValueError(f"{', '.join(low)} must be at least 1.")
        if self.start not in ("prior", "guide"):
            raise ValueError(f"start={self.start!r} is unknown; choose 'prior' or 'guide'.")
        if self.schedule not in ("sigmoid", "linear"):
            raise ValueError(f"schedule={self.schedule!r} is unknown; choose 'sigmoid' or 'linear'.")
        if not 0.0 < self.target_accept < 1.0:
            raise ValueError(f"target_accept={self.target_accept} must lie in (0, 1).")

    def __call__(self, pair: Pair, data: Dataset) -> Evidence:
        """Estimate log p(x) of every datapoint."""
        parts = [self._anneal(pair, part) for part in chunks(data, max(1, self.rows // self.num_chains))]
        log_weights = torch.cat(parts, dim=1).cpu()  # [C, N]
        total = log_weights.logsumexp(0)
        return Evidence(
            method="ais",
            direction="lower bound",
            log_px=total - math.log(self.num_chains),
            num_samples=self.num_chains,
            ess=(2 * total - (2 * log_weights).logsumexp(0)).exp(),
            notes=(
                f"{self.num_temperatures} temperatures from the {self.start}, {self.num_chains} chains a datapoint",
            ),
        )

    def _anneal(self, pair: Pair, part: Data) -> Tensor:
        """The log-weights of a few datapoints' chains, ``[C, batch]`` in float64."""
        densities = _densities(pair, part, self.start)
        coarse = _ladder(self.num_tuning, self.schedule)
        steps = self._tune(densities, self._draw(pair, part), coarse)
        fine = _ladder(self.num_temperatures, self.schedule)
        nearest = (fine[1:, None] - coarse[None, 1:]).abs().argmin(1)
        u = self._draw(pair, part)
        log_weight = torch.zeros(u.shape[:2], dtype=torch.float64, device=u.device)
        for t in range(1, len(fine)):
            log_start, log_joint = densities(u)
            log_weight += float(fine[t] - fine[t - 1]) * (log_joint - log_start).double()
            u = transition(
                _tempered(densities, float(fine[t])), u, jittered(steps[nearest[t - 1]]), self.num_leapfrog
            ).u
        return log_weight

    def _tune(self, densities: Densities, u: Tensor, ladder: Tensor) -> Tensor:
        """Step sizes of each temperature and datapoint, ``[num_tuning, batch]``, from chains that are thrown away."""
        log_step = u.new_full(u.shape[1:2], math.log(0.1))
        steps = []
        for beta in ladder[1:].tolist():
            for _ in range(3):  # a step size must keep up with the posterior as it sharpens
                moved = transition(
                    _tempered(densities, beta), u, jittered(log_step.exp().expand(u.shape[:2])), self.num_leapfrog
                )
                u = moved.u
                log_step = log_step + _GAIN * (moved.accept_prob.mean(0) - self.target_accept)
            steps.append(log_step.exp())
        return torch.stack(steps)[:, None].expand(-1, u.shape[0], -1)

    def _draw(self, pair: Pair, part: Data) -> Tensor:
        draw = pair.sample_prior if self.start == "prior" else pair.sample_guide
        return flatten(pair, draw(part, self.num_chains))


def _ladder(count: int, schedule: str) -> Tensor:
    """Inverse temperatures from 0 to 1, ``[count + 1]``."""
    even = torch.linspace(0.0, 1.0, count + 1, dtype=torch.float64)
    if schedule == "linear":
        return even
    curve = torch.sigmoid(4.0 * (2.0 * even - 1.0))
    return (curve - curve[0]) / (curve[-1] - curve[0])


def _densities(pair: Pair, part: Data, start: str) -> Densities:
    """The starting log-density and the log-joint at unconstrained ``u``, each ``[C, batch]``."""

    def densities(u: Tensor) -> tuple[Tensor, Tensor]:
        z, log_det = unflatten(pair, u)
        log_prior, log_lik = pair.log_densities(z, part)
        log_start = log_prior if start == "prior" else pair.log_guide(z, part)
        return log_start + log_det, log_prior + log_lik + log_det

    return densities


def _tempered(densities: Densities, beta: float) -> Callable[[Tensor], Tensor]:
    def density(u: Tensor) -> Tensor:
        log_start, log_joint = densities(u)
        return (1.0 - beta) * log_start + beta * log_joint

    return density
