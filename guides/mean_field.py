r"""The mean-field guide without amortization: a normal of its own for every datapoint.

q(z_n) = N(mu_n, diag s_n^2),    n = 1 ... N.
"""

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ..models.announced import Announced
from .amortized import bounded_exp

__all__ = ["MeanField"]


class MeanField(Announced):
    r"""A table of normals, one a training point, q(z_n) = N(mu_n, diag s_n^2): classical VB.

    The data are pairs `(x, index)` with `index = torch.arange(N)`, so that a minibatch knows which
    rows of the table it is. There are no rows for new data: fit a second table to them with the
    model held fixed. An optimizer with momentum moves rows outside the minibatch too.

    Args:
        num_points: Number of datapoints N.
        latent_dim: Number of latent dimensions D.

    Example:
        >>> guide = MeanField(num_points=100, latent_dim=2)
        >>> guide(torch.zeros(3, 6), torch.tensor([0, 50, 99])).shape
        torch.Size([3, 2])

    References:
        Stochastic Variational Inference (Hoffman et al., 2013), section 2.2.
        https://arxiv.org/abs/1206.7051
    """

    name = "mean-field"
    needs = frozenset({"rows"})
    support = "real"

    def __init__(self, num_points: int, latent_dim: int) -> None:
        super().__init__()
        self.num_points = num_points
        self.latent_dim = latent_dim
        self.means = nn.Parameter(0.01 * torch.randn(num_points, latent_dim))
        self.log_scales = nn.Parameter(torch.zeros(num_points, latent_dim))

    def posterior(self, x: Tensor, index: Tensor | None = None) -> dist.TorchDistribution:
        """Return q(z_n) for the rows `index` `[batch]`, batch `[batch]`, event `[D]`.

        Without an index x must be the whole training set, in its order.

        Raises:
            ValueError: If there is no index and x is not of `num_points` rows, or if the index is
                not of integers.
        """
        if index is None and len(x) != self.num_points:
            raise ValueError(
                f"index: expected the training rows of these {len(x)} datapoints, as the table has "
                f"one row for each of {self.num_points}; got none. Pass data as (x, index) with "
                "index = torch.arange(len(x))."
            )
        if index is None:
            index = torch.arange(self.num_points, device=self.means.device)
        if index.is_floating_point():
            raise ValueError(f"index: expected integers; got {index.dtype}. Use torch.arange(len(x)).")
        return dist.Normal(self.means[index], bounded_exp(self.log_scales[index])).to_event(1)

    def forward(self, x: Tensor, index: Tensor | None = None) -> Tensor:
        """Run the program on data `[batch, P]` and row numbers; return the latents."""
        with pyro.plate("data", len(x), dim=-1):
            z: Tensor = pyro.sample("z", self.posterior(x, index))
        return z
