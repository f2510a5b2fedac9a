r"""Leave-one-out, where it means something: with a posterior over what the datapoints share.

    elpd_loo = sum_n log p(x_n | x_-n),     p(x_n | x_-n) = 1 / E_{q(theta)}[ 1 / p(x_n | theta) ],

smoothed by a Pareto fit (PSIS). A latent z_n that only x_n has is integrated out first, by importance sampling:
p(x_n | theta) ~ mean_k p(x_n, z_k | theta) / q(z_k | x_n).

With theta a point and local latents alone, x_-n says nothing about x_n but through the training that has seen it:
log p(x_n | x_-n, theta) = log p(x_n | theta). Leaving z_n out of its own datapoint would be the harmonic-mean
estimate of that number, and no test on new data. So it is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.func import functional_call

from .arviz_seam import leave_one_out
from .data import Dataset, as_dataset, chunks
from .pair import Data, Pair
from .random_state import RandomState

__all__ = ["loo"]

_ROWS = 20_000  # draws of all datapoints of a chunk that are scored at once


class _Weighed(nn.Module):
    """log p(x_n | theta) by importance sampling, which can be called with other parameters in the place of its own."""

    def __init__(self, pair: Pair) -> None:
        super().__init__()
        self.pair = pair

    def forward(self, data: Data, num_samples: int) -> Tensor:
        return self.pair.cloud(data, num_samples).log_weight.logsumexp(0) - torch.tensor(num_samples).log()


def loo(
    pair: Pair,
    data: Any,
    weights: Mapping[str, Distribution] | None = None,
    *,
    num_weights: int = 500,
    num_samples: int = 50,
    seed: int = 0,
) -> Any:
    """Estimate by ``az.loo`` how a model with a posterior over its parameters predicts each datapoint from the others.

    Args:
        pair: A checked pair.
        data: The datapoints that the posterior of the parameters was found from.
        weights: Parameter name to its posterior, as :meth:`FullVB.posterior` returns it for a fit's memory.
        num_weights: Draws of the parameters.
        num_samples: Draws a datapoint and parameter that integrate the local latents out.
        seed: Of the draws.

    Returns:
        ArviZ's ``ELPDData``, pointwise, with k-hat; :func:`az.compare` takes it. That q(theta) is not quite the
        posterior is not seen by its k-hat.

    Raises:
        ValueError: No posterior over the parameters is given, so that there is nothing to leave a datapoint out of.

    References:
        Practical Bayesian Model Evaluation Using Leave-One-Out Cross-Validation and WAIC (Vehtari, Gelman & Gabry,
        2017), https://arxiv.org/abs/1507.04544
    """
    if not weights:
        raise ValueError(
            "leave-one-out means nothing here: the parameters are one fitted point and each latent belongs to one "
            "datapoint, so p(x_n | all others, theta) is p(x_n | theta), and theta has seen x_n. Rank models by log "
            "p(x) of held-out data instead: compare({name: log_evidence(model, guide, held_out), ...}). With a "
            "posterior over the parameters (the FullVB objective) pass it: loo(pair, x, FullVB.posterior(memory))."
        )
    device = pair.example[0].device
    rows = as_dataset(data, device)
    with RandomState(seed, device), pair.evaluation():
        scored = []
        for _ in range(num_weights):
            theta = {f"pair.model.{name}": q.sample() for name, q in weights.items()}
            scored.append(_score(pair, rows, theta, num_samples))
    return leave_one_out(torch.stack(scored))


def _score(pair: Pair, rows: Dataset, theta: dict[str, Tensor], num_samples: int) -> Tensor:
    scorer = _Weighed(pair)
    parts = chunks(rows, max(1, _ROWS // num_samples))
    return torch.cat([cast(Tensor, functional_call(scorer, theta, (part, num_samples))).cpu() for part in parts])
