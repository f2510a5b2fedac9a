r"""The guide of the hierarchical model, bottom up, q(z1, z2 | x) = q(z1|x) q(z2|z1)."""

from collections.abc import Sequence

import pyro
import pyro.distributions as dist
from torch import Tensor, nn

from ..models.announced import Announced
from ..models.networks import MLP
from .amortized import bounded_exp, linear_head, through

__all__ = ["Hierarchical"]


class Hierarchical(Announced):
    r"""Two diagonal normals, bottom up, q(z1, z2|x) = q(z1|x) q(z2|z1).

    Sites "z1" and "z2", of the model `HierarchicalModel`.

    Args:
        latent_dim: Number of dimensions of z1.
        encoder: Network from the data to features; its `out_features` is their number.
        top_dim: Number of dimensions of z2; None takes half of `latent_dim`, rounded up.
        hidden: Widths of the hidden layers between z1 and z2.

    Example:
        >>> import torch
        >>> guide = Hierarchical(4, encoder=nn.Linear(6, 5), hidden=[8])
        >>> guide(torch.zeros(3, 6)).shape
        torch.Size([3, 4])

    References:
        Importance Weighted Autoencoders (Burda et al., 2016), section 2 and its two-layer models.
        https://arxiv.org/abs/1509.00519
    """

    name = "hierarchical"
    latents = ("z1", "z2")
    support = "real"

    def __init__(
        self,
        latent_dim: int,
        encoder: nn.Module,
        top_dim: int | None = None,
        hidden: Sequence[int] = (100,),
    ) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        self.encoder = encoder
        self.top_dim = -(-latent_dim // 2) if top_dim is None else top_dim
        self.hidden = list(hidden)
        self.mean = linear_head(encoder, latent_dim)
        self.log_scale = linear_head(encoder, latent_dim)
        self.top = MLP(latent_dim, 2 * self.top_dim, hidden=self.hidden)

    def posterior(self, x: Tensor) -> dist.TorchDistribution:
        """Return q(z1|x), batch `x.shape[:-1]`, event `[latent_dim]`."""
        features = self.encoder(x)
        mean, log_scale = through(features, self.mean, self.log_scale)
        return dist.Normal(mean, bounded_exp(log_scale)).to_event(1)

    def top_posterior(self, z1: Tensor) -> dist.TorchDistribution:
        """Return q(z2|z1), batch `z1.shape[:-1]`, event `[top_dim]`."""
        mean, log_scale = self.top(z1).chunk(2, -1)
        return dist.Normal(mean, bounded_exp(log_scale)).to_event(1)

    def forward(self, x: Tensor) -> Tensor:
        """Run the program on data `[batch, P]`; return z1, `[..., batch, latent_dim]`."""
        with pyro.plate("data", len(x), dim=-1):
            z1: Tensor = pyro.sample("z1", self.posterior(x))
            pyro.sample("z2", self.top_posterior(z1))
        return z1
