r"""What the objectives on several samples per datapoint share: draws, normalised weights, path gradients.

w_k = p(x, z_k) / q(z_k|x),     w~_k = w_k / sum_j w_j        one set of K weights a datapoint
"""

from __future__ import annotations

import math

import pyro
import torch
from torch import Tensor

from ..pairs.pair import Pair
from ..pairs.sites import Cloud
from ..random_state import RandomState
from .objective import Batch

__all__ = ["iwae_bound", "path_cloud", "path_loss", "require_one_density", "require_paths", "require_samples", "valued"]


_COPIES = 16  # of a datapoint: dropout shows in one of them


def require_samples(num_samples: int) -> None:
    """Refuse fewer than one sample."""
    if num_samples < 1:
        raise ValueError(f"num_samples={num_samples} must be at least 1.")


def require_paths(pair: Pair, objective: str) -> None:
    """Refuse a pair whose latents have no pathwise gradient, or whose guide has no density."""
    pair.insist_on_density()
    stuck = [site.name for site in pair.latents if not site.has_rsample]
    if stuck:
        raise ValueError(
            f"{objective} needs reparameterised latents, but the guide's {stuck} have no rsample; use "
            'SGVB(estimator="A") or ReweightedWakeSleep, which do without, or relax the family.'
        )


def require_one_density(pair: Pair, objective: str) -> None:
    """Refuse a guide that draws outside its sites while it trains: a second run of it has another density."""
    data = tuple(part.repeat(_COPIES, *(1,) * (part.dim() - 1)) for part in pair.example)
    buffers = dict(pair.named_buffers())
    kept = {name: value.clone() for name, value in buffers.items()}

    def scored() -> Tensor:
        found = pair.log_guide(z, data)
        for name, value in kept.items():
            buffers[name].copy_(value)
        return found

    with RandomState(0, pair.example[0].device), torch.no_grad(), pyro.validation_enabled(False):
        z = pair.sample_guide(data)
        same = torch.allclose(scored(), scored())
    if not same:
        raise ValueError(
            f"{objective} draws from the guide in one run and takes log q(z|x) of the draws in another, but in "
            "training the two have not one density (dropout, or noise drawn outside pyro.sample), so its bound would "
            "be none; use SGVB, IWAE, Renyi or ReweightedWakeSleep, which score draws in the run that made them, or "
            "leave the guide's dropout out."
        )


def iwae_bound(log_weight: Tensor) -> Tensor:
    """The K-sample bound log 1/K sum_k w_k of each datapoint, ``[K, batch] -> [batch]``."""
    return log_weight.logsumexp(0) - math.log(len(log_weight))


def path_cloud(pair: Pair, batch: Batch, num_samples: int) -> tuple[dict[str, Tensor], Cloud]:
    """Draw from the guide and score the draws at leaves cut off from it.

    Returns:
        The draws with their graph back to the guide's parameters, and the cloud at the leaves: the derivative of
        its log-weights in a leaf sees the latent alone, not the parameters of log q.
    """
    z = pair.sample_guide(batch.data, num_samples)
    leaves = {name: value.detach().requires_grad_(True) for name, value in z.items()}
    log_prior, log_lik = pair.log_densities(leaves, batch.data)
    return z, Cloud(leaves, log_prior, log_lik, pair.log_guide(leaves, batch.data))


def path_loss(z: dict[str, Tensor], cloud: Cloud, weights: Tensor) -> Tensor:
    r"""A loss whose gradient is - mean_i sum_k a_ik (d log w_ik / d z_ik) (d z_ik / d phi).

    Args:
        z: Draws with their graph.
        cloud: The same draws as leaves, scored.
        weights: The weights a ``[K, batch]``, held constant.
    """
    names = list(z)
    total = (weights.detach() * cloud.log_weight).sum()
    slopes = torch.autograd.grad(total, [cloud.z[name] for name in names], retain_graph=True)
    pushed = [(slope.detach() * z[name]).sum() for name, slope in zip(names, slopes, strict=True)]
    return -torch.stack(pushed).sum() / weights.shape[1]


def valued(loss: Tensor, value: Tensor) -> Tensor:
    """The gradient of ``loss`` under the number ``value``, so that what is logged and checked means something."""
    return value.detach() + (loss - loss.detach())
