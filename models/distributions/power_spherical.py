r"""The power spherical distribution, q(z) proportional to (1 + <mu, z>)^kappa on S^{D-1}."""

import math

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor
from torch.distributions import register_kl

from .shapes import EMPTY, Shape
from .sphere import around, log_sphere_area, require_sphere_dim
from .uniform_sphere import UniformSphere

__all__ = ["PowerSpherical"]


class PowerSpherical(dist.TorchDistribution):
    r"""A unimodal distribution on the sphere, sampled exactly without rejection.

    With t = <mu, z>: (1 + t) / 2 ~ Beta((D-1)/2 + kappa, (D-1)/2), and z uniform given t.

    Args:
        loc: Mode mu, unit vectors `[..., D]`.
        concentration: kappa > 0, `[...]`.

    Raises:
        ValueError: If D is below 2.

    References:
        The Power Spherical Distribution (De Cao & Aziz, 2020).
        https://arxiv.org/abs/2006.04437
    """

    arg_constraints = {"loc": constraints.sphere, "concentration": constraints.positive}
    support = constraints.sphere
    has_rsample = True

    def __init__(self, loc: Tensor, concentration: Tensor, *, validate_args: bool | None = None) -> None:
        dim = loc.shape[-1]
        require_sphere_dim(dim)
        batch_shape = torch.broadcast_shapes(loc.shape[:-1], concentration.shape)
        self.loc = loc.expand(batch_shape + (dim,))
        self.concentration = concentration.expand(batch_shape)
        super().__init__(batch_shape, torch.Size((dim,)), validate_args=validate_args)

    @property
    def mean(self) -> Tensor:
        """The mean vector, inside the ball: kappa / (D - 1 + kappa) times mu."""
        shrink = self.concentration / (self.event_shape[0] - 1 + self.concentration)
        return shrink.unsqueeze(-1) * self.loc

    def expand(self, batch_shape: Shape, _instance: object = None) -> "PowerSpherical":
        """Return the distribution with a larger batch shape."""
        shape = torch.Size(batch_shape)
        return PowerSpherical(
            self.loc.expand(shape + self.event_shape),
            self.concentration.expand(shape),
            validate_args=self._validate_args,
        )

    def rsample(self, sample_shape: Shape = EMPTY) -> Tensor:
        """Draw z, `sample_shape + batch + [D]`, differentiable in both parameters."""
        shape = self._extended_shape(torch.Size(sample_shape))
        alpha, beta = self._beta_parameters()
        # The complement is what stays accurate when the samples crowd the mode.
        half_drop = dist.Beta(beta, alpha, validate_args=False).rsample(torch.Size(sample_shape))
        drop = 2 * half_drop.clamp(min=torch.finfo(half_drop.dtype).tiny)
        return around(self.loc.expand(shape), 1 - drop, (drop * (2 - drop)).clamp(min=0).sqrt())

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log q(z), nats with respect to surface area."""
        if self._validate_args:
            self._validate_sample(value)
        drop = (value - self.loc).square().sum(-1) / 2
        half_sum = (1 - drop / 2).clamp(min=torch.finfo(value.dtype).tiny)
        return self.concentration * half_sum.log() - self._log_normalizer()

    def entropy(self) -> Tensor:
        """Return the entropy, nats."""
        alpha, beta = self._beta_parameters()
        expected = torch.digamma(alpha.double()) - torch.digamma((alpha + beta).double())
        return self._log_normalizer() - self.concentration * expected.to(alpha)

    def _beta_parameters(self) -> tuple[Tensor, Tensor]:
        half = (self.event_shape[0] - 1) / 2
        return self.concentration + half, torch.full_like(self.concentration, half)

    def _log_normalizer(self) -> Tensor:
        """Return the log of the integral of ((1 + <mu, z>) / 2)^kappa over the sphere."""
        alpha, beta = self._beta_parameters()
        # Two large numbers differ by a small one: float32 would leave few digits of it.
        ratio = torch.lgamma(alpha.double()) - torch.lgamma((alpha + beta).double())
        return beta * math.log(4 * math.pi) + ratio.to(alpha)


def _kl_power_spherical_uniform(p: PowerSpherical, q: UniformSphere) -> Tensor:
    return log_sphere_area(q.event_shape[0]) - p.entropy()


register_kl(PowerSpherical, UniformSphere)(_kl_power_spherical_uniform)
