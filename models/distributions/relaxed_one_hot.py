r"""The relaxed one-hot categorical (Concrete) distribution, kept off the simplex's boundary."""

import pyro.distributions as dist
import torch
from torch import Tensor

from .shapes import EMPTY, Shape

__all__ = ["RelaxedOneHotCategorical"]


class RelaxedOneHotCategorical(dist.RelaxedOneHotCategorical):
    r"""Pyro's distribution with samples floored at the smallest normal number.

    At low temperature a coordinate underflows to 0, where the log-density is not finite and its
    gradient is not a number. The floor moves a sample by less than a rounding error.

    References:
        The Concrete Distribution (Maddison et al., 2017), section 3. https://arxiv.org/abs/1611.00712
    """

    def expand(self, batch_shape: Shape, _instance: object = None) -> "RelaxedOneHotCategorical":
        """Return the distribution with a larger batch shape."""
        new: RelaxedOneHotCategorical = self._get_checked_instance(RelaxedOneHotCategorical, _instance)
        return super().expand(batch_shape, _instance=new)

    def rsample(self, sample_shape: Shape = EMPTY) -> Tensor:
        """Draw z on the open simplex, `sample_shape + batch + [D]`, differentiable."""
        z: Tensor = super().rsample(sample_shape)
        return z.clamp(min=torch.finfo(z.dtype).tiny)
