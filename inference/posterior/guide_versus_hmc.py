"""The guide's posterior beside that of chains, datapoint by datapoint, in the coordinates chains move in."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..arviz_compat import convergence
from ..pairs.data import as_rows
from ..pairs.finished import Finished, checked
from ..pairs.sites import Data, as_data
from ..pairs.unconstrained import flatten, log_density
from ..random_state import RandomState
from .hmc import sample

__all__ = ["GuideVersusHMC", "guide_versus_hmc"]


_MET = 1.05  # r-hat up to which chains are taken to have met
_SHIFT = 0.25  # standard deviations that a mean may be off without a word
_WIDTH = math.log(1.25)  # and the logarithm of the ratio of two widths
_ERRORS = 3


@dataclass(frozen=True)
class GuideVersusHMC:
    """Draws of a few datapoints' posteriors.

    Args:
        data: The datapoints, as the programs take them.
        guide: The guide's draws, unconstrained, ``[num_draws, N, D]``.
        chains: The draws of chains that start at the guide's, ``[num_draws, N, D]``.
        rhat: The largest r-hat of a datapoint's coordinates, ``[N]``; above 1.05 the chains have not met.
        ess: The effective sample size of each coordinate by the chains, ``[N, D]``.
    """

    data: Data
    guide: Tensor
    chains: Tensor
    rhat: Tensor
    ess: Tensor

    @property
    def met(self) -> Tensor:
        """Mask of the datapoints whose chains have met, ``[N]``; of the others nothing is said."""
        return self.rhat <= _MET

    @property
    def shift(self) -> Tensor:
        """The guide's mean less the chains', in the chains' standard deviations, ``[N, D]``."""
        guide, chains = self.guide.double().cpu(), self.chains.double().cpu()
        return (guide.mean(0) - chains.mean(0)) / chains.std(0)

    @property
    def width(self) -> Tensor:
        """The guide's standard deviation as a multiple of the chains', ``[N, D]``."""
        return self.guide.double().cpu().std(0) / self.chains.double().cpu().std(0)

    @property
    def differs(self) -> Tensor:
        """Mask of the datapoints, ``[N]``, whose chains have met elsewhere than the guide, or narrower, or wider.

        A coordinate's mean is off by a quarter of a standard deviation, or its width by a quarter, and by three of
        their Monte Carlo errors more: sqrt(width^2 / S + 1 / ess), sqrt((1 / S + 1 / ess) / 2).
        """
        draws = len(self.guide)
        off = self.shift.abs() - _ERRORS * (self.width.square() / draws + 1.0 / self.ess).sqrt()
        wrong = self.width.log().abs() - _ERRORS * ((1.0 / draws + 1.0 / self.ess) / 2).sqrt()
        return self.met & ((off > _SHIFT) | (wrong > _WIDTH)).any(-1)

    @property
    def sentence(self) -> str:
        """The datapoints on which guide and chains differ, and by how much at most, in words."""
        points, met, differing = len(self.rhat), int(self.met.sum()), int(self.differs.sum())
        said = f"Hamiltonian chains from the guide's own draws have met on {met} of {points} datapoints"
        if not met:
            return f"{said}, so they say nothing of it"
        if not differing:
            return f"{said}, and there the guide has their means and widths to within a quarter"
        shift, width = self.shift[self.differs], self.width[self.differs]
        return (
            f"{said}; on {differing} of these the guide differs from them: a mean lies up to "
            f"{float(shift.abs().max()):.2g} of their standard deviations off, widths are {float(width.min()):.2g} to "
            f"{float(width.max()):.2g} times theirs"
        )


def guide_versus_hmc(
    pair: Finished, data: Any, *, num_draws: int = 400, num_chains: int = 4, warmup: int = 200, seed: int = 0
) -> GuideVersusHMC:
    """Draw a few datapoints' posteriors from the guide and by HMC.

    Args:
        pair: A run, or a checked pair with a guide.
        data: The datapoints; ten are many.
        num_draws: Draws of each posterior.
        num_chains: Chains a datapoint; they share the draws.
        warmup: Transitions while each chain's step size is tuned.
        seed: Of the draws.

    References:
        Auto-Encoding Variational Bayes (Kingma & Welling, 2013), appendix D for HMC over z,
        https://arxiv.org/abs/1312.6114
    """
    pair = checked(pair)
    device = pair.example[0].device
    rows = as_rows(data, device)
    part = as_data(rows[torch.arange(len(rows), device=device)])
    each = -(-num_draws // num_chains)
    with RandomState(seed, device), pair.evaluation():
        guide = flatten(pair, pair.sample_guide(part, num_draws))
        chains = sample(log_density(pair, part), guide[:num_chains], num_samples=each, warmup=warmup).u
    rhat, ess = (found.reshape(len(rows), -1) for found in convergence(chains.transpose(0, 1).flatten(2)))
    return GuideVersusHMC(part, guide, chains.flatten(0, 1)[:num_draws], rhat.amax(-1), ess)
