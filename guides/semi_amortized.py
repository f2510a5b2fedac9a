r"""The semi-amortized guide: the encoder's answer, improved by a few steps for each datapoint.

    lambda_0 = encoder(x),    lambda_{k+1} = lambda_k + step F^-1 grad L(lambda_k; x),

with lambda = (mu, log s) of a diagonal normal, F its Fisher information, and L the bound of x.
"""

from typing import Protocol

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from .amortized import AmortizedGuide, bounded_exp, linear_head, through

__all__ = ["SemiAmortized"]


class _LogJoint(Protocol):
    def log_joint(self, z: Tensor, x: Tensor) -> Tensor:
        """Return log p(x, z), `[samples, batch]`."""


class SemiAmortized(AmortizedGuide):
    r"""A diagonal normal started by the encoder and refined by natural-gradient steps on the bound.

    Each step moves the mean by at most `step_size` standard deviations and the log-scale by at most
    `step_size`. The bound inside is over fixed antithetic noise, so that q(z|x) is a function of x:
    the same for every batch that x is in. Gradients reach the encoder as if the refinement were a
    constant shift (first order); the model's parameters get none from it. Each call costs
    `num_steps` gradients of the model at `num_noise` latents per datapoint.

    Args:
        latent_dim: Number of latent dimensions D.
        encoder: Network from the data to features; its `out_features` is their number.
        model: A model with the method `log_joint(z, x)`, as `LatentVariableModel` has. It is not
            registered here: its parameters stay the model's.
        num_steps: Number of refinement steps.
        step_size: Fraction of the natural gradient a step takes.
        num_noise: Number of noise vectors, an even number.

    Raises:
        ValueError: If `num_noise` is not even and positive, or the model has no `log_joint`.

    References:
        Semi-Amortized Variational Autoencoders (Kim et al., 2018), algorithm 1 (there with second
        order gradients). https://arxiv.org/abs/1802.02550
    """

    name = "semi-amortized"
    support = "real"
    noise: Tensor
    model: _LogJoint

    def __init__(
        self,
        latent_dim: int,
        encoder: nn.Module,
        model: _LogJoint,
        num_steps: int = 5,
        step_size: float = 0.5,
        num_noise: int = 8,
    ) -> None:
        super().__init__()
        if num_noise < 2 or num_noise % 2:
            raise ValueError(f"num_noise: expected an even number; got {num_noise}. Use 8.")
        if not hasattr(model, "log_joint"):
            raise ValueError(
                f"model: expected a method log_joint(z, x); got {type(model).__name__}. Use a LatentVariableModel."
            )
        self.latent_dim = latent_dim
        self.encoder = encoder
        # Past nn.Module's register: the model's parameters must not have two owners.
        object.__setattr__(self, "model", model)
        self.num_steps = num_steps
        self.step_size = step_size
        self.num_noise = num_noise
        half = torch.randn(num_noise // 2, latent_dim)
        self.register_buffer("noise", torch.cat([half, -half]))
        self.mean = linear_head(encoder, latent_dim)
        self.log_scale = linear_head(encoder, latent_dim)

    def posterior(self, x: Tensor) -> dist.TorchDistribution:
        """Return q(z|x), batch `x.shape[:-1]`, event `[D]`."""
        features = self.encoder(x)
        mean, log_scale = through(features, self.mean, self.log_scale)
        new_mean, new_log_scale = self.refine(mean.detach(), log_scale.detach(), x)
        mean = mean + (new_mean - mean).detach()
        log_scale = log_scale + (new_log_scale - log_scale).detach()
        return dist.Normal(mean, bounded_exp(log_scale)).to_event(1)

    def refine(self, mean: Tensor, log_scale: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean and log-scale `[..., batch, D]` after the refinement steps."""
        for _ in range(self.num_steps):
            slope_mean, slope_log_scale = self._bound_gradient(mean, log_scale, x)
            scale = bounded_exp(log_scale)
            mean = mean + self.step_size * scale * (scale * slope_mean).clamp(-1, 1)
            log_scale = log_scale + self.step_size * (slope_log_scale / 2).clamp(-1, 1)
        return mean, log_scale

    def _bound_gradient(self, mean: Tensor, log_scale: Tensor, x: Tensor) -> tuple[Tensor, ...]:
        noise = self.noise.reshape(self.num_noise, *[1] * (mean.dim() - 1), self.latent_dim)
        with torch.enable_grad():
            mean, log_scale = mean.requires_grad_(), log_scale.requires_grad_()
            z = mean + bounded_exp(log_scale) * noise
            bound = self.model.log_joint(z, x).mean(0).sum() + log_scale.sum()
            return torch.autograd.grad(bound, (mean, log_scale))
