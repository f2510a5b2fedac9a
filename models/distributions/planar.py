r"""Planar flow layers conditioned on features, with an inverse.

    f(z) = z + u tanh(<w, z> + b),    log |det df/dz| = log(1 + <w, u> tanh'(<w, z> + b)).

The projection a = <w, z> solves the scalar equation <w, f(z)> = a + <w, u> tanh(a + b), whose right
side increases in a as <w, u> > -1: the layer is inverted by bisection, so it scores any point and
not only its own draws.
"""

import torch
from torch import Tensor, nn
from torch.distributions import Transform, constraints

__all__ = ["ConditionalPlanar", "PlanarTransform"]

_MARGIN = 1e-4
_NUM_BISECTIONS = 50


class PlanarTransform(Transform):
    r"""The layer f(z) = z + u tanh(<w, z> + b).

    Args:
        direction: u, `[..., D]`; it is moved along w as far as <w, u> > -1 requires.
        weight: w, `[..., D]`.
        bias: b, `[..., 1]`.

    References:
        Variational Inference with Normalizing Flows (Rezende & Mohamed, 2015), eqs. 10-12 and
        appendix A.1. https://arxiv.org/abs/1505.05770
    """

    domain = constraints.real_vector
    codomain = constraints.real_vector
    bijective = True

    def __init__(self, direction: Tensor, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        product = (weight * direction).sum(-1, keepdim=True)
        shift = nn.functional.softplus(product) - 1 + _MARGIN - product
        norm = weight.square().sum(-1, keepdim=True).clamp(min=1e-12)
        self.direction = direction + shift * weight / norm
        self.weight = weight
        self.bias = bias
        self.product = (weight * self.direction).sum(-1, keepdim=True)

    def _call(self, x: Tensor) -> Tensor:
        projection = (self.weight * x).sum(-1, keepdim=True)
        return x + self.direction * torch.tanh(projection + self.bias)

    def _inverse(self, y: Tensor) -> Tensor:
        projection = self._solve((self.weight * y).sum(-1, keepdim=True))
        return y - self.direction * torch.tanh(projection + self.bias)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """Return log |det df/dz| at z = x, `[...]`."""
        activation = torch.tanh((self.weight * x).sum(-1, keepdim=True) + self.bias)
        return torch.log1p(self.product * (1 - activation.square())).squeeze(-1)

    def _solve(self, target: Tensor) -> Tensor:
        """Solve a + <w, u> tanh(a + b) = target for a."""
        with torch.no_grad():
            reach = self.product.abs().expand_as(target)
            low, high = target - reach, target + reach
            for _ in range(_NUM_BISECTIONS):
                middle = (low + high) / 2
                above = middle + self.product * torch.tanh(middle + self.bias) > target
                low, high = torch.where(above, low, middle), torch.where(above, middle, high)
            root = (low + high) / 2
            slope = 1 + self.product * (1 - torch.tanh(root + self.bias).square())
        # One Newton step outside the search gives the implicit gradient.
        residual = root + self.product * torch.tanh(root + self.bias) - target
        return root - residual / slope


class ConditionalPlanar(nn.Module):
    r"""A planar layer whose u, w and b are linear in the features.

    Args:
        features: Number of latent dimensions D.
        context: Number of features.
    """

    def __init__(self, features: int, context: int) -> None:
        super().__init__()
        self.features = features
        self.context = context
        self.parameters_of = nn.Linear(context, 2 * features + 1)

    def forward(self, context: Tensor) -> PlanarTransform:
        """Return the layer for features `[..., context]`."""
        sizes = [self.features, self.features, 1]
        direction, weight, bias = self.parameters_of(context).split(sizes, -1)
        return PlanarTransform(direction, weight, bias)
