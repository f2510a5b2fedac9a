r"""Implicit guides: q(z|x) is whatever a network makes of noise, z = g(x, eps), and has no density to evaluate.

eps ~ N(0, I),    z = g(x, eps).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Self

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import constraints

from ..models.networks import MLP
from .amortized import AmortizedGuide

__all__ = ["ConcatenatedNoise", "Implicit", "ImplicitDistribution"]

Sampler = Callable[[torch.Size], Tensor]
Moments = Callable[[], tuple[Tensor, Tensor]]


class ImplicitDistribution(dist.TorchDistribution):
    r"""A distribution that can be drawn from, with gradients, and not evaluated.

    Args:
        sampler: Function from a shape `[*shape]` to draws `[*shape, *event_shape]`; every entry of the shape has noise
            of its own. It is called with the batch shape preceded by any sample dimensions.
        batch_shape: Batch shape before any plate expands it, usually `(len(x),)`.
        event_shape: Shape of one draw, usually `(D,)`.
        support: Where the draws lie.
        moments: Function to the mean and the variance, `[*batch_shape, *event_shape]`, where they are known.

    Raises:
        NotImplementedError: By `log_prob`.

    Example:
        >>> x = torch.zeros(3, 1)
        >>> q = ImplicitDistribution(lambda shape: x + torch.randn(*shape, 1) ** 3, x.shape[:-1], x.shape[-1:])
        >>> q.rsample((5,)).shape
        torch.Size([5, 3, 1])

    References:
        Adversarial Variational Bayes (Mescheder, Nowozin & Geiger, 2017), section 3.
        https://arxiv.org/abs/1701.04722
    """

    arg_constraints: dict[str, constraints.Constraint] = {}
    has_rsample = True
    has_density = False

    def __init__(
        self,
        sampler: Sampler,
        batch_shape: Sequence[int],
        event_shape: Sequence[int],
        *,
        support: constraints.Constraint | None = None,
        moments: Moments | None = None,
        validate_args: bool | None = None,
    ) -> None:
        self.sampler = sampler
        self._moments = moments
        self._support = constraints.independent(constraints.real, len(event_shape)) if support is None else support
        super().__init__(torch.Size(batch_shape), torch.Size(event_shape), validate_args=validate_args)

    @constraints.dependent_property
    def support(self) -> constraints.Constraint:
        """The space that the draws lie in."""
        return self._support

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> Self:
        """Return the distribution with another batch shape, each of its entries drawn independently."""
        return type(self)(
            self.sampler,
            batch_shape,
            self.event_shape,
            support=self._support,
            moments=self._moments,
            validate_args=False,
        )

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draw values, `[*sample_shape, *batch_shape, *event_shape]`.

        Raises:
            ValueError: If the sampler returns another shape.
        """
        shape = torch.Size(sample_shape) + self.batch_shape
        value = self.sampler(shape)
        if value.shape != shape + self.event_shape:
            raise ValueError(
                f"sampler: expected draws of shape {tuple(shape + self.event_shape)} for shape {tuple(shape)}; got "
                f"{tuple(value.shape)}. Draw noise of shape [*shape, noise_dim] and end in event_shape."
            )
        return value

    def log_prob(self, value: Tensor) -> Tensor:
        """Refuse: an implicit distribution has no density."""
        raise NotImplementedError(
            "an implicit guide has no density log q(z|x): train it with AdversarialVB, and take the evidence by "
            "annealed importance sampling, started at the prior or at the guide's moment-matched Gaussian."
        )

    def moments(self) -> tuple[Tensor, Tensor] | None:
        """Return the mean and the variance, `[*batch_shape, *event_shape]`, or None where they must be sampled."""
        if self._moments is None:
            return None
        shape = self.batch_shape + self.event_shape
        mean, variance = self._moments()
        return mean.expand(shape), variance.expand(shape)


