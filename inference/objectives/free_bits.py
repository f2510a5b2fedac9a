r"""Free bits: no latent dimension is paid for below a floor, so none is worth switching off.

    L = E_q[log p(x|z)] - sum_j max(lambda, 1/B sum_i KL(q(z_j|x_i) || p(z_j)))

The mean over the batch is inside the maximum: a dimension must carry lambda nats on average, not on every datapoint.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..pairs.data import Rows
from ..pairs.divergence import rates
from ..pairs.pair import Pair
from ..pairs.sites import Cloud
from .objective import Batch, Phase
from .particles import require_paths, require_samples

__all__ = ["FreeBits"]


@dataclass(frozen=True, kw_only=True)
class FreeBits:
    """Maximise the bound with the first nats of every latent dimension free, against posterior collapse.

    A site whose guide or prior does not factorise is one group, whose floor is that of its dimensions together. So are
    all sites of a guide that draws them out of the model's order: one by one their terms are no divergences, and may be
    negative.

    Args:
        floor: The floor lambda, nats a dimension; 0 is the plain bound.
        num_samples: Samples a datapoint.

    Raises:
        ValueError: ``floor`` is negative, or ``num_samples < 1``.

    References:
        Improving Variational Inference with Inverse Autoregressive Flow (Kingma et al., 2016), appendix,
        https://arxiv.org/abs/1606.04934
    """

    name = "free-bits"
    floor: float = 0.25
    num_samples: int = 1

    def __post_init__(self) -> None:
        require_samples(self.num_samples)
        if self.floor < 0.0:
            raise ValueError(f"floor={self.floor} must not be negative; 0 is the plain bound.")

    @property
    def trains(self) -> frozenset[str]:
        """Model and guide."""
        return frozenset({"model", "guide"})

    def start(self, pair: Pair, data: Rows) -> nn.Module:
        """No memory; a latent without a pathwise gradient is refused."""
        require_paths(pair, "FreeBits")
        return nn.Module()

    def __call__(self, pair: Pair, batch: Batch, memory: nn.Module) -> Iterator[Phase]:
        """Yield the one phase: both players on the bound with the floored rate; the true bound is reported."""
        cloud, by_site = rates(pair, batch.data, self.num_samples)
        groups, widths = _groups(pair, cloud, by_site)
        floor = self.floor * widths
        fit, rate = cloud.log_lik.mean(), groups.sum()
        # A sampled divergence may fall below zero, where no floor is meant to hold it.
        paid = torch.maximum(groups, floor).sum() if self.floor > 0.0 else rate
        loss = -(fit - paid)
        share = (groups.detach() < floor).to(rate.dtype).mean()
        report = {"bound": (fit - rate).detach(), "rate": rate.detach(), "share_below_floor": share}
        yield Phase({"model": loss, "guide": loss}, report)


def _groups(pair: Pair, cloud: Cloud, by_site: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """The mean rate of every group, and how many latent dimensions it has, ``[G]`` each."""
    rates = torch.cat([kl.mean(0) for kl in by_site.values()])
    sizes = [cloud.z[name][0, 0].numel() / kl.shape[1] for name, kl in by_site.items()]
    widths = torch.cat([torch.full_like(kl[0], n) for n, kl in zip(sizes, by_site.values(), strict=True)]).detach()
    if all(site.has_closed_form for site in pair.latents):
        return rates, widths
    return rates.sum().unsqueeze(0), widths.sum().unsqueeze(0)
