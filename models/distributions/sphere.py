r"""What the distributions on the unit hypersphere S^{D-1} in R^D share.

|S^{D-1}| = 2 pi^{D/2} / Gamma(D/2).
"""

import math

import torch
from torch import Tensor

__all__ = ["around", "log_sphere_area", "require_sphere_dim"]


def log_sphere_area(dim: int) -> float:
    """Return the log surface area of the unit sphere in R^dim, log |S^{dim-1}|."""
    return math.log(2) + dim / 2 * math.log(math.pi) - math.lgamma(dim / 2)


def around(loc: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    r"""Return points on the sphere at a given angle from `loc`, in a uniform tangent direction.

    z = cos t loc + sin t nu, with nu uniform on the unit tangents at `loc`. For fixed noise the
    result is smooth in `loc` and in the angle, so gradients flow pathwise.

    Args:
        loc: Unit vectors `[..., D]`.
        cosine: cos t, `[...]`.
        sine: sin t, `[...]`.
    """
    noise = torch.randn_like(loc)
    tangent = noise - (noise * loc).sum(-1, keepdim=True) * loc
    tangent = torch.nn.functional.normalize(tangent, dim=-1)
    points = cosine.unsqueeze(-1) * loc + sine.unsqueeze(-1) * tangent
    return torch.nn.functional.normalize(points, dim=-1)


def require_sphere_dim(dim: int) -> None:
    """Refuse a sphere that is not a connected surface.

    Raises:
        ValueError: If `dim` is below 2.
    """
    if dim < 2:
        raise ValueError(
            f"latent_dim: expected at least 2, the circle in the plane; got {dim}. The sphere of "
            "R^1 is two points. Use latent_dim >= 2."
        )
