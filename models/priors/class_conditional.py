r"""A prior with one learned normal a class, p(z|y) = N(m_y, diag s_y^2)."""

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ..announced import Announced

__all__ = ["ClassConditional"]


class ClassConditional(Announced):
    r"""One learned normal a class, p(z|y) = N(m_y, diag s_y^2), for the conditional model.

    A missing label, y = -1, has a row of its own, beside the classes.

    Args:
        latent_dim: Number of latent dimensions D.
        num_classes: Number of classes.

    Example:
        >>> prior = ClassConditional(2, num_classes=10)
        >>> prior(torch.tensor([0, 9, -1])).batch_shape
        torch.Size([3])

    References:
        Learning Structured Output Representation using Deep Conditional Generative Models
        (Sohn, Lee & Yan, 2015), section 4, where the prior is conditional.
    """

    name = "class-conditional"
    support = "real"
    needs = frozenset({"labels"})

    def __init__(self, latent_dim: int, num_classes: int) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        self.num_classes = num_classes
        self.means = nn.Parameter(0.1 * torch.randn(num_classes + 1, latent_dim))
        self.log_scales = nn.Parameter(torch.zeros(num_classes + 1, latent_dim))

    def forward(self, y: Tensor) -> dist.TorchDistribution:
        """Return p(z|y) for labels y `[batch]`: batch `[batch]`, event `[D]`."""
        return dist.Normal(self.means[y], self.log_scales[y].exp()).to_event(1)
