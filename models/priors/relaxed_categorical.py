r"""The relaxed one-hot (Concrete) prior: a categorical code melted into the simplex."""

import pyro.distributions as dist
import torch
from torch import Tensor

from ..announced import Announced
from ..distributions import RelaxedOneHotCategorical

__all__ = ["RelaxedCategorical"]


class RelaxedCategorical(Announced):
    r"""One relaxed one-hot variable of D classes with equal weights, at a fixed temperature.

    Args:
        latent_dim: Number of classes D, at least 2.
        temperature: 0 is the one-hot variable, infinity the simplex's centre.

    Raises:
        ValueError: If the temperature is not positive, or D is below 2.

    References:
        The Concrete Distribution (Maddison et al., 2017), section 3. https://arxiv.org/abs/1611.00712
        Categorical Reparameterization with Gumbel-Softmax (Jang et al., 2017), section 2.
        https://arxiv.org/abs/1611.01144
    """

    name = "relaxed-categorical"
    support = "simplex"
    zeros: Tensor

    def __init__(self, latent_dim: int, temperature: float = 0.5) -> None:
        super().__init__()
        if temperature <= 0:
            raise ValueError(f"temperature: expected a positive number; got {temperature}. Use temperature=0.5.")
        if latent_dim < 2:
            raise ValueError(f"latent_dim: expected at least 2 classes; got {latent_dim}. Use latent_dim >= 2.")
        self.latent_dim = latent_dim
        self.temperature = temperature
        self.register_buffer("zeros", torch.zeros(latent_dim), persistent=False)

    def forward(self) -> dist.TorchDistribution:
        """Return p(z), event shape `[D]`."""
        temperature = self.zeros.new_full((), self.temperature)
        return RelaxedOneHotCategorical(temperature, logits=self.zeros)
