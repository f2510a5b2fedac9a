r"""Which latent dimensions a fitted pair uses, and whether it has collapsed.

activity_j = Var_x( E_q[z_j|x] )            a dimension is active above 0.01
rate_j     = mean_i KL(q(z_j|x_i) || p(z_j))
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from ..pairs.data import as_rows, chunks
from ..pairs.divergence import site_rate
from ..pairs.finished import Finished, checked
from ..random_state import RandomState

__all__ = ["ACTIVE", "LatentUse", "Usage", "latent_usage"]

ACTIVE = 0.01
_RATE = 0.1  # nats of a latent that is used, though its posterior means stay where they are
_ROWS = 500


@dataclass(frozen=True)
class LatentUse:
    """The use that a pair makes of one latent site.

    ``rate`` is what each dimension ``[D]`` adds to the rate, in nats (one entry where guide or prior does not
    factorise): its KL, or E_q[log q - log p], which may be negative, where the guide draws a site before its parents;
    ``activity`` is the variance over data of each dimension's posterior mean ``[E]``.
    """

    rate: Tensor
    activity: Tensor

    @property
    def active(self) -> Tensor:
        """Mask of the dimensions that move with the data, ``[E]``."""
        return self.activity > ACTIVE

    @property
    def share(self) -> Tensor:
        """Each dimension's share of the site's rate, ``[D]``."""
        return self.rate / self.rate.sum().clamp(min=torch.finfo(self.rate.dtype).tiny)


@dataclass(frozen=True)
class Usage:
    """The bound taken apart, bound = -distortion - rate, and the use of every latent site; nats per datapoint."""

    sites: Mapping[str, LatentUse]
    rate: float
    distortion: float

    @property
    def bound(self) -> float:
        """The evidence lower bound."""
        return -self.distortion - self.rate

    @property
    def rate_share(self) -> float:
        """The rate's share of the negative bound; not a number where a density makes the distortion negative."""
        return self.rate / (self.rate + self.distortion) if self.distortion > 0 else float("nan")

    @property
    def num_active(self) -> int:
        """The number of active latent dimensions."""
        return sum(int(use.active.sum()) for use in self.sites.values())

    @property
    def unused(self) -> tuple[str, ...]:
        """The latents of which fewer than half the dimensions are active.

        One whose posteriors differ in more than their means (two modes at +-x) has a rate though none is active.
        """
        active = {name: int(use.active.sum()) for name, use in self.sites.items()}
        return tuple(
            name
            for name, use in self.sites.items()
            if active[name] < use.activity.numel() / 2 and (active[name] or float(use.rate.sum()) < _RATE)
        )

    @property
    def warnings(self) -> tuple[str, ...]:
        """Sentences on what a reader should worry about; empty where there is nothing."""
        found = []
        for name in self.unused:
            use = self.sites[name]
            total, active = use.activity.numel(), int(use.active.sum())
            if active == 0:
                found.append(
                    f"latent {name!r} has collapsed: none of its {total} dimensions moves with the data and the rate "
                    f"is {float(use.rate.sum()):.2g} nats. Raise the rate slowly (KLAnnealing), keep some of it free "
                    "(FreeBits), weaken the decoder, or lower the likelihood's fixed noise."
                )
            else:
                found.append(
                    f"latent {name!r} uses {active} of its {total} dimensions; fewer would do as well, or train with "
                    "KLAnnealing or FreeBits to wake the others."
                )
        return tuple(found)


def latent_usage(pair: Finished, data: Any, *, num_samples: int = 50, seed: int = 0) -> Usage:
    """Measure the use of every latent dimension on a data set.

    Args:
        pair: A run, or a checked pair whose guide has a density.
        data: Datapoints; a few hundred are enough.
        num_samples: Draws a datapoint, where no mean or divergence has a closed form.
        seed: Of the draws.

    Returns:
        Rates, activities, the bound's two terms and warnings.

    References:
        Importance Weighted Autoencoders (Burda, Grosse & Salakhutdinov, 2015), sec. 5.2 (active units),
        https://arxiv.org/abs/1509.00519
    """
    pair = checked(pair)
    device = pair.example[0].device
    rows = as_rows(data, device)
    rates: dict[str, list[Tensor]] = {site.name: [] for site in pair.latents}
    means: dict[str, list[Tensor]] = {site.name: [] for site in pair.latents}
    noise: dict[str, list[Tensor]] = {site.name: [] for site in pair.latents}
    distortion = []
    with RandomState(seed, device), pair.evaluation():
        for part in chunks(rows, _ROWS):
            cloud, pairs = pair.divergences(part, num_samples)
            distortion.append(-cloud.log_lik.mean(0))
            for name, site in pairs.items():
                rates[name].append(site_rate(site, cloud.z[name], cloud.log_q.shape).mean(0))
                mean = _means(site.guide, cloud.z[name])
                means[name].append(mean.mean(0))
                noise[name].append(mean.var(0) / num_samples if num_samples > 1 else torch.zeros_like(mean[0]))
    sites = {
        name: LatentUse(
            torch.cat(rates[name]).mean(0), _variance(torch.cat(means[name])) - torch.cat(noise[name]).mean(0)
        )
        for name in rates
    }
    total = sum(float(use.rate.sum()) for use in sites.values())
    return Usage(sites, total, float(torch.cat(distortion).mean()))


def _variance(values: Tensor) -> Tensor:
    """Over datapoints: of a single one it is not a number."""
    return values.var(0) if len(values) > 1 else torch.full_like(values[0], torch.nan)


def _means(q: Distribution, z: Tensor) -> Tensor:
    """The guide's mean at every draw where it is known, else the draws themselves: ``[K, batch, E]``."""
    try:
        known = q.mean
        if known.numel() != z.numel() or not bool(torch.isfinite(known).all()):
            known = z
    except (NotImplementedError, AttributeError):
        known = z
    return known.reshape(*z.shape[:2], -1).to(torch.get_default_dtype())
