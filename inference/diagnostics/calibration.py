r"""Simulation-based calibration: on the model's own simulations the truth's rank among posterior draws is uniform.

    (z*, x*) ~ p(z) p(x|z),    z_1..z_L ~ q(z|x*),    rank = #{l : z_l < z*}  ~  Uniform{0, ..., L}

The model is right by construction, so what fails here is the inference: the guide, or the chain. Ranks of z alone pass
an inference that ignores its data, q(z|x) = p(z); so z and x are ranked together as well,

    f(z, x):   log p(x, z),   log q(z|x),   log p(x, z) - log q(z|x),   |z - r(x)| with a reference point r(x),

each of which is uniform for the posterior, whatever f is. The third is the likelihood ratio of posterior and guide:
where they differ the truth ranks higher in it at every x, so that nothing cancels from one datapoint to another. The
ECDF of the fourth's ranks is the expected coverage of balls around r(x) (TARP).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..pairs.data import as_rows
from ..pairs.finished import Finished, checked
from ..pairs.pair import Pair
from ..pairs.sites import Data, as_data
from ..pairs.unconstrained import flatten, log_density, side_by_side, unflatten
from ..posterior.hmc import sample
from ..random_state import RandomState
from . import uniformity

__all__ = [
    "Calibration",
    "ECDFDifference",
    "HMCSampler",
    "RankHistogram",
    "guide_sampler",
    "simulation_based_calibration",
]

Sampler = Callable[[Pair, Data, int], dict[str, Tensor]]

_ROWS = 2000  # draws of all datapoints that are scored at once
_FAR = 3.0  # standard errors by which ranks are called too high, or posteriors too wide
_REFERENCES = 100  # draws of the prior, of which the data choose a reference point
_NAMES = {
    "log_joint": "log p(x, z)",
    "log_guide": "log q(z|x)",
    "log_weight": "log p(x, z) - log q(z|x)",
    "coverage": "distance to a reference point (TARP)",
}


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
    """The ranks of the truths in 0..num_draws.

    Args:
        ranks: Site to ``[simulations, D]``.
        num_draws: Draws L among which the truth is ranked.
        joint: The same of what sees latents and data together: ``log_joint``, ``log_guide``, ``log_weight`` and
            ``coverage`` to ``[simulations, 1]``.
    """

    ranks: Mapping[str, Tensor]
    num_draws: int
    joint: Mapping[str, Tensor] = field(default_factory=dict)

    def of(self, name: str) -> Tensor:
        """The ranks of a site, or of a quantity that joins latents and data, ``[simulations, D]``."""
        return self.ranks[name] if name in self.ranks else self.joint[name]

    def p_values(self, name: str) -> Tensor:
        """The p-value of each dimension's being calibrated, ``[D]``: uniform where it is (:mod:`uniformity`)."""
        return self._p_values[name]

    @cached_property
    def _p_values(self) -> dict[str, Tensor]:
        every = {**self.ranks, **self.joint}
        found = uniformity.p_values(torch.cat(list(every.values()), dim=1), self.num_draws)
        return dict(zip(every, found.split([ranks.shape[1] for ranks in every.values()]), strict=True))

    def together(self, prob: float) -> float:
        """The probability each curve has to keep for all of them to stay inside with ``prob``."""
        return 1.0 - (1.0 - prob) / sum(len(p) for p in self._p_values.values())

    @property
    def fails(self) -> bool:
        """True where any site or quantity is not calibrated (level 0.05, of all together)."""
        return any(bool(self.miscalibrated(name).any()) for name in self._p_values)

    def histogram(self, site: str, bins: int = 20, prob: float = 0.99) -> RankHistogram:
        """Rank counts in ``bins`` equal bins with the binomial band of one bin."""
        from scipy.stats import binom

        ranks = self.of(site)
        cell = torch.div(ranks * bins, self.num_draws + 1, rounding_mode="floor").long()
        counts = torch.stack([(cell == b).sum(0) for b in range(bins)])
        low, high = binom.interval(prob, len(ranks), 1.0 / bins)
        return RankHistogram(torch.linspace(0.0, 1.0, bins + 1), counts, float(low), float(high))

    def ecdf_difference(self, site: str, prob: float = 0.95, num_grid: int = 50) -> ECDFDifference:
        """The difference plot: outside the band at any one point, a dimension is not calibrated (level 1 - prob).

        References:
            Graphical Test for Discrete Uniformity (Sailynoja, Burkner & Vehtari, 2022), https://arxiv.org/abs/2103.10522
        """
        ranks = self.of(site)
        points = uniformity.grid(self.num_draws, num_grid)
        low, high = uniformity.band(len(ranks), self.num_draws, num_grid, prob)
        difference = uniformity.counts(ranks, self.num_draws, points) / len(ranks) - points.unsqueeze(-1)
        return ECDFDifference(points, difference, low / len(ranks) - points, high / len(ranks) - points)

    def miscalibrated(self, name: str, prob: float = 0.95) -> Tensor:
        """Mask of the dimensions that leave the simultaneous band, ``[D]``; the level is divided over all curves."""
        return self.p_values(name) <= 1.0 - self.together(prob)

    @property
    def sentences(self) -> tuple[str, ...]:
        """A verdict a site, and one on what joins latents and data, in words."""
        joint = (self._joint_sentence(),) if self.joint else ()
        return (*(self._sentence(site) for site in self.ranks), *joint)

    def _sentence(self, site: str) -> str:
        wrong = self.miscalibrated(site)
        simulations = len(self.ranks[site])
        if not bool(wrong.any()):
            return (
                f"latent {site!r} is calibrated, each dimension by itself, as far as {simulations} simulations of the "
                "model can tell (95 % bands)."
            )
        return (
            f"latent {site!r} is not calibrated in {int(wrong.sum())} of {len(wrong)} dimensions: its posteriors are "
            f"{_kind(self.ranks[site][:, wrong].double() / self.num_draws)} on the model's own simulations, so the "
            "inference is at fault, not the model."
        )

    def _joint_sentence(self) -> str:
        wrong = [name for name in self.joint if bool(self.miscalibrated(name).any())]
        if not wrong:
            told = ", ".join(f"{_NAMES[name]} ({self._p(name)})" for name in self.joint)
            return f"Nor do ranks of what joins latents and data depart from uniform: {told}."
        told = ", ".join(f"{self._side(name)} in {_NAMES[name]} ({self._p(name)})" for name in wrong)
        return (
            f"Against its data the inference is not calibrated: among its draws the truth ranks {told}. So it does not "
            "follow each datapoint as the model's posterior does."
        )

    def _side(self, name: str) -> str:
        """On which side the truth's ranks lie, where they lie on one."""
        mean = float(self.joint[name].double().mean()) / self.num_draws - 0.5
        if abs(mean) < _FAR * math.sqrt(1.0 / 12.0 / len(self.joint[name])):
            return "unevenly"
        return "too high" if mean > 0 else "too low"

    def _p(self, name: str) -> str:
        p = float(self.p_values(name))
        return "p < 1e-6" if p < 1e-6 else f"p = {p:.2g}"


