r"""A normalizing-flow prior, z = f(e), e ~ N(0, I)."""

from collections.abc import Sequence

import pyro.distributions as dist

from ..announced import Announced
from ..distributions import FlowDistribution, build_flow

__all__ = ["Flow"]


class Flow(Announced):
    r"""A normalizing flow, p(z) = N(f^{-1}(z); 0, I) |det df^{-1}/dz|.

    Args:
        latent_dim: Number of latent dimensions D.
        family: "maf" (affine autoregressive: scores in one pass, samples in D), "nsf"
            (autoregressive splines), "nsf-coupling" or "realnvp" (by halves: fast both ways),
            or "iaf" (samples in one pass, scores others' draws in D).
        num_transforms: Number of layers.
        hidden_features: Widths of each layer's hidden units.

    Raises:
        ValueError: If the family is unknown, or is by halves and D is 1.

    Example:
        >>> import torch
        >>> prior = Flow(2, family="nsf", hidden_features=[8])
        >>> prior().log_prob(torch.zeros(3, 2)).shape
        torch.Size([3])

    References:
        Masked Autoregressive Flow for Density Estimation (Papamakarios et al., 2017).
        https://arxiv.org/abs/1705.07057
        Neural Spline Flows (Durkan et al., 2019). https://arxiv.org/abs/1906.04032
        Density estimation using Real NVP (Dinh et al., 2017). https://arxiv.org/abs/1605.08803
    """

    name = "flow"
    support = "real"

    def __init__(
        self,
        latent_dim: int,
        family: str = "maf",
        num_transforms: int = 3,
        hidden_features: Sequence[int] = (64, 64),
    ) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        self.family = family
        self.num_transforms = num_transforms
        self.hidden_features = list(hidden_features)
        self.flow = build_flow(family, latent_dim, transforms=num_transforms, hidden=hidden_features)

    def forward(self) -> dist.TorchDistribution:
        """Return p(z), event shape `[D]`."""
        return FlowDistribution(self.flow())
