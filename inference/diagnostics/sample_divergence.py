r"""The Kullback-Leibler divergence between two sets of samples, by nearest neighbours.

    KL(p || q) ~ d/n sum_i log( nu_k(i) / rho_k(i) ) + log( m / (n - 1) )

rho_k(i) is the distance from x_i to its k-th neighbour among the other n - 1 draws of p, nu_k(i) that to its k-th
neighbour among the m draws of q: each distance is a density estimate, and the unknown constants cancel.
"""

from __future__ import annotations

import math

import numpy as np
from torch import Tensor

__all__ = ["sample_divergence"]


def sample_divergence(p: Tensor, q: Tensor, k: int = 1) -> float:
    r"""Estimate KL(p || q), in nats, from draws of p and draws of q.

    It is consistent, and biased in finite samples: the more the more dimensions there are, and too low where p reaches
    into tails that hold no draws of q. Independent draws are assumed: thin Markov chains. A larger ``k`` trades
    variance for bias.

    Args:
        p: Draws of the first distribution ``[n, D]``.
        q: Draws of the second ``[m, D]``.
        k: Which neighbour.

    Raises:
        ValueError: The shapes do not fit, there are too few draws, or a distance is zero (repeated draws).

    Example:
        >>> import torch
        >>> _ = torch.manual_seed(0)
        >>> round(sample_divergence(torch.randn(2000, 1), 1 + torch.randn(2000, 1), k=5), 1)  # exactly 0.5
        0.5

    References:
        Divergence estimation for multidimensional densities via k-nearest-neighbor distances (Wang, Kulkarni & Verdu,
        2009), IEEE Transactions on Information Theory 55(5).
    """
    if p.dim() != 2 or q.dim() != 2 or p.shape[1] != q.shape[1]:
        raise ValueError(
            f"expected draws [n, D] and [m, D] of the same D; got {tuple(p.shape)} and {tuple(q.shape)}. "
            "Flatten each draw to one row."
        )
    if not 1 <= k < min(len(p), len(q) + 1):
        raise ValueError(f"k={k} must be at least 1 and below the number of draws, {len(p)} and {len(q)}.")
    x, y = (s.detach().cpu().double().numpy() for s in (p, q))
    inside = _neighbour(x, x, k + 1)  # the nearest neighbour of a draw among its own set is itself
    across = _neighbour(y, x, k)
    if min(inside.min(), across.min()) <= 0.0:
        raise ValueError("some draws are repeated, so that their distance is zero: thin the chains, or raise k.")
    ratio = float(np.log(across / inside).mean())
    return p.shape[1] * ratio + math.log(len(y) / (len(x) - 1))


def _neighbour(among: np.ndarray, of: np.ndarray, k: int) -> np.ndarray:
    """The distance from each row of ``of`` to its k-th neighbour among the rows of ``among``."""
    from scipy.spatial import cKDTree

    distances, _ = cKDTree(among).query(of, k=[k])
    return np.asarray(distances)[:, 0]
