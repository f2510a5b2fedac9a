r"""The VampPrior: the guide's posterior averaged over learned pseudo-inputs.

p(z) = (1/C) sum_c q(z | u_c).
"""

from collections.abc import Callable

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ..announced import Announced

__all__ = ["VampPrior"]

_MARGIN = 1e-3


class VampPrior(Announced):
    r"""The variational mixture of posteriors, p(z) = (1/C) sum_c q(z | u_c).

    The pseudo-inputs u_c are this prior's parameters. The posterior stays the guide's: its
    parameters are shared, not listed here a second time, so move and save the guide with the guide.

    Args:
        posterior: The guide, or its `posterior` method, from data `[C, P]` to q(z|x).
        data_dim: Number of data dimensions P.
        num_pseudo_inputs: Number of pseudo-inputs C.
        bounded: Keep the pseudo-inputs in [0, 1] by a sigmoid, as pixels are; False leaves them
            anywhere.

    Raises:
        ValueError: If there are no pseudo-inputs.

    Example:
        >>> from aevb import guides
        >>> guide = guides.Normal(latent_dim=2, encoder=nn.Linear(6, 4))
        >>> prior = VampPrior(guide.posterior, data_dim=6, num_pseudo_inputs=10)
        >>> prior().event_shape
        torch.Size([2])

    References:
        VAE with a VampPrior (Tomczak & Welling, 2018), section 2. https://arxiv.org/abs/1705.07120
    """

    name = "vamp-prior"
    posterior: Callable[[Tensor], dist.TorchDistribution]

    def __init__(
        self,
        posterior: Callable[[Tensor], dist.TorchDistribution] | nn.Module,
        data_dim: int,
        num_pseudo_inputs: int = 500,
        bounded: bool = True,
    ) -> None:
        super().__init__()
        if num_pseudo_inputs < 1:
            raise ValueError(
                f"num_pseudo_inputs: expected at least 1; got {num_pseudo_inputs}. Use num_pseudo_inputs=500."
            )
        # Past nn.Module's register: the guide's parameters must not have two owners.
        object.__setattr__(self, "posterior", getattr(posterior, "posterior", posterior))
        self.data_dim = data_dim
        self.num_pseudo_inputs = num_pseudo_inputs
        self.bounded = bounded
        self.raw = nn.Parameter(torch.randn(num_pseudo_inputs, data_dim))

    @property
    def support(self) -> str:
        """The support of the guide's family: "real", "sphere" or "simplex"."""
        owner = getattr(self.posterior, "__self__", self.posterior)
        return str(getattr(owner, "support", "real"))

    @property
    def initial_rows(self) -> int:
        """The number of training rows `initialize_from` is best given."""
        return self.num_pseudo_inputs

    @property
    def pseudo_inputs(self) -> Tensor:
        """The pseudo-inputs u, `[C, P]`."""
        return self.raw.sigmoid() if self.bounded else self.raw

    def forward(self) -> dist.TorchDistribution:
        """Return p(z), event shape `[D]`."""
        components = self.posterior(self.pseudo_inputs)
        weights = dist.Categorical(logits=self.raw.new_zeros(self.num_pseudo_inputs))
        return dist.MixtureSameFamily(weights, components)

    @torch.no_grad()
    def initialize_from(self, x: Tensor) -> None:
        """Set the pseudo-inputs to randomly chosen rows of the data x `[N, P]`.

        Raises:
            ValueError: If x has not `data_dim` columns.
        """
        if x.shape[-1] != self.data_dim:
            raise ValueError(
                f"x: expected data_dim = {self.data_dim} columns; got {x.shape[-1]}. "
                "Give the data the prior was built for."
            )
        order = torch.randperm(len(x))
        rows = order.repeat(self.num_pseudo_inputs // len(x) + 1)[: self.num_pseudo_inputs]
        chosen = x[rows.to(x.device)].to(self.raw)
        self.raw.copy_(chosen.clamp(_MARGIN, 1 - _MARGIN).logit() if self.bounded else chosen)
