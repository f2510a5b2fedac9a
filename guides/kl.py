r"""Divergences that PyTorch lacks, from correlated normals to a factorised one.

    KL(p || q) = -H(p) - log q(E_p z) + 1/2 sum_j Var_p(z_j) / s_j^2,    q = N(m, diag s^2).

With them the bound whose divergence is analytic serves the correlated guides too.
"""

from __future__ import annotations

from torch import Tensor
from torch.distributions import (
    Independent,
    LowRankMultivariateNormal,
    MultivariateNormal,
    Normal,
    register_kl,
)

__all__: list[str] = []


def _kl_to_diagonal(p: MultivariateNormal | LowRankMultivariateNormal, q: Independent[Normal]) -> Tensor:
    if not isinstance(q.base_dist, Normal) or q.reinterpreted_batch_ndims != 1:
        raise NotImplementedError
    spread = (p.variance / q.base_dist.scale.square()).sum(-1)
    return -p.entropy() - q.log_prob(p.mean) + spread / 2


register_kl(MultivariateNormal, Independent)(_kl_to_diagonal)
register_kl(LowRankMultivariateNormal, Independent)(_kl_to_diagonal)