class Implicit(AmortizedGuide):
    r"""The guide without a density made of any network, z = g(x, eps): data and noise side by side go in.

    Args:
        network: Network from `[..., P + noise_dim]` to `[..., latent_dim]`.
        latent_dim: Number of latent dimensions D.
        noise_dim: Number of noise dimensions.

    Raises:
        ValueError: If there is no noise.

    Example:
        >>> guide = Implicit(nn.Linear(6 + 4, 2), latent_dim=2, noise_dim=4)
        >>> guide(torch.zeros(3, 6)).shape
        torch.Size([3, 2])

    References:
        Adversarial Variational Bayes (Mescheder, Nowozin & Geiger, 2017), section 3.
        https://arxiv.org/abs/1701.04722
    """

    support = "real"

    def __init__(self, network: nn.Module, latent_dim: int, noise_dim: int = 16) -> None:
        super().__init__()
        self.network = network
        self.latent_dim = latent_dim
        self.noise_dim = _positive_noise(noise_dim)

    def posterior(self, x: Tensor) -> dist.TorchDistribution:
        """Return q(z|x), batch `x.shape[:-1]`, event `[D]`; it can be drawn from, not evaluated."""
        return ImplicitDistribution(_concatenate(self.network, x, self.noise_dim), x.shape[:-1], (self.latent_dim,))


class ConcatenatedNoise(AmortizedGuide):
    r"""The guide without a density that adds noise to an encoder's features, z = g([f(x), eps]).

    The encoder runs once a datapoint, however many draws are taken.

    Args:
        latent_dim: Number of latent dimensions D.
        encoder: Network from the data to features; its `out_features` is their number.
        noise_dim: Number of noise dimensions.
        hidden: Widths of the layers that mix features and noise.
        activation: Their non-linearity.

    Raises:
        ValueError: If there is no noise, or the encoder does not tell its width.

    Example:
        >>> guide = ConcatenatedNoise(2, MLP(6, hidden=[8]), noise_dim=4)
        >>> guide(torch.zeros(3, 6)).shape
        torch.Size([3, 2])

    References:
        Adversarial Variational Bayes (Mescheder, Nowozin & Geiger, 2017), section 3.
        https://arxiv.org/abs/1701.04722
    """

    name = "implicit"
    has_density = False
    support = "real"

    def __init__(
        self,
        latent_dim: int,
        encoder: nn.Module,
        noise_dim: int = 16,
        hidden: Sequence[int] = (128,),
        activation: str = "elu",
    ) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        self.encoder = encoder
        self.noise_dim = _positive_noise(noise_dim)
        self.hidden = list(hidden)
        self.activation = activation
        self.mixer = MLP(feature_width(encoder) + noise_dim, latent_dim, hidden=self.hidden, activation=activation)

    def posterior(self, x: Tensor) -> dist.TorchDistribution:
        """Return q(z|x), batch `x.shape[:-1]`, event `[D]`; it can be drawn from, not evaluated."""
        features = self.encoder(x)
        return ImplicitDistribution(
            _concatenate(self.mixer, features, self.noise_dim), x.shape[:-1], (self.latent_dim,)
        )


def feature_width(encoder: nn.Module) -> int:
    """Return the encoder's number of features.

    Raises:
        ValueError: If it has no attribute `out_features`.
    """
    width = getattr(encoder, "out_features", None)
    if width is None:
        raise ValueError(
            f"encoder: expected an attribute out_features, the number of features it returns; {type(encoder).__name__} "
            "has none. Set it, or use one of models.networks."
        )
    return int(width)


def _concatenate(network: nn.Module, x: Tensor, noise_dim: int) -> Sampler:
    def draw(shape: torch.Size) -> Tensor:
        noise = torch.randn(*shape, noise_dim, dtype=x.dtype, device=x.device)
        drawn: Tensor = network(torch.cat([x.expand(*shape, x.shape[-1]), noise], dim=-1))
        return drawn

    return draw


def _positive_noise(noise_dim: int) -> int:
    if noise_dim < 1:
        raise ValueError(
            f"noise_dim: expected at least 1, or every draw is the same; got {noise_dim}. Use noise_dim=16."
        )
    return noise_dim
