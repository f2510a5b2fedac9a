r"""The relaxed one-hot (Concrete, Gumbel-softmax) guide, z = softmax((l(x) + g) / T)."""

import pyro.distributions as dist
from torch import Tensor, nn

from ..models import distributions
from .amortized import AmortizedGuide, linear_head

__all__ = ["RelaxedCategorical"]

_LOGIT_BOUND = 10.0


class RelaxedCategorical(AmortizedGuide):
    r"""One relaxed one-hot variable of D classes, z = softmax((l(x) + g) / T), g ~ Gumbel(0, 1).

    Args:
        latent_dim: Number of classes D, at least 2.
        encoder: Network from the data to features; its `out_features` is their number.
        temperature: T; 0 is the one-hot variable, infinity the simplex's centre.

    Raises:
        ValueError: If the temperature is not positive, or D is below 2.

    References:
        The Concrete Distribution (Maddison et al., 2017), section 3. https://arxiv.org/abs/1611.00712
        Categorical Reparameterization with Gumbel-Softmax (Jang et al., 2017), eq. 2.
        https://arxiv.org/abs/1611.01144
    """

    name = "relaxed-categorical"
    support = "simplex"

    def __init__(self, latent_dim: int, encoder: nn.Module, temperature: float = 0.5) -> None:
        super().__init__()
        if temperature <= 0:
            raise ValueError(f"temperature: expected a positive number; got {temperature}. Use temperature=0.5.")
        if latent_dim < 2:
            raise ValueError(f"latent_dim: expected at least 2 classes; got {latent_dim}. Use latent_dim >= 2.")
        self.latent_dim = latent_dim
        self.encoder = encoder
        self.temperature = temperature
        self.logits = linear_head(encoder, latent_dim)

    def posterior(self, x: Tensor) -> dist.TorchDistribution:
        """Return q(z|x), batch `x.shape[:-1]`, event `[D]`."""
        logits = self.logits(self.encoder(x)).clamp(-_LOGIT_BOUND, _LOGIT_BOUND)
        temperature = logits.new_full((), self.temperature)
        return distributions.RelaxedOneHotCategorical(temperature, logits=logits)
