r"""The logistic-normal distribution by additive log-ratios, z = softmax([y, 0]), y ~ N(m, diag s^2).

    log p(z) = log N(y; m, diag s^2) - sum_j log z_j,    y_j = log z_j - log z_D.

PyTorch's distribution of this name breaks a stick instead, whose inverse subtracts from 1 and loses
its digits near a corner; log-ratios keep theirs.
"""

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import Transform, constraints

from .shapes import Shape

__all__ = ["AdditiveLogRatio", "LogisticNormal"]


class AdditiveLogRatio(Transform):
    """The map from R^{D-1} to the simplex of D coordinates, z = softmax([y, 0])."""

    domain = constraints.real_vector
    codomain = constraints.simplex
    bijective = True

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AdditiveLogRatio)

    __hash__ = Transform.__hash__

    def _call(self, x: Tensor) -> Tensor:
        z = torch.nn.functional.pad(x, (0, 1)).softmax(-1)
        return z.clamp(min=torch.finfo(z.dtype).tiny)

    def _inverse(self, y: Tensor) -> Tensor:
        log_z = y.log()
        return log_z[..., :-1] - log_z[..., -1:]

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """Return log |det dz/dy|, which is the sum of log z_j, `[...]`."""
        return y.log().sum(-1)

    def forward_shape(self, shape: Shape) -> torch.Size:
        """Return the shape of z for a shape of y."""
        return torch.Size((*shape[:-1], shape[-1] + 1))

    def inverse_shape(self, shape: Shape) -> torch.Size:
        """Return the shape of y for a shape of z."""
        return torch.Size((*shape[:-1], shape[-1] - 1))


class LogisticNormal(dist.TransformedDistribution):
    r"""The logistic normal on the simplex of D coordinates, y ~ N(m, diag s^2) in R^{D-1}.

    Two of them have the Kullback-Leibler divergence of their normals.

    Args:
        loc: m, `[..., D - 1]`.
        scale: s, `[..., D - 1]`.

    References:
        Logistic-normal distributions: some properties and uses (Aitchison & Shen, 1980).
        https://doi.org/10.1093/biomet/67.2.261
    """

    def __init__(self, loc: Tensor, scale: Tensor, *, validate_args: bool | None = None) -> None:
        base = dist.Normal(loc, scale, validate_args=validate_args).to_event(1)
        super().__init__(base, [AdditiveLogRatio()], validate_args=validate_args)

    def expand(self, batch_shape: Shape, _instance: object = None) -> "LogisticNormal":
        """Return the distribution with a larger batch shape."""
        normal = self.base_dist.expand(torch.Size(batch_shape)).base_dist
        return LogisticNormal(normal.loc, normal.scale, validate_args=self._validate_args)
