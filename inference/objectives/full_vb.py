r"""Full variational Bayes: a posterior over the model's parameters as well as over the latents.

    L = sum_i E[ log p(x_i, z_i | theta) - log q(z_i|x_i) ]  -  KL(q(theta) || p(theta)),      theta ~ q(theta)
    q(theta) = N(mu, diag s^2),    p(theta) = N(0, alpha^2 I),    theta = mu + s * zeta

Losses are nats per datapoint, so the divergence of the parameters is divided by N and is paid once a pass.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence
from torch.func import functional_call

from ..pairs.data import Rows
from ..pairs.pair import Pair
from ..pairs.sites import Cloud, Data
from .objective import Batch, Phase
from .particles import require_paths, require_samples

__all__ = ["FullVB"]


class _Weights(nn.Module):
    """The player ``"weights"``: mean and log-scale of q(theta), a pair a parameter of the model."""

    def __init__(self, model: nn.Module, scale: float) -> None:
        super().__init__()
        named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        self.names = [name for name, _ in named]
        self.loc = nn.ParameterList([nn.Parameter(p.detach().clone()) for _, p in named])
        self.log_scale = nn.ParameterList(
            [nn.Parameter(torch.full_like(p, math.log(scale)).detach()) for _, p in named]
        )

    def normals(self) -> dict[str, Normal]:
        pairs = zip(self.names, self.loc, self.log_scale, strict=True)
        return {name: Normal(loc, log_scale.exp(), validate_args=False) for name, loc, log_scale in pairs}


class _Memory(nn.Module):
    """What the trainer keeps: the player as a child of that name."""

    def __init__(self, weights: _Weights) -> None:
        super().__init__()
        self.weights = weights


class _Drawn(nn.Module):
    """A pair whose cloud can be called with other parameters in the place of its own."""

    def __init__(self, pair: Pair) -> None:
        super().__init__()
        self.pair = pair

    def forward(self, data: Data) -> Cloud:
        return self.pair.cloud(data, 1)


@dataclass(frozen=True, kw_only=True)
class FullVB:
    """Maximise the bound with a mean-field normal posterior over the model's parameters (full variational Bayes).

    The variational parameters are the memory's player ``"weights"``: :meth:`posterior` reads them. After every step
    the model itself holds their means, so the fitted pair serves everything else as a point estimate.

    Args:
        prior_scale: The standard deviation of p(theta); the paper takes 1.
        init_scale: Where the standard deviations of q(theta) start; small, as the means start at the model's values.
        num_samples: Draws L of parameters and latents per step.

    Raises:
        ValueError: A number is out of range, or a latent has no pathwise gradient.

    References:
        Auto-Encoding Variational Bayes (Kingma & Welling, 2013), appendix F, eqs. (21)-(24) and Algorithm 2,
        https://arxiv.org/abs/1312.6114
    """

    name = "full-vb"
    prior_scale: float = 1.0
    init_scale: float = 0.05
    num_samples: int = 1

    def __post_init__(self) -> None:
        require_samples(self.num_samples)
        if min(self.prior_scale, self.init_scale) <= 0.0:
            raise ValueError(f"prior_scale={self.prior_scale} and init_scale={self.init_scale} must be positive.")

    @property
    def trains(self) -> frozenset[str]:
        """The guide and the posterior of the weights, in the place of the model."""
        return frozenset({"weights", "guide"})

    def start(self, pair: Pair, data: Rows) -> nn.Module:
        """Put q(theta) around the model's parameters."""
        require_paths(pair, "FullVB")
        return _Memory(_Weights(pair.model, self.init_scale))

    @staticmethod
    def posterior(memory: nn.Module) -> dict[str, Normal]:
        """The posterior q(theta) of a memory: parameter name to its normal."""
        return cast(_Memory, memory).weights.normals()

    def __call__(self, pair: Pair, batch: Batch, memory: nn.Module) -> Iterator[Phase]:
        """Yield the one phase, then leave the means in the model."""
        normals = self.posterior(memory)
        bound = torch.stack([self._bound(pair, batch, normals) for _ in range(self.num_samples)]).mean()
        divergence = torch.stack([self._divergence(normal) for normal in normals.values()]).sum()
        loss = divergence / batch.size - bound
        yield Phase(
            {"weights": loss, "guide": loss},
            {"bound": -loss.detach(), "data_bound": bound.detach(), "weight_divergence": divergence.detach()},
        )
        with torch.no_grad():
            for name, normal in normals.items():
                pair.model.get_parameter(name).copy_(normal.loc)

    def _divergence(self, normal: Normal) -> Tensor:
        zero = torch.zeros_like(normal.loc)
        return kl_divergence(normal, Normal(zero, zero + self.prior_scale, validate_args=False)).sum()

    @staticmethod
    def _bound(pair: Pair, batch: Batch, normals: dict[str, Normal]) -> Tensor:
        theta = {f"pair.model.{name}": normal.rsample() for name, normal in normals.items()}
        cloud: Cloud = functional_call(_Drawn(pair), theta, (batch.data,))
        return cloud.log_weight.mean()
