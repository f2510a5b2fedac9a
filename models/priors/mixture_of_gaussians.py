r"""A learned mixture of normals, p(z) = sum_c pi_c N(z; m_c, diag s_c^2)."""

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ..announced import Announced

__all__ = ["MixtureOfGaussians"]


class MixtureOfGaussians(Announced):
    r"""A learned mixture of normals with diagonal covariances; the component is summed out.

    p(z) = sum_c pi_c N(z; m_c, diag s_c^2).

    Args:
        latent_dim: Number of latent dimensions D.
        num_components: Number of components C.

    Raises:
        ValueError: If there are no components.

    Example:
        >>> prior = MixtureOfGaussians(2, num_components=5)
        >>> prior.responsibilities(torch.zeros(3, 2)).shape
        torch.Size([3, 5])

    References:
        VAE with a VampPrior (Tomczak & Welling, 2018), section 2 (the mixture prior).
        https://arxiv.org/abs/1705.07120
    """

    name = "mixture-of-gaussians"
    support = "real"

    def __init__(self, latent_dim: int, num_components: int = 10) -> None:
        super().__init__()
        if num_components < 1:
            raise ValueError(f"num_components: expected at least 1; got {num_components}. Use num_components=10.")
        self.latent_dim = latent_dim
        self.num_components = num_components
        self.logits = nn.Parameter(torch.zeros(num_components))
        self.means = nn.Parameter(torch.randn(num_components, latent_dim))
        self.log_scales = nn.Parameter(torch.zeros(num_components, latent_dim))

    def components(self) -> dist.TorchDistribution:
        """Return the components N(m_c, diag s_c^2), batch `[C]`, event `[D]`."""
        return dist.Normal(self.means, self.log_scales.exp()).to_event(1)

    def forward(self) -> dist.TorchDistribution:
        """Return p(z), event shape `[D]`."""
        return dist.MixtureSameFamily(dist.Categorical(logits=self.logits), self.components())

    def responsibilities(self, z: Tensor) -> Tensor:
        """Return p(c|z), `[..., C]`, by Bayes' rule."""
        log_joint = self.logits.log_softmax(-1) + self.components().log_prob(z.unsqueeze(-2))
        return log_joint.softmax(-1)
