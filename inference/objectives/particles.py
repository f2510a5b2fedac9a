r"""What the objectives on several samples a datapoint share: draws, normalised weights, path gradients.

w_k = p(x, z_k) / q(z_k|x),     w~_k = w_k / sum_j w_j        one set of K weights a datapoint
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..pair import Cloud, Pair
from .objective import Batch

__all__ = ["iwae_bound", "path_cloud", "path_loss", "require_paths", "require_samples", "valued"]


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