def _kind(ranks: Tensor) -> str:
    """What is wrong with posteriors whose truths have these ranks, ``[simulations, D]`` as fractions."""
    spread = ranks.var(0).mean() - 1.0 / 12.0
    # In their own standard errors: a narrow posterior is often a little off too, and is called what it is most.
    shift = float((ranks.mean(0) - 0.5).abs().max()) / math.sqrt(1.0 / 12.0 / len(ranks))
    width = float(spread.abs()) / math.sqrt(1.0 / 180.0 / len(ranks))
    if max(shift, width) < _FAR:
        return "of another shape"
    return "shifted" if shift > width else "too wide" if spread < 0 else "too narrow"


def guide_sampler(pair: Pair, data: Data, num_draws: int) -> dict[str, Tensor]:
    """Draws from the pair's guide."""
    return pair.sample_guide(data, num_draws)


@dataclass(frozen=True, kw_only=True)
class HMCSampler:
    """Draws by HMC: one chain per datapoint, thinned until draws are nearly independent."""

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
    pair: Finished,
    *,
    sampler: Sampler = guide_sampler,
    num_simulations: int = 500,
    num_draws: int = 99,
    conditions: Any = None,
    seed: int = 0,
) -> Calibration:
    """Rank true latents, and what joins them with their data, among posterior draws on simulations of the model.

    Args:
        pair: A run, or a checked pair.
        sampler: :func:`guide_sampler`, :class:`HMCSampler`, or any ``(pair, data, num_draws) -> {site: draws}``.
        num_simulations: Simulated datapoints.
        num_draws: Posterior draws per datapoint.
        conditions: Rows to take what is conditioned on (labels) and what is missing from; by default the first row
            that the pair was checked with.
        seed: Of the simulations and the draws.

    References:
        Validating Bayesian Inference Algorithms with Simulation-Based Calibration (Talts et al., 2018),
        https://arxiv.org/abs/1804.06788; Simulation-Based Calibration Checking for Bayesian Computation: The Choice of
        Test Quantities Shapes Sensitivity (Modrak et al., 2023), https://arxiv.org/abs/2211.02383; Sampling-Based
        Accuracy Testing of Posterior Estimators for General Inference (Lemos et al., 2023),
        https://arxiv.org/abs/2302.03026
    """
    pair = checked(pair)
    device = pair.example[0].device
    with RandomState(seed, device), pair.evaluation():
        frame = pair.blank(num_simulations) if conditions is None else _first(conditions, num_simulations, device)
        truth, simulated = pair.simulate(frame)
        draws = sampler(pair, simulated, num_draws)
        ranks = {name: _ranks(truth[name][0], value) for name, value in draws.items()}
        joint = _joint_ranks(pair, {name: torch.cat([truth[name], value]) for name, value in draws.items()}, simulated)
    return Calibration(ranks, num_draws, joint)


