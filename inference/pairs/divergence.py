r"""The rate KL(q(z|x) || p(z)) of every datapoint, split by latent dimension where the distributions allow.

factorised against factorised:  KL_ij = KL(q(z_j|x_i) || p(z_j))      in closed form where one is known and holds
                                                                      (:mod:`~aevb.inference.pairs.draw_order`),
otherwise                       the whole site in one column, in closed form or as the mean of log q - log p.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, kl_divergence

from .pair import Pair
from .sites import Cloud, Data, Divergence

__all__ = ["rates", "site_rate"]


def rates(pair: Pair, data: Tensor | Data, num_samples: int = 1) -> tuple[Cloud, dict[str, Tensor]]:
    """The cloud of a batch and the rate of each latent site.

    Args:
        pair: A checked pair whose guide has a density.
        data: The batch.
        num_samples: Draws K a datapoint, over which what has no closed form is averaged.

    Returns:
        The cloud, and site to KL ``[batch, D]`` in nats, with D = 1 where the site does not factorise.
    """
    cloud, pairs = pair.divergences(data, num_samples)
    shape = cloud.log_q.shape
    return cloud, {name: site_rate(site, cloud.z[name], shape).mean(0) for name, site in pairs.items()}


def site_rate(site: Divergence, z: Tensor, shape: torch.Size) -> Tensor:
    """Return a site's share of the rate at every draw, ``[K, batch, D]``; draws ``z`` are ``[K, batch, *event]``."""
    q, p, closed = site
    event = z.dim() - 2
    split = _factors(q, event), _factors(p, event)
    for left, right, axes in ((*split, event), (q, p, 0)):
        if left is None or right is None:
            continue
        try:
            value = _divergence(left, right, z, closed)
        except NotImplementedError:
            continue
        return _lay_out(value, shape, axes)
    raise NotImplementedError(f"neither a divergence nor a density is known between {q} and {p}.")


def _divergence(q: Distribution, p: Distribution, z: Tensor, closed: bool) -> Tensor:
    if closed:
        try:
            return kl_divergence(q, p)
        except NotImplementedError:
            pass
    return q.log_prob(_like(z, q)) - p.log_prob(_like(z, p))


def _factors(fn: Any, event: int) -> Any:
    """The distribution over single numbers whose product this one is, or None."""
    while type(fn).__name__ in ("Independent", "ExpandedDistribution"):
        fn = fn.base_dist if type(fn).__name__ == "Independent" else fn.base_dist.expand(fn.batch_shape)
    return fn if len(fn.event_shape) == 0 and event > 0 else None


def _like(z: Tensor, fn: Distribution) -> Tensor:
    """The draws with room for the inner plates of the distribution."""
    missing = len(fn.batch_shape) + len(fn.event_shape) - z.dim()
    return z.reshape(z.shape[0], *(1,) * missing, *z.shape[1:]) if missing > 0 else z


def _lay_out(value: Tensor, shape: torch.Size, axes: int) -> Tensor:
    event = value.shape[value.dim() - axes :]
    flat = value.reshape(*value.shape[: value.dim() - axes], event.numel())
    while flat.dim() > 3 and flat.shape[1] == 1:
        flat = flat.squeeze(1)
    return flat.expand(*shape, event.numel())
