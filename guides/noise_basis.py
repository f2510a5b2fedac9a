r"""The noise-basis guide: an implicit q(z|x) whose mean and variance are known.

z = z_0(x) + sum_i a_i(x) v_i(eps_i),    eps_i ~ N(0, I) independently,
E z = z_0 + sum_i a_i E v_i,             Var z = sum_i a_i^2 Var v_i.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn import functional

from .amortized import AmortizedGuide
from .implicit import ImplicitDistribution, feature_width

__all__ = ["NoiseBasis"]


class NoiseBasis(AmortizedGuide):
    r"""The guide without a density that mixes learned noise: z = z_0(x) + sum_i a_i(x) v_i(eps_i).

    Each basis v_i is a perceptron of noise of its own, the same for all datapoints; its mean and variance are taken
    over a few hundred draws and give those of z in closed form, as adaptive contrast wants them.

    Args:
        latent_dim: Number of latent dimensions D.
        encoder: Network from the data to features; its `out_features` is their number.
        num_bases: Number of noise bases v_i.
        noise_dim: Dimensions of each eps_i.
        basis_hidden: Widths of the hidden layers of each v_i.
        shift: Amplitudes are a = elu(h - shift) + 1 with h about 0 at the start: the larger, the less noise at first.
        moment_draws: Draws from which the moments of the bases are taken.

    Raises:
        ValueError: If a number is out of range, or the encoder does not tell its width.

    Example:
        >>> guide = NoiseBasis(latent_dim=2, encoder=nn.Linear(6, 4), num_bases=3, noise_dim=4)
        >>> guide(torch.zeros(3, 6)).shape
        torch.Size([3, 2])

    References:
        Adversarial Variational Bayes (Mescheder, Nowozin & Geiger, 2017); the MNIST encoder of the authors' code.
        https://arxiv.org/abs/1701.04722
    """

    name = "noise-basis"
    has_density = False
    support = "real"

    def __init__(
        self,
        latent_dim: int,
        encoder: nn.Module,
        num_bases: int = 16,
        noise_dim: int = 32,
        basis_hidden: Sequence[int] = (128, 128, 128),
        shift: float = 5.0,
        moment_draws: int = 256,
    ) -> None:
        super().__init__()
        if min(num_bases, noise_dim) < 1 or moment_draws < 2:
            raise ValueError(
                "num_bases and noise_dim: expected at least 1, moment_draws at least 2; "
                f"got {num_bases}, {noise_dim} and {moment_draws}."
            )
        self.latent_dim = latent_dim
        self.encoder = encoder
        self.num_bases = num_bases
        self.noise_dim = noise_dim
        self.basis_hidden = list(basis_hidden)
        self.shift = shift
        self.moment_draws = moment_draws
        self.centre = nn.Linear(feature_width(encoder), latent_dim)
        self.amplitude = nn.Linear(feature_width(encoder), num_bases * latent_dim)
        widths = [noise_dim, *self.basis_hidden, latent_dim]
        self.bases = nn.ModuleList(_Perceptrons(num_bases, a, b) for a, b in zip(widths, widths[1:], strict=False))

    def posterior(self, x: Tensor) -> dist.TorchDistribution:
        """Return q(z|x), batch `x.shape[:-1]`, event `[D]`; it can be drawn from, not evaluated."""
        features = self.encoder(x)
        centre = self.centre(features)
        raw = self.amplitude(features).unflatten(-1, (self.num_bases, self.latent_dim))
        amplitude = functional.elu(raw - self.shift) + 1.0

        def draw(shape: torch.Size) -> Tensor:
            return centre + (amplitude * self._basis(shape)).sum(-2)

        def moments() -> tuple[Tensor, Tensor]:
            basis = self._basis(torch.Size([self.moment_draws]))
            variance, mean = torch.var_mean(basis, dim=0)
            return centre + (amplitude * mean).sum(-2), (amplitude.square() * variance).sum(-2)

        return ImplicitDistribution(draw, x.shape[:-1], (self.latent_dim,), moments=moments)

    def _basis(self, shape: torch.Size) -> Tensor:
        """Draw every v_i, `[*shape, num_bases, D]`."""
        like = self.centre.weight
        h = torch.randn(self.num_bases, math.prod(shape), self.noise_dim, dtype=like.dtype, device=like.device)
        for position, layer in enumerate(self.bases):
            h = layer(h if position == 0 else functional.elu(h))
        return h.movedim(0, 1).unflatten(0, shape)


class _Perceptrons(nn.Module):
    """One linear layer of every basis at once: `[num_bases, n, in] -> [num_bases, n, out]`."""

    def __init__(self, num_bases: int, in_features: int, out_features: int) -> None:
        super().__init__()
        bound = in_features**-0.5
        self.weight = nn.Parameter(torch.empty(num_bases, in_features, out_features).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(num_bases, 1, out_features).uniform_(-bound, bound))

    def forward(self, h: Tensor) -> Tensor:
        return torch.baddbmm(self.bias, h, self.weight)