def _joint_ranks(pair: Pair, z: dict[str, Tensor], data: Data) -> dict[str, Tensor]:
    """Ranks ``[simulations, 1]`` of the first latents ``[L + 1, simulations, *event]`` among the others.

    The truth is scored at a random place: a density's last digit may be a matter of where in a tensor it is computed,
    and of an exact guide log p(x, z) - log q(z|x) has no other digits than those to differ in.
    """
    shape = next(iter(z.values())).shape[:2]
    order = torch.rand(shape, device=data[0].device).argsort(0)  # at [k, n] stands what was order[k, n]
    columns = torch.arange(shape[1], device=order.device)
    found = _joint_quantities(pair, {name: value[order, columns] for name, value in z.items()}, data)
    back = order.argsort(0)
    sorted_back = {name: value.gather(0, back) for name, value in found.items()}
    return {name: _ranks(value[0], value[1:]) for name, value in sorted_back.items()}


def _joint_quantities(pair: Pair, z: dict[str, Tensor], data: Data) -> dict[str, Tensor]:
    """What joins latents ``[L + 1, simulations, *event]`` with their data: name to ``[L + 1, simulations]``."""
    num_draws = next(iter(z.values())).shape[0]
    parts = []
    for rows in torch.arange(len(data[0]), device=data[0].device).split(max(1, _ROWS // num_draws)):
        own, part = {name: value[:, rows] for name, value in z.items()}, tuple(x[rows] for x in data)
        found = {"log_joint": pair.log_joint(own, part)}
        if pair.guide is not None and pair.has_density:
            found["log_guide"] = pair.log_guide(own, part)
            found["log_weight"] = found["log_joint"] - found["log_guide"]
        parts.append({**found, "coverage": _distance(pair, own, part)})
    return {name: torch.cat([part[name] for part in parts], dim=1) for name in parts[0]}


def _distance(pair: Pair, z: dict[str, Tensor], part: Data) -> Tensor:
    """The distance of latents ``[K, batch, *event]`` from their datapoint's reference point: ``[K, batch]``.

    That is a draw of the prior picked by the likelihood, and unit of length the prior's spread: a matter of the data
    alone, without which the test would be blind to an inference that ignores them.
    """
    prior = pair.sample_prior(part, _REFERENCES)
    log_lik = pair.log_densities(prior, part)[1]
    picked = (log_lik - torch.empty_like(log_lik).exponential_().log()).argmax(0)  # one, with odds p(x|z)
    places = side_by_side(prior)
    reference = places[picked, torch.arange(len(picked), device=picked.device)]
    return ((side_by_side(z) - reference) / places.std(0).clamp(min=1e-12)).square().sum(-1)


def _first(conditions: Any, rows: int, device: torch.device) -> Data:
    dataset = as_rows(conditions, device)
    return as_data(dataset[torch.arange(rows, device=device) % len(dataset)])


def _ranks(truth: Tensor, draws: Tensor) -> Tensor:
    """Ranks ``[simulations, D]``; ties, which discrete latents have, are broken at random."""
    below, equal = (draws < truth).sum(0), (draws == truth).sum(0)
    ranks = below + (torch.rand(equal.shape, device=equal.device) * (equal + 1)).floor().long()
    return ranks.reshape(len(truth), -1).cpu()
