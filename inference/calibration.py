r"""Simulation-based calibration: on the model's own simulations the truth's rank among posterior draws is uniform.

    (z*, x*) ~ p(z) p(x|z),    z_1..z_L ~ q(z|x*),    rank = #{l : z_l < z*}  ~  Uniform{0, ..., L}

The model is right by construction, so what fails here is the inference: the guide, or the chain.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .coordinates import flatten, log_density, unflatten
from .data import as_dataset
from .hmc import sample
from .pair import Data, Pair, as_data
from .random_state import RandomState

__all__ = [
    "Calibration",
    "ECDFDifference",
    "HMCSampler",
    "RankHistogram",
    "guide_sampler",
    "simulation_based_calibration",
]

Sampler = Callable[[Pair, Data, int], dict[str, Tensor]]


class RankHistogram(NamedTuple):
    """``counts`` ``[bins, D]`` of ranks, and the band ``[low, high]`` that a bin keeps with the given probability."""

    edges: Tensor
    counts: Tensor
    low: float
    high: float


class ECDFDifference(NamedTuple):
    """``difference`` ``[G, D]`` of the ranks' ECDF from the uniform one on ``grid``, its simultaneous band ``[G]``."""

    grid: Tensor
    difference: Tensor
    low: Tensor
    high: Tensor


@dataclass(frozen=True)
class Calibration:
    """The ranks of the truths, site to ``[simulations, D]`` in 0..num_draws."""

    ranks: Mapping[str, Tensor]
    num_draws: int

    def histogram(self, site: str, bins: int = 20, prob: float = 0.99) -> RankHistogram:
        """Rank counts in ``bins`` equal bins with the binomial band of one bin."""
        from scipy.stats import binom

        ranks = self.ranks[site]
        cell = torch.div(ranks * bins, self.num_draws + 1, rounding_mode="floor").long()
        counts = torch.stack([(cell == b).sum(0) for b in range(bins)])
        low, high = binom.interval(prob, len(ranks), 1.0 / bins)
        return RankHistogram(torch.linspace(0.0, 1.0, bins + 1), counts, float(low), float(high))

    def ecdf_difference(self, site: str, prob: float = 0.95, num_grid: int = 50, seed: int = 0) -> ECDFDifference:
        """The difference plot: outside the band at any one point, a dimension is not calibrated (level 1 - prob).

        The pointwise binomial levels are tuned by simulation until the whole curve stays inside with ``prob``.

        References:
            Graphical Test for Discrete Uniformity (Sailynoja, Burkner & Vehtari, 2022), https://arxiv.org/abs/2103.10522
        """
        from scipy.stats import binom

        ranks, simulations = self.ranks[site], len(self.ranks[site])
        grid = torch.linspace(0.0, 1.0, num_grid + 1)[1:-1].double()
        # A rank r of L draws stands for the fraction (r + 1)/(L + 1); the grid is moved onto attained fractions.
        grid = (torch.floor(grid * (self.num_draws + 1)) / (self.num_draws + 1)).unique()
        grid = grid[grid > 0]
        level = _pointwise_level(grid, simulations, self.num_draws, prob, seed)
        low = torch.as_tensor(binom.ppf(level / 2, simulations, grid.numpy())) / simulations
        high = torch.as_tensor(binom.ppf(1 - level / 2, simulations, grid.numpy())) / simulations
        difference = _ecdf(ranks, grid, self.num_draws) - grid.unsqueeze(-1)
        return ECDFDifference(grid, difference, low - grid, high - grid)

    def miscalibrated(self, site: str, prob: float = 0.95) -> Tensor:
        """Which dimensions of a site leave the simultaneous band, ``[D]``; over dimensions the level is divided."""
        dimensions = self.ranks[site].shape[1]
        plot = self.ecdf_difference(site, 1.0 - (1.0 - prob) / dimensions)
        slack = 1e-9
        outside = (plot.difference < plot.low.unsqueeze(-1) - slack) | (
            plot.difference > plot.high.unsqueeze(-1) + slack
        )
        return outside.any(0)

    @property
    def sentences(self) -> tuple[str, ...]:
        """A verdict a site, in words."""
        return tuple(self._sentence(site) for site in self.ranks)

    def _sentence(self, site: str) -> str:
        wrong = self.miscalibrated(site)
        simulations = len(self.ranks[site])
        if not bool(wrong.any()):
            return f"latent {site!r} is calibrated on {simulations} simulations of the model (95 % bands)."
        ranks = self.ranks[site][:, wrong].double() / self.num_draws
        spread = ranks.var(0).mean() - 1.0 / 12.0
        # In their own standard errors: a narrow posterior is often a little off too, and is called what it is most.
        shift = float((ranks.mean(0) - 0.5).abs().max()) / math.sqrt(1.0 / 12.0 / simulations)
        width = float(spread.abs()) / math.sqrt(1.0 / 180.0 / simulations)
        kind = "shifted" if shift > width else "too wide" if spread < 0 else "too narrow"
        return (
            f"latent {site!r} is not calibrated in {int(wrong.sum())} of {len(wrong)} dimensions: its posteriors are "
            f"{kind} on the model's own simulations, so the inference is at fault, not the model."
        )


