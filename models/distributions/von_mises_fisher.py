r"""The von Mises-Fisher distribution, q(z) proportional to exp(kappa <mu, z>) on S^{D-1}.

In the angle t from the mode every integral is one-dimensional and smooth:

    Z(kappa) = int_0^pi exp(-kappa (1 - cos t)) sin^{D-2} t dt,
    log q(z) = -kappa (1 - <mu, z>) - log Z(kappa) - log |S^{D-2}|.

They are done by Gauss-Legendre quadrature, accurate from kappa = 0 to beyond 10^5 in any dimension,
where Bessel functions of high order overflow.
"""

from functools import lru_cache

import numpy as np
import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor
from torch.distributions import register_kl

from .shapes import EMPTY, Shape
from .sphere import around, log_sphere_area, require_sphere_dim
from .uniform_sphere import UniformSphere

__all__ = ["VonMisesFisher"]

_NUM_NODES = 96


class VonMisesFisher(dist.TorchDistribution):
    r"""The normal distribution's counterpart on the sphere, with pathwise gradients.

    The angle is drawn by rejection (exact); its gradient is implicit, dt/dkappa = -dF/dkappa / q(t)
    with F the distribution function, so it carries no bias from the rejection.

    Args:
        loc: Mode mu, unit vectors `[..., D]`.
        concentration: kappa > 0, `[...]`.

    Raises:
        ValueError: If D is below 2.

    References:
        Hyperspherical Variational Auto-Encoders (Davidson et al., 2018), section 3.
        https://arxiv.org/abs/1804.00891
        Simulation of the von Mises Fisher distribution (Wood, 1994), algorithm VM*.
        Implicit Reparameterization Gradients (Figurnov et al., 2018), section 2.
        https://arxiv.org/abs/1805.08498
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
        """The mean vector, inside the ball: E<mu, z> times mu."""
        _, drop = _log_normalizer_and_drop(self.concentration, self.event_shape[0])
        return (1 - drop).unsqueeze(-1) * self.loc

    def expand(self, batch_shape: Shape, _instance: object = None) -> "VonMisesFisher":
        """Return the distribution with a larger batch shape."""
        shape = torch.Size(batch_shape)
        return VonMisesFisher(
            self.loc.expand(shape + self.event_shape),
            self.concentration.expand(shape),
            validate_args=self._validate_args,
        )

    def rsample(self, sample_shape: Shape = EMPTY) -> Tensor:
        """Draw z, `sample_shape + batch + [D]`, differentiable in both parameters."""
        shape = self._extended_shape(torch.Size(sample_shape))
        kappa, dim = self.concentration.expand(shape[:-1]), shape[-1]
        angle = _sample_angle(kappa.detach(), dim)
        if kappa.requires_grad and torch.is_grad_enabled():
            slope = _angle_slope(angle, kappa.detach(), dim)
            angle = angle + slope * (kappa - kappa.detach())
        return around(self.loc.expand(shape), angle.cos(), angle.sin())

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log q(z), nats with respect to surface area."""
        if self._validate_args:
            self._validate_sample(value)
        dim = self.event_shape[0]
        drop = (value - self.loc).square().sum(-1) / 2
        log_normalizer, _ = _log_normalizer_and_drop(self.concentration, dim)
        return -self.concentration * drop - log_normalizer - log_sphere_area(dim - 1)

    def entropy(self) -> Tensor:
        """Return the entropy, nats."""
        dim = self.event_shape[0]
        log_normalizer, drop = _log_normalizer_and_drop(self.concentration, dim)
        return self.concentration * drop + log_normalizer + log_sphere_area(dim - 1)


def _kl_von_mises_fisher_uniform(p: VonMisesFisher, q: UniformSphere) -> Tensor:
    return log_sphere_area(q.event_shape[0]) - p.entropy()


register_kl(VonMisesFisher, UniformSphere)(_kl_von_mises_fisher_uniform)


@lru_cache(maxsize=8)
def _nodes_and_weights(dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return Gauss-Legendre nodes and weights on [0, 1]; kept, as a copy to a GPU would wait."""
    nodes, weights = np.polynomial.legendre.leggauss(_NUM_NODES)
    unit = torch.tensor(np.stack([(nodes + 1) / 2, weights / 2]), dtype=dtype, device=device)
    return unit[0], unit[1]


def _log_normalizer_and_drop(kappa: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Return log Z(kappa) and E[1 - cos t], differentiable in kappa."""
    nodes, weights = _nodes_and_weights(kappa.dtype, kappa.device)
    # Beyond this drop of the cosine less than one part in 10^17 of the mass is left.
    reach = (dim / 2 + 10 * (dim / 2) ** 0.5 + 40) / kappa.detach()
    width = 2 * torch.asin((reach.clamp(max=2) / 2).sqrt()).unsqueeze(-1)
    angle = width * nodes
    drop = 2 * (angle / 2).sin().square()
    log_mass = (weights * width).log() + (dim - 2) * angle.sin().log() - kappa.unsqueeze(-1) * drop
    return log_mass.logsumexp(-1), (log_mass.softmax(-1) * drop).sum(-1)


@torch.no_grad()
def _sample_angle(kappa: Tensor, dim: int) -> Tensor:
    """Draw the angle by Wood's rejection, in the drop 1 - cos t so that no digits cancel."""
    m = dim - 1
    flat = kappa.flatten()
    b = m / (2 * flat + (4 * flat**2 + m**2).sqrt())
    drop, todo = torch.empty_like(flat), torch.arange(flat.numel(), device=flat.device)
    half = flat.new_full((), m / 2)
    while todo.numel():
        b_todo = b[todo]
        beta = dist.Beta(half, half, validate_args=False).sample(todo.shape)
        proposal = 2 * b_todo * beta / (1 - (1 - b_todo) * beta)
        start = 2 * b_todo / (1 + b_todo)
        envelope = ((start + (1 - start) * proposal) / (start * (2 - start))).log()
        log_accept = flat[todo] * (start - proposal) + m * envelope
        accepted = log_accept >= torch.rand_like(proposal).log()
        drop[todo[accepted]] = proposal[accepted]
        todo = todo[~accepted]
    return 2 * torch.asin((drop / 2).clamp(0, 1).sqrt()).reshape(kappa.shape)


@torch.no_grad()
def _angle_slope(angle: Tensor, kappa: Tensor, dim: int) -> Tensor:
    """Return dt/dkappa at fixed F(t; kappa), integrating from the nearer pole, in float64."""
    t = angle.double().clamp(1e-12, torch.pi - 1e-12).unsqueeze(-1)
    k = kappa.double()
    nodes, weights = _nodes_and_weights(k.dtype, k.device)
    _, mean_drop = _log_normalizer_and_drop(k, dim)
    near = t < torch.pi / 2
    width = torch.where(near, t, torch.pi - t)
    s = torch.where(near, width * nodes, t + width * nodes)
    drop = 2 * (s / 2).sin().square()
    log_ratio = k.unsqueeze(-1) * (2 * (t / 2).sin().square() - drop)
    log_ratio = log_ratio + (dim - 2) * (s.sin().log() - t.sin().log())
    integral = (weights * log_ratio.exp() * (drop - mean_drop.unsqueeze(-1))).sum(-1)
    slope = torch.where(near, width, -width).squeeze(-1) * integral
    return slope.to(angle)
