r"""The hierarchical model with two layers of latents.

z2 ~ N(0, I),    z1 | z2 ~ N(m(z2), diag s(z2)^2),    x | z1 ~ p(x | decoder(z1)).
"""

from collections.abc import Sequence

import pyro
import pyro.distributions as dist
from torch import Tensor, nn

from .announced import Announced
from .latent_variable_model import conditional_on
from .networks import MLP

__all__ = ["HierarchicalModel"]

_LOG_BOUND = 15.0


class HierarchicalModel(Announced):
    r"""Two stochastic layers, p(x, z1, z2) = p(z2) p(z1|z2) p(x|z1).

    Sites: "z2", "z1" and the observed "x", in the plate "data" at dim -1.

    Args:
        latent_dim: Number of dimensions of z1.
        decoder: Network from `[..., latent_dim]` to `[..., num_params * P]`.
        likelihood: Module from the decoder's output to p(x|z1), event shape `[P]`.
        top_dim: Number of dimensions of z2; None takes half of `latent_dim`, rounded up.
        hidden: Widths of the hidden layers between z2 and z1.

    Example:
        >>> import torch
        >>> from aevb.models import likelihoods, networks
        >>> model = HierarchicalModel(4, networks.MLP(4, 6), likelihoods.Bernoulli(), hidden=[8])
        >>> model(torch.zeros(3, 6)).shape
        torch.Size([3, 4])

    References:
        Importance Weighted Autoencoders (Burda et al., 2016), section 2 and its two-layer models.
        https://arxiv.org/abs/1509.00519
    """

    name = "hierarchical"
    latents = ("z1", "z2")
    own_prior = "standard-normal"  # of z2

    def __init__(
        self,
        latent_dim: int,
        decoder: nn.Module,
        likelihood: nn.Module,
        top_dim: int | None = None,
        hidden: Sequence[int] = (100,),
    ) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        self.decoder = decoder
        self.likelihood = likelihood
        self.top_dim = -(-latent_dim // 2) if top_dim is None else top_dim
        self.hidden = list(hidden)
        self.middle = MLP(self.top_dim, 2 * latent_dim, hidden=self.hidden)

    def forward(self, x: Tensor) -> Tensor:
        """Run the program on data `[batch, P]`; return z1, `[..., batch, latent_dim]`.

        Raises:
            ValueError: If the decoder's output does not have `num_params * P` columns.
        """
        zeros = x.new_zeros(self.top_dim)
        with pyro.plate("data", len(x), dim=-1):
            z2 = pyro.sample("z2", dist.Normal(zeros, zeros + 1).to_event(1))
            mean, log_scale = self.middle(z2).chunk(2, -1)
            scale = log_scale.clamp(-_LOG_BOUND, _LOG_BOUND).exp()
            z1: Tensor = pyro.sample("z1", dist.Normal(mean, scale).to_event(1))
            p_x = conditional_on(self.likelihood, self.decoder, z1, x.shape[-1])
            pyro.sample("x", p_x, obs=x)
        return z1
