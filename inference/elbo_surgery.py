r"""ELBO surgery: the rate in two, what the code says of the datapoint and how far the codes miss the prior.

    1/N sum_n KL(q(z|x_n) || p(z))  =  KL(qbar(z) || p(z))  +  I(n; z),     qbar(z) = 1/N sum_n q(z|x_n)

0 <= I(n; z) <= log N. The sum over all N datapoints is made in full, so neither part has the bias of a minibatch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from .data import as_dataset
from .pair import Data, Pair, as_data
from .random_state import RandomState

__all__ = ["Surgery", "elbo_surgery"]

_DENSITIES = 200_000  # densities q(z|x_m) evaluated at once


@dataclass(frozen=True)
class Surgery:
    """The two parts of the rate, nats per datapoint, with the standard errors of their Monte Carlo draws."""

    rate: float
    marginal_kl: float
    marginal_kl_error: float
    index_information: float
    index_information_error: float
    log_num_points: float

    @property
    def sentence(self) -> str:
        """What the two numbers mean, in words."""
        near = self.index_information > 0.95 * self.log_num_points
        return (
            f"Of a rate of {self.rate:.2f} nats, {self.index_information:.2f} tell datapoints apart"
            + (
                f" (log N = {self.log_num_points:.2f} is the most there can be: the codes do not overlap)"
                if near
                else ""
            )
            + f" and {self.marginal_kl:.2f} are lost because the codes together are not the prior"
            + (": a richer prior can win that back." if self.marginal_kl > 1.0 else ".")
        )


def elbo_surgery(pair: Pair, data: Any, *, num_draws: int = 1000, seed: int = 0) -> Surgery:
    """Split the rate of a pair over a data set.

    Args:
        pair: A checked pair whose guide has a density.
        data: The N datapoints; the cost is ``num_draws * N`` guide densities.
        num_draws: Draws of (n, z), spread evenly over the datapoints.
        seed: Of the draws.

    References:
        ELBO surgery (Hoffman & Johnson, 2016), sec. 2
    """
    device = pair.example[0].device
    dataset = as_dataset(data, device)
    points = len(dataset)
    with RandomState(seed, device), pair.evaluation():
        rows = as_data(dataset[torch.arange(points, device=device)])
        repeats, rest = divmod(num_draws, points)
        which = torch.cat([torch.arange(points)] * repeats + [torch.randperm(points)[:rest]]).to(device)
        chosen: Data = tuple(part[which] for part in rows)
        cloud = pair.cloud(chosen, 1)
        aggregate = []
        for index in torch.arange(len(which), device=device).split(max(1, _DENSITIES // points)):
            z = {
                name: value[0, index].unsqueeze(1).expand(-1, points, *value.shape[2:])
                for name, value in cloud.z.items()
            }
            aggregate.append(pair.log_guide(z, rows).logsumexp(1) - math.log(points))
        log_q, log_bar, log_p = cloud.log_q[0].double(), torch.cat(aggregate).double(), cloud.log_prior[0].double()
    information, marginal = log_q - log_bar, log_bar - log_p
    root = math.sqrt(len(which))
    return Surgery(
        rate=float((log_q - log_p).mean()),
        marginal_kl=float(marginal.mean()),
        marginal_kl_error=float(marginal.std()) / root,
        index_information=float(information.mean()),
        index_information_error=float(information.std()) / root,
        log_num_points=math.log(points),
    )
