"""The sites of a pair's programs: what was learned of them, what they are worth, and the draws of all of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

__all__ = [
    "Cloud",
    "ContractError",
    "Data",
    "Divergence",
    "LatentSite",
    "Learned",
    "Sites",
    "as_data",
    "kept_entries",
    "layers",
    "masked",
    "site_has_density",
    "site_log_prob",
]

Data = tuple[Tensor, ...]
Sites = dict[str, Any]


class ContractError(ValueError):
    """A model/guide pair breaks the contract; the message names the site, its shape and the mend."""


class Cloud(NamedTuple):
    """Latents drawn from the guide with their log-densities, one number per sample and datapoint.

    ``z`` maps a site to its draws ``[num_samples, batch, *event]``; the three log-densities are
    ``[num_samples, batch]``, in nats.
    """

    z: dict[str, Tensor]
    log_prior: Tensor
    log_lik: Tensor
    log_q: Tensor

    @property
    def log_joint(self) -> Tensor:
        """The log-joint density log p(x, z)."""
        return self.log_prior + self.log_lik

    @property
    def log_weight(self) -> Tensor:
        """The log importance weight log p(x, z) - log q(z|x)."""
        return self.log_joint - self.log_q


@dataclass(frozen=True)
class LatentSite:
    """One latent, as the check of a pair found it.

    Without ``has_density`` the guide can only be drawn from; without ``has_closed_form`` the latent's share of the rate
    is log q - log p at its draws, whatever divergence is known between the two distributions.
    """

    name: str
    support: constraints.Constraint
    event_shape: torch.Size
    has_rsample: bool
    has_density: bool = True
    has_closed_form: bool = True


class Divergence(NamedTuple):
    """One latent's distributions at a cloud's draws, and whether KL(guide || model) is its share of the rate there."""

    guide: Distribution
    model: Distribution
    has_closed_form: bool


@dataclass(frozen=True)
class Learned:
    """Everything that the contract learned of a pair from a few rows of its data.

    ``auxiliary`` names what the guide alone draws, and ``reads_data`` the latents whose prior looks at an observed
    argument, r(a|z, x); ``observed`` maps an observed site to the position of its data among the arguments, ``None``
    where it cannot be told; ``example`` is two rows.
    """

    max_plate_nesting: int = 1
    latents: tuple[LatentSite, ...] = ()
    auxiliary: tuple[str, ...] = ()
    reads_data: tuple[str, ...] = ()
    observed: dict[str, int | None] = field(default_factory=dict)
    example: Data = ()


def as_data(data: Tensor | Data) -> Data:
    """A lone tensor as the tuple of arguments that programs take."""
    return (data,) if isinstance(data, Tensor) else tuple(data)


def site_log_prob(site: Any, max_plate_nesting: int) -> Tensor:
    """A site's log-density, its inner plates summed: ``[num_samples, batch]`` or broadcastable.

    A mask says which entries exist, and is kept. A scaled log-density is no density: what is made of it is no bound of
    any model, so a scale is refused.
    """
    if isinstance(site["scale"], Tensor) or site["scale"] != 1.0:
        raise ContractError(
            f"site {site['name']!r} carries a scale (poutine.scale, or a plate that subsamples), and a scaled "
            "log-density is no density. Leave the scale out: losses are means per datapoint already, the trainer "
            "weighs minibatches, and KLAnnealing(beta=...) weighs the rate."
        )
    log_prob = site["fn"].log_prob(site["value"])
    mask = site["mask"]
    if isinstance(mask, Tensor):
        log_prob = torch.where(mask, log_prob, log_prob.new_zeros(()))
    elif mask is False:
        log_prob = torch.zeros_like(log_prob)
    while max_plate_nesting > 1 and log_prob.dim() > 2:
        log_prob = log_prob.sum(-2)
    return log_prob


def site_has_density(site: Any) -> bool:
    """Tell whether a site's distribution can be evaluated, and not only drawn from."""
    fn = site["fn"]
    while hasattr(fn, "base_dist"):
        fn = fn.base_dist
    return bool(getattr(fn, "has_density", True))


def layers(fn: Any) -> list[Any]:
    """A distribution and the ones it wraps, the outermost first."""
    found = [fn]
    while hasattr(found[-1], "base_dist"):
        found.append(found[-1].base_dist)
    return found


def masked(site: Any) -> Distribution:
    """A site's distribution with the mask that handlers put on it."""
    return site["fn"] if site["mask"] is None else site["fn"].mask(site["mask"])


def kept_entries(site: Any) -> Tensor | None:
    """Find the entries of a site's value that its masks let into the likelihood, in its shape; ``None``: all."""
    fn: Any = masked(site)
    shape, kept = site["value"].shape, None
    while True:
        mask = getattr(fn, "_mask", None)
        if mask is not None:
            mask = torch.as_tensor(mask, device=site["value"].device)
            mask = mask.reshape(*mask.shape, *(1,) * fn.event_dim).expand(shape)
            kept = mask if kept is None else kept & mask
        if not hasattr(fn, "base_dist"):
            return kept
        fn = fn.base_dist
