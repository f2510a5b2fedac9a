r"""Critics T(x, z): the classifiers that tell draws of a guide from draws of a reference, and so learn a log-ratio.

    T*(x, z) = log q(z|x) - log p(z).

A critic is any module called with the program's data and then the latents, ``critic(*data, z)``: data ``[batch, ...]``,
latents ``[num_samples, batch, D]`` (all sites on the real line, side by side), output ``[num_samples, batch]``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["Critic", "CriticFactory", "InnerProductCritic", "ResidualCritic"]

Critic = Callable[..., Tensor]
CriticFactory = Callable[[int, int], nn.Module]


class ResidualCritic(nn.Module):
    r"""A residual perceptron of data and latents side by side, ``T = w f(h_L)``, ``h_l = h_{l-1} + V f(U f(h_{l-1}))``.

    Each block starts as the identity (V = 0).

    Args:
        data_dim: Numbers a datapoint, all the program's arguments together.
        latent_dim: Latent dimensions, all sites together.
        width: Width of every layer.
        num_blocks: Number of residual blocks.

    References:
        Adversarial Variational Bayes (Mescheder, Nowozin & Geiger, 2017), the authors' toy example.
        https://arxiv.org/abs/1701.04722
    """

    def __init__(self, data_dim: int, latent_dim: int, width: int = 256, num_blocks: int = 5) -> None:
        super().__init__()
        self.stem = nn.Linear(data_dim + latent_dim, width)
        self.blocks = nn.ModuleList(_block(width) for _ in range(num_blocks))
        self.head = nn.Linear(width, 1)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Map data and latents to T, ``[num_samples, batch]``."""
        x, z = _joined(inputs)
        h = self.stem(torch.cat([x.expand(*z.shape[:-1], -1), z], dim=-1))
        for block in self.blocks:
            h = h + block(functional.elu(h))
        value: Tensor = self.head(functional.elu(h)).squeeze(-1)
        return value


class InnerProductCritic(nn.Module):
    r"""A critic whose costly half sees the data alone, ``T = <theta(x), s(z)> + T_x(x) + T_z(z)``.

    Args:
        data_dim: Numbers a datapoint, all the program's arguments together.
        latent_dim: Latent dimensions, all sites together.
        hidden: Widths of the hidden layers of theta, s, T_x and T_z.
        inner_dim: Dimension of the inner product.

    References:
        Adversarial Variational Bayes (Mescheder, Nowozin & Geiger, 2017), the authors' code for MNIST.
        https://arxiv.org/abs/1701.04722
    """

    def __init__(
        self, data_dim: int, latent_dim: int, hidden: Sequence[int] = (1024, 1024, 1024), inner_dim: int = 8192
    ) -> None:
        super().__init__()
        self.of_data = _perceptron(data_dim, hidden, inner_dim)
        self.of_latent = _perceptron(latent_dim, hidden, inner_dim)
        self.data_term = _perceptron(data_dim, hidden, 1)
        self.latent_term = _perceptron(latent_dim, hidden, 1)
        self.scale = inner_dim**-0.5

    def forward(self, *inputs: Tensor) -> Tensor:
        """Map data and latents to T, ``[num_samples, batch]``."""
        x, z = _joined(inputs)
        inner = (self.of_data(x) * self.of_latent(z)).sum(-1) * self.scale
        value: Tensor = inner + self.data_term(x).squeeze(-1) + self.latent_term(z).squeeze(-1)
        return value


def _joined(inputs: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """The data as one matrix ``[batch, data_dim]``, and the latents."""
    *data, z = inputs
    return torch.cat([part.reshape(len(part), -1).to(z.dtype) for part in data], dim=-1), z


def _block(width: int) -> nn.Sequential:
    last = nn.Linear(width, width)
    nn.init.zeros_(last.weight)
    return nn.Sequential(nn.Linear(width, width), nn.ELU(), last)


def _perceptron(in_features: int, hidden: Sequence[int], out_features: int) -> nn.Sequential:
    widths = [in_features, *hidden]
    layers: list[nn.Module] = []
    for before, after in zip(widths, widths[1:], strict=False):
        layers += [nn.Linear(before, after), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, nn.Linear(widths[-1], out_features))
