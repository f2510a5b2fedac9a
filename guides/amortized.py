r"""The amortized guide: one network infers the posterior of every datapoint, q(z_n | x_n)."""

from abc import ABC, abstractmethod

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn import functional

from ..models.announced import Announced

__all__ = ["AmortizedGuide", "bounded_exp", "linear_head", "through"]

_LOG_BOUND = 15.0


class AmortizedGuide(Announced, ABC):
    r"""Base of the guides that name a posterior family: write `posterior`, and it is a program.

    The program samples the site "z" from `posterior(x)` inside the plate "data" at dim -1.

    References:
        Auto-Encoding Variational Bayes (Kingma & Welling, 2014), section 2.3.
        https://arxiv.org/abs/1312.6114
    """

    @abstractmethod
    def posterior(self, x: Tensor) -> dist.TorchDistribution:
        """Return q(z|x), batch shape the leading shape of x, event shape `[D]`."""

    def forward(self, x: Tensor) -> Tensor:
        """Run the program on data `[batch, P]`; return the latents `[..., batch, D]`."""
        with pyro.plate("data", len(x), dim=-1):
            z: Tensor = pyro.sample("z", self.posterior(x))
        return z


def linear_head(encoder: nn.Module, out_features: int, bias: bool = True) -> nn.Linear:
    """Return a linear layer on the encoder's features.

    An encoder that does not tell its width in `out_features` gets a layer that finds it out on
    its first call.
    """
    in_features = getattr(encoder, "out_features", None)
    if in_features is None:
        return nn.LazyLinear(out_features, bias=bias)
    return nn.Linear(int(in_features), out_features, bias=bias)


def through(features: Tensor, *heads: nn.Module) -> tuple[Tensor, ...]:
    """Return what each head makes of the features, by one product where all are linear: one is faster than several."""
    linear = [head for head in heads if type(head) is nn.Linear and head.bias is not None]
    if len(linear) < len(heads):  # a lazy layer becomes a linear one by its first call
        return tuple(head(features) for head in heads)
    weight, bias = torch.cat([head.weight for head in linear]), torch.cat([head.bias for head in linear])
    return functional.linear(features, weight, bias).split([head.out_features for head in linear], -1)


def bounded_exp(log_scale: Tensor) -> Tensor:
    """Return exp(log_scale), held within e^-15 and e^15 so that no input overflows a float32."""
    return log_scale.clamp(-_LOG_BOUND, _LOG_BOUND).exp()