def guide_sampler(pair: Pair, data: Data, num_draws: int) -> dict[str, Tensor]:
    """Draws from the pair's guide."""
    return pair.sample_guide(data, num_draws)


@dataclass(frozen=True, kw_only=True)
class HMCSampler:
    """Draws by HMC: one chain a datapoint, thinned until draws are nearly independent."""

    warmup: int = 200
    thin: int = 5
    num_leapfrog: int = 10

    def __call__(self, pair: Pair, data: Data, num_draws: int) -> dict[str, Tensor]:
        """Run the chains from draws of the prior."""
        density = log_density(pair, data)
        start = flatten(pair, pair.sample_prior(data))
        chains = sample(
            density,
            start,
            num_samples=num_draws,
            num_leapfrog=self.num_leapfrog,
            warmup=self.warmup,
            thin=self.thin,
        )
        return unflatten(pair, chains.u[:, 0])[0]


def simulation_based_calibration(
    pair: Pair,
    *,
    sampler: Sampler = guide_sampler,
    num_simulations: int = 500,
    num_draws: int = 99,
    conditions: Any = None,
    seed: int = 0,
) -> Calibration:
    """Rank true latents among posterior draws, on simulations of the model.

    Args:
        pair: A checked pair.
        sampler: :func:`guide_sampler`, :class:`HMCSampler`, or any ``(pair, data, num_draws) -> {site: draws}``.
        num_simulations: Simulated datapoints.
        num_draws: Posterior draws a datapoint.
        conditions: Rows to take what is conditioned on (labels) and what is missing from; by default the first row
            that the pair was checked with.
        seed: Of the simulations and the draws.

    References:
        Validating Bayesian Inference Algorithms with Simulation-Based Calibration (Talts et al., 2018),
        https://arxiv.org/abs/1804.06788
    """
    device = pair.example[0].device
    with RandomState(seed, device), pair.evaluation():
        frame = pair.blank(num_simulations) if conditions is None else _first(conditions, num_simulations, device)
        truth, simulated = pair.simulate(frame)
        draws = sampler(pair, simulated, num_draws)
        ranks = {name: _ranks(truth[name][0], value) for name, value in draws.items()}
    return Calibration(ranks, num_draws)


def _first(conditions: Any, rows: int, device: torch.device) -> Data:
    dataset = as_dataset(conditions, device)
    return as_data(dataset[torch.arange(rows, device=device) % len(dataset)])


def _ranks(truth: Tensor, draws: Tensor) -> Tensor:
    """Ranks ``[simulations, D]``; ties, which discrete latents have, are broken at random."""
    below, equal = (draws < truth).sum(0), (draws == truth).sum(0)
    ranks = below + (torch.rand(equal.shape, device=equal.device) * (equal + 1)).floor().long()
    return ranks.reshape(len(truth), -1).cpu()


def _ecdf(ranks: Tensor, grid: Tensor, num_draws: int) -> Tensor:
    fraction = (ranks.double() + 1.0) / (num_draws + 1)
    return torch.stack([(fraction <= point + 1e-9).double().mean(0) for point in grid])


def _pointwise_level(grid: Tensor, simulations: int, num_draws: int, prob: float, seed: int) -> float:
    """The pointwise two-sided level whose band holds a whole uniform ECDF with probability ``prob``."""
    from scipy.stats import binom

    generator = torch.Generator().manual_seed(seed)
    uniform = torch.randint(num_draws + 1, (simulations, 2000), generator=generator)
    counts = (_ecdf(uniform, grid, num_draws) * simulations).round().numpy()
    where = grid.numpy()[:, None]
    below = torch.as_tensor(np.asarray(binom.cdf(counts, simulations, where)))
    above = torch.as_tensor(np.asarray(binom.sf(counts - 1, simulations, where)))
    tail = 2.0 * torch.minimum(below, above)
    return float(torch.quantile(tail.min(0).values, 1.0 - prob))
