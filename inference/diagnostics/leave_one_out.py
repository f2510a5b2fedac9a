r"""Leave-one-out, where it means something: with a posterior over what the datapoints share.

    elpd_loo = sum_n log p(x_n | x_-n),     p(x_n | x_-n) = 1 / E_{q(theta)}[ 1 / p(x_n | theta) ],

smoothed by a Pareto fit (PSIS). A latent z_n that only x_n has is integrated out first, by importance sampling:
p(x_n | theta) ~ p^ = mean_k w_k, w_k = p(x_n, z_k | theta) / q(z_k | x_n). The noise of that average does not cancel,

    E[ 1 / p^ ]  =  (1 + v + O(v^2)) / p(x_n | theta),      v = var(w) / (K mean(w)^2),

so the factor 1 + v is taken out again, and where v is too large for that the answer is refused.

With theta a point and local latents alone, x_-n says nothing about x_n but through the training that has seen it:
log p(x_n | x_-n, theta) = log p(x_n | theta). Leaving z_n out of its own datapoint would be the harmonic-mean
estimate of that number, and no test on new data. So it is refused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.func import functional_call

from ..arviz_compat import leave_one_out
from ..pairs.data import Rows, as_rows, chunks
from ..pairs.finished import Finished, checked
from ..pairs.pair import Pair
from ..pairs.sites import Data
from ..random_state import RandomState

__all__ = ["loo"]

_NOISE = 0.1  # relative variance of an inner average up to which its first-order term is taken out
_ROWS = 20_000  # draws of all datapoints of a chunk that are scored at once


class _Weighed(nn.Module):
    """Log-weights ``[K, N]`` of a pair, which can be called with other parameters in the place of its own."""

    def __init__(self, pair: Pair) -> None:
        super().__init__()
        self.pair = pair

    def forward(self, data: Data, num_samples: int) -> Tensor:
        return self.pair.cloud(data, num_samples).log_weight


def loo(
    pair: Finished,
    data: Any,
    weights: Mapping[str, Distribution] | None = None,
    *,
    num_weights: int = 500,
    num_samples: int = 50,
    seed: int = 0,
) -> Any:
    """Estimate by ``az.loo`` how a model with a posterior over its parameters predicts each datapoint from the others.

    Args:
        pair: A run, or a checked pair.
        data: The datapoints that the posterior of the parameters was found from.
        weights: Parameter name, as in ``pair.model.named_parameters()``, to the posterior of what is stored there (a
            constrained parameter's unconstrained value), as :meth:`FullVB.posterior` returns it for a fit's memory.
        num_weights: Draws of the parameters.
        num_samples: Draws K a datapoint and parameter that integrate the local latents out, at least 2.
        seed: Of the draws.

    Returns:
        ArviZ's ``ELPDData``, pointwise, with k-hat; :func:`az.compare` takes it. That q(theta) is not quite the
        posterior is not seen by its k-hat.

    Raises:
        ValueError: No posterior over the parameters is given, so that there is nothing to leave a datapoint out of; it
            names a parameter that the model has not, or of another shape; or ``num_samples`` are too few.

    References:
        Practical Bayesian Model Evaluation Using Leave-One-Out Cross-Validation and WAIC (Vehtari, Gelman & Gabry,
        2017), https://arxiv.org/abs/1507.04544
    """
    pair = checked(pair)
    if not weights:
        raise ValueError(
            "leave-one-out means nothing here: the parameters are one fitted point and each latent belongs to one "
            "datapoint, so p(x_n | all others, theta) is p(x_n | theta), and theta has seen x_n. Rank models by log "
            "p(x) of held-out data instead: compare({name: log_evidence(model, guide, held_out), ...}). With a "
            "posterior over the parameters (the FullVB objective) pass it: loo(pair, x, FullVB.posterior(memory))."
        )
    _check(pair, weights, num_samples)
    device = pair.example[0].device
    rows = as_rows(data, device)
    with RandomState(seed, device), pair.evaluation():
        scored = []
        for _ in range(num_weights):
            theta = {f"pair.model.{name}": q.sample() for name, q in weights.items()}
            scored.append(_score(pair, rows, theta, num_samples))
    log_lik, noise = (torch.stack(part) for part in zip(*scored, strict=True))
    _refuse_noise(noise.mean(0), num_samples)
    return leave_one_out(log_lik + noise.log1p())


def _check(pair: Pair, weights: Mapping[str, Distribution], num_samples: int) -> None:
    known = {name: tuple(value.shape) for name, value in pair.model.named_parameters()}
    unknown = sorted(weights.keys() - known.keys())
    if unknown:
        raise ValueError(f"weights: the model has no parameters {unknown}; it has {sorted(known)}.")
    for name, q in weights.items():
        shape = tuple(q.batch_shape + q.event_shape)
        if shape != known[name]:
            raise ValueError(f"weights[{name!r}] draws values of shape {shape}, expected {known[name]}.")
    if num_samples < 2:
        raise ValueError(f"num_samples={num_samples} must be at least 2, or the noise of each average is not known.")


def _refuse_noise(noise: Tensor, num_samples: int) -> None:
    """Refuse relative variances ``[N]`` of the inner averages that no first-order term makes up for."""
    loud = torch.nonzero(~(noise <= _NOISE)).flatten().tolist()
    if loud:
        worst = float(noise.nan_to_num(nan=torch.inf).max())
        enough = f"about num_samples={int(num_samples * worst / _NOISE) + 1}" if worst < 1.0 else "many more"
        raise ValueError(
            f"num_samples={num_samples} draws leave p(x_n | theta) a relative variance of up to {worst:.2g}, above "
            f"{_NOISE}, on {len(loud)} of {len(noise)} datapoints, which lowers elpd_loo by about as many nats each; "
            f"take {enough}, or a guide nearer to the posterior."
        )


def _score(pair: Pair, rows: Rows, theta: dict[str, Tensor], num_samples: int) -> tuple[Tensor, Tensor]:
    """The logarithm of every datapoint's average weight, and its relative variance, ``[N]`` in float64."""
    scorer, parts = _Weighed(pair), chunks(rows, max(1, _ROWS // num_samples))
    every = [cast(Tensor, functional_call(scorer, theta, (part, num_samples))).cpu() for part in parts]
    log_weight = torch.cat(every, 1).double()
    log_mean = log_weight.logsumexp(0) - math.log(num_samples)
    return log_mean, (log_weight - log_mean).exp().var(0) / num_samples
