"""The guide's posterior beside that of chains, datapoint by datapoint, in the coordinates chains move in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..arviz_compat import convergence
from ..pairs.data import as_rows
from ..pairs.pair import Pair
from ..pairs.sites import Data, as_data
from ..pairs.unconstrained import flatten, log_density
from ..random_state import RandomState
from .hmc import sample

__all__ = ["GuideVersusHMC", "guide_versus_hmc"]


@dataclass(frozen=True)
class GuideVersusHMC:
    """Draws of a few datapoints' posteriors.

    Args:
        data: The datapoints, as the programs take them.
        guide: The guide's draws, unconstrained, ``[num_draws, N, D]``.
        chains: The draws of chains that start at the guide's, ``[num_draws, N, D]``.
        rhat: The largest r-hat of a datapoint's coordinates, ``[N]``; above 1.05 the chains have not met.
    """

    data: Data
    guide: Tensor
    chains: Tensor
    rhat: Tensor


def guide_versus_hmc(
    pair: Pair, data: Any, *, num_draws: int = 400, num_chains: int = 4, warmup: int = 200, seed: int = 0
) -> GuideVersusHMC:
    """Draw a few datapoints' posteriors from the guide and by HMC.

    Args:
        pair: A checked pair with a guide.
        data: The datapoints; ten are many.
        num_draws: Draws of each posterior.
        num_chains: Chains a datapoint; they share the draws.
        warmup: Transitions while each chain's step size is tuned.
        seed: Of the draws.

    References:
        Auto-Encoding Variational Bayes (Kingma & Welling, 2013), appendix D for HMC over z,
        https://arxiv.org/abs/1312.6114
    """
    device = pair.example[0].device
    rows = as_rows(data, device)
    part = as_data(rows[torch.arange(len(rows), device=device)])
    each = -(-num_draws // num_chains)
    with RandomState(seed, device), pair.evaluation():
        guide = flatten(pair, pair.sample_guide(part, num_draws))
        chains = sample(log_density(pair, part), guide[:num_chains], num_samples=each, warmup=warmup).u
    rhat, _ = convergence(chains.transpose(0, 1).flatten(2))
    return GuideVersusHMC(part, guide, chains.flatten(0, 1)[:num_draws], rhat.reshape(len(rows), -1).amax(-1))
