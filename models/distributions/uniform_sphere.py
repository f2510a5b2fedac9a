r"""The uniform distribution on the unit hypersphere, p(z) = 1 / |S^{D-1}|."""

from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor

from .shapes import EMPTY, Shape
from .sphere import log_sphere_area, require_sphere_dim

__all__ = ["UniformSphere"]


class UniformSphere(dist.TorchDistribution):
    r"""The uniform distribution on S^{D-1} in R^D, with respect to surface area.

    Args:
        reference: Tensor `[..., D]` whose shape, dtype and device the samples take; its values do
            not matter.

    Raises:
        ValueError: If D is below 2.

    Example:
        >>> d = UniformSphere(torch.zeros(3))
        >>> round(float(d.log_prob(torch.tensor([0.0, 0.0, 1.0])).exp() * 4 * torch.pi), 5)
        1.0
    """

    arg_constraints: dict[str, Any] = {}
    support = constraints.sphere
    has_rsample = True

    def __init__(self, reference: Tensor, *, validate_args: bool | None = None) -> None:
        require_sphere_dim(reference.shape[-1])
        self.reference = reference.detach()
        super().__init__(reference.shape[:-1], reference.shape[-1:], validate_args=validate_args)

    def expand(self, batch_shape: Shape, _instance: object = None) -> "UniformSphere":
        """Return the distribution with a larger batch shape."""
        reference = self.reference.expand(torch.Size(batch_shape) + self.event_shape)
        return UniformSphere(reference, validate_args=self._validate_args)

    def rsample(self, sample_shape: Shape = EMPTY) -> Tensor:
        """Draw z, `sample_shape + batch + [D]`."""
        noise = torch.randn_like(self.reference.expand(self._extended_shape(torch.Size(sample_shape))))
        return torch.nn.functional.normalize(noise, dim=-1)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log p(z), nats with respect to surface area."""
        if self._validate_args:
            self._validate_sample(value)
        shape = torch.broadcast_shapes(value.shape[:-1], self.batch_shape)
        return self.reference.new_full(shape, -log_sphere_area(self.event_shape[0]))

    def entropy(self) -> Tensor:
        """Return the entropy, the log area, nats."""
        return self.reference.new_full(self.batch_shape, log_sphere_area(self.event_shape[0]))
