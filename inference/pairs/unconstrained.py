r"""Latents as one unconstrained vector a datapoint, the space in which chains move.

Every latent site is mapped to the real line by its support's bijection, z = T(u), and the sites are laid side
by side: ``u`` is ``[num_samples, batch, D]``. Densities change by log |det dT/du|.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.distributions import Transform, biject_to, constraints

from .pair import Pair
from .sites import Data, LatentSite

__all__ = ["dimension", "flatten", "like", "log_density", "side_by_side", "unflatten"]


def dimension(pair: Pair) -> int:
    """The number D of unconstrained coordinates of a datapoint's latents."""
    return sum(_free_shape(site).numel() for site in pair.latents)


def like(pair: Pair) -> Tensor:
    """An empty tensor of the type, and on the device, in which a pair's densities are computed."""
    floating = (part for part in (*pair.model.parameters(), *pair.example) if part.is_floating_point())
    return torch.empty_like(next(floating, torch.empty(0, device=pair.example[0].device)), requires_grad=False)


def flatten(pair: Pair, z: dict[str, Tensor]) -> Tensor:
    """Map latents ``{site: [K, batch, *event]}`` to one unconstrained tensor ``[K, batch, D]``."""
    parts = [_bijection(site).inv(z[site.name]) for site in pair.latents]
    return torch.cat([part.reshape(*part.shape[:2], -1) for part in parts], dim=-1)


def side_by_side(z: dict[str, Tensor]) -> Tensor:
    """Latents ``{site: [K, batch, *event]}`` as they are, discrete ones too, in one tensor ``[K, batch, D]``."""
    return torch.cat([value.reshape(*value.shape[:2], -1).double() for value in z.values()], dim=-1)


def unflatten(pair: Pair, u: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    r"""Map unconstrained vectors back to latents.

    Args:
        pair: A checked pair.
        u: Vectors ``[K, batch, D]``.

    Returns:
        The latents by site, and log |det dT/du| ``[K, batch]``.
    """
    z: dict[str, Tensor] = {}
    log_det = u.new_zeros(u.shape[:2])
    start = 0
    for site in pair.latents:
        transform, shape = _bijection(site), _free_shape(site)
        stop = start + shape.numel()
        free = u[..., start:stop].reshape(*u.shape[:2], *shape)
        z[site.name] = transform(free)
        jacobian = transform.log_abs_det_jacobian(free, z[site.name])
        log_det = log_det + jacobian.reshape(*u.shape[:2], -1).sum(-1)
        start = stop
    return z, log_det


def log_density(pair: Pair, data: Data) -> Callable[[Tensor], Tensor]:
    """The posterior's unnormalised log-density in the unconstrained space, ``u -> [K, batch]``, in nats."""

    def density(u: Tensor) -> Tensor:
        z, log_det = unflatten(pair, u)
        return pair.log_joint(z, data) + log_det

    return density


def _bijection(site: LatentSite) -> Transform:
    support = site.support
    while isinstance(support, constraints.MixtureSameFamilyConstraint):  # a mixture lies where its components lie
        support = support.base_constraint
    try:
        return biject_to(support)
    except NotImplementedError as error:
        raise ValueError(
            f"latent site {site.name!r} (event shape {tuple(site.event_shape)}) lives on {support!r}, which no "
            "bijection maps to the real line, so no chain can move it; sum a discrete latent out of the model, or "
            "train a guide (SGVB A, reweighted wake-sleep)."
        ) from error


def _free_shape(site: LatentSite) -> torch.Size:
    return torch.Size(_bijection(site).inverse_shape(torch.Size(site.event_shape)))
