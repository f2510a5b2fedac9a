r"""ELBO surgery: the rate in two, what the code says of the datapoint and how far the codes miss the prior.

    1/N sum_n KL(q(z|x_n) || p(z))  =  KL(qbar(z) || p(z))  +  I(n; z),     qbar(z) = 1/N sum_n q(z|x_n)

0 <= I(n; z) <= log N. The sum over all N datapoints is made in full, so neither part has the bias of a minibatch.

The average over (n, z) is a two-stage sample: n' of the N datapoints without replacement, then m draws of each. With
s_1 the standard deviation among datapoints' own averages and s_2 that among draws of one datapoint, its variance is

    (1 - n'/N) s_1^2 / n'  +  n'/N s_2^2 / (n' m),

so where every datapoint is drawn (n' = N), how far datapoints differ is no error.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..pairs.data import as_rows
from ..pairs.finished import Finished, checked
from ..pairs.sites import Data, as_data
from ..random_state import RandomState

__all__ = ["Surgery", "elbo_surgery"]

_DENSITIES = 200_000  # densities q(z|x_m) evaluated at once


@dataclass(frozen=True, repr=False)
class Surgery:
    """The two parts of the rate, nats per datapoint, with the standard errors of their Monte Carlo draws.

    The errors are not numbers where two draws of every datapoint cannot be compared (``num_draws=1``).
    """

    rate: float
    marginal_kl: float
    marginal_kl_error: float
    index_information: float
    index_information_error: float
    log_num_points: float

    def __repr__(self) -> str:
        return f"Surgery: {self.sentence}"

    @property
    def sentence(self) -> str:
        """The meaning of the two numbers, in words."""
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


def elbo_surgery(pair: Finished, data: Any, *, num_draws: int = 1000, seed: int = 0) -> Surgery:
    """Split the rate of a pair over a data set.

    Args:
        pair: A run, or a checked pair whose guide has a density.
        data: The N datapoints; the cost is ``num_draws * N`` guide densities.
        num_draws: Draws of (n, z): the same number of every datapoint, at least two, or two of as many as that allows.
        seed: Of the draws.

    References:
        ELBO surgery (Hoffman & Johnson, 2016), sec. 2; Sampling Techniques (Cochran, 1977), eq. (10.15)
    """
    pair = checked(pair)
    device = pair.example[0].device
    dataset = as_rows(data, device)
    points = len(dataset)
    with RandomState(seed, device), pair.evaluation():
        rows = as_data(dataset[torch.arange(points, device=device)])
        each = max(2, num_draws // points) if num_draws > 1 else 1
        which = torch.randperm(points)[: max(1, num_draws // each)].to(device).repeat(each)
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
    return Surgery(
        rate=float((log_q - log_p).mean()),
        marginal_kl=float(marginal.mean()),
        marginal_kl_error=_two_stage_error(marginal.unflatten(0, (each, -1)), points),
        index_information=float(information.mean()),
        index_information_error=_two_stage_error(information.unflatten(0, (each, -1)), points),
        log_num_points=math.log(points),
    )


def _two_stage_error(values: Tensor, points: int) -> float:
    """The standard error of the mean of ``values`` ``[m, n']``, m draws of each of n' out of ``points`` datapoints."""
    each, chosen = values.shape
    if each < 2 or chosen < min(2, points):
        return math.nan  # one draw says nothing of its spread
    share = chosen / points
    among = float(values.mean(0).var()) / chosen if chosen < points else 0.0
    within = float(values.var(0).mean()) / (chosen * each)
    return math.sqrt((1.0 - share) * among + share * within)
