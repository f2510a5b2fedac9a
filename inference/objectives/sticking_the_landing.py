r"""Sticking the landing: the ELBO's gradient without the score term whose mean is zero.

    d/dphi L = E[ d/dz (log p(x, z) - log q(z|x)) dz/dphi ]  -  E[ d/dphi log q(z|x) at fixed z ] (= 0, left out)

Its variance vanishes as the guide approaches the posterior. The score is taken at leaves cut off from the guide and
pushed back through the draw, so no copy of the guide's distribution is needed and any reparameterised family serves.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from ..pairs.data import Rows
from ..pairs.pair import Pair
from .objective import Batch, Phase
from .particles import path_cloud, path_loss, require_one_density, require_paths, require_samples, valued

__all__ = ["StickingTheLanding"]


@dataclass(frozen=True, kw_only=True)
class StickingTheLanding:
    """Maximise the ELBO by path derivatives alone (STL), a gradient that is still when the guide is exact.

    Args:
        num_samples: The number L of samples per datapoint.

    Raises:
        ValueError: ``num_samples < 1``, or a latent has no pathwise gradient.

    References:
        Sticking the Landing (Roeder, Wu & Duvenaud, 2017), sec. 3, https://arxiv.org/abs/1703.09194
    """

    name = "sticking-the-landing"
    num_samples: int = 1

    def __post_init__(self) -> None:
        require_samples(self.num_samples)

    @property
    def trains(self) -> frozenset[str]:
        """Model and guide."""
        return frozenset({"model", "guide"})

    def start(self, pair: Pair, data: Rows) -> nn.Module:
        """No memory; a latent without a pathwise gradient is refused."""
        require_paths(pair, "StickingTheLanding")
        require_one_density(pair, "StickingTheLanding")
        return nn.Module()

    def __call__(self, pair: Pair, batch: Batch, memory: nn.Module) -> Iterator[Phase]:
        """Yield the one phase: the model on the bound, the guide on its path derivative."""
        z, cloud = path_cloud(pair, batch, self.num_samples)
        bound = cloud.log_weight.mean()
        guide = path_loss(z, cloud, torch.full_like(cloud.log_q, 1.0 / self.num_samples))
        losses = {"model": valued(-cloud.log_joint.mean(), -bound), "guide": valued(guide, -bound)}
        yield Phase(losses, {"bound": bound.detach()})
