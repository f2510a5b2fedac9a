r"""The normalizing-flow guide: a diagonal normal bent by an invertible network.

z = mu(x) + s(x) T(e; h(x)),    e ~ N(0, I).
"""

from collections.abc import Sequence

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import AffineTransform, Transform

from ..models.distributions import FlowDistribution, build_flow
from ..models.distributions.flow import zuko
from ..models.distributions.planar import ConditionalPlanar
from .amortized import AmortizedGuide, bounded_exp, linear_head, through

__all__ = ["Flow"]


class Flow(AmortizedGuide):
    r"""A normalizing flow conditioned on x, z = mu(x) + s(x) T(e; h(x)), e ~ N(0, I).

    Every family draws, and scores its own draws, in one pass, except "maf" and "nsf", which take D.
    Every family can score any z: "iaf" in D passes, "planar" by bisection, the others in one.

    Args:
        latent_dim: Number of latent dimensions D.
        encoder: Network from the data to features; its `out_features` is their number.
        family: "planar", "iaf" (affine inverse autoregressive), "nsf-coupling" (neural splines by
            halves), "realnvp" (affine by halves), "nsf" or "maf" (autoregressive).
        num_transforms: Number of layers of T.
        hidden_features: Widths of each layer's hidden units; "planar" has none.

    Raises:
        ValueError: If the family is unknown, is by halves and D is 1, or the encoder does not tell
            its `out_features`.

    References:
        Variational Inference with Normalizing Flows (Rezende & Mohamed, 2015), eqs. 7 and 10.
        https://arxiv.org/abs/1505.05770
        Improving Variational Inference with Inverse Autoregressive Flow (Kingma et al., 2016),
        section 3. https://arxiv.org/abs/1606.04934
        Neural Spline Flows (Durkan et al., 2019). https://arxiv.org/abs/1906.04032
    """

    name = "flow"
    support = "real"

    def __init__(
        self,
        latent_dim: int,
        encoder: nn.Module,
        family: str = "iaf",
        num_transforms: int = 2,
        hidden_features: Sequence[int] = (64, 64),
    ) -> None:
        super().__init__()
        context = getattr(encoder, "out_features", None)
        if context is None:
            raise ValueError(
                "encoder: expected a network with the attribute out_features, which sizes the "
                f"flow's layers; got {type(encoder).__name__}. Set encoder.out_features."
            )
        self.latent_dim = latent_dim
        self.encoder = encoder
        self.family = family
        self.num_transforms = num_transforms
        self.hidden_features = list(hidden_features)
        self.mean = linear_head(encoder, latent_dim)
        self.log_scale = linear_head(encoder, latent_dim)
        self.flow: nn.Module
        if family == "planar":
            layers = [ConditionalPlanar(latent_dim, int(context)) for _ in range(num_transforms)]
            self.flow = nn.ModuleList(layers)
        else:
            self.flow = build_flow(
                family, latent_dim, context=int(context), transforms=num_transforms, hidden=hidden_features
            )

    def posterior(self, x: Tensor) -> dist.TorchDistribution:
        """Return q(z|x), batch `x.shape[:-1]`, event `[D]`."""
        features = self.encoder(x)
        mean, log_scale = through(features, self.mean, self.log_scale)
        scale = bounded_exp(log_scale)
        to_noise = [AffineTransform(mean, scale, event_dim=1).inv, *self._layers(features)]
        noise = dist.Normal(torch.zeros_like(mean), torch.ones_like(scale)).to_event(1)
        transform = zuko().transforms.ComposedTransform(*to_noise)
        return FlowDistribution(zuko().distributions.NormalizingFlow(transform, noise))

    def _layers(self, features: Tensor) -> list[Transform]:
        """Return the layers from T(e) back to e, the direction in which Zuko composes."""
        if isinstance(self.flow, nn.ModuleList):
            return [layer(features).inv for layer in reversed(self.flow)]
        return [self.flow.get_submodule("transform")(features)]
