r"""Normalizing flows from Zuko as Pyro distributions with a truthful support.

z = f(e),  e ~ N(0, I),    log p(z) = log N(f^{-1}(z); 0, I) + log |det df^{-1}/dz|.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pyro
import torch
from pyro.contrib.zuko import ZukoToPyro
from pyro.distributions import constraints
from torch import Tensor, nn

from .shapes import EMPTY, Shape

__all__ = ["FLOW_FAMILIES", "FlowDistribution", "build_flow"]

FLOW_FAMILIES = ("maf", "iaf", "nsf", "nsf-coupling", "realnvp")


class FlowDistribution(ZukoToPyro):
    r"""A Zuko flow as a Pyro distribution over real vectors.

    Its own draws are scored from the pass that made them; any other point is scored too, at the
    cost of the flow's slower direction.

    Args:
        dist: A `zuko.distributions.NormalizingFlow`.
    """

    dist: Any
    arg_constraints: dict[str, Any] = {}
    support = constraints.real_vector

    @property
    def event_shape(self) -> torch.Size:
        """The shape `[D]` of one draw; Zuko would count a conditioned layer's batch among it."""
        shape: torch.Size = self.dist.base.event_shape
        return shape

    def rsample(self, sample_shape: Shape = EMPTY) -> Tensor:
        """Draw z, `sample_shape + batch + [D]`, differentiable."""
        z: Tensor = self(torch.Size(sample_shape))
        return z

    @torch.no_grad()
    def sample(self, sample_shape: Shape = EMPTY) -> Tensor:
        """Draw z, `sample_shape + batch + [D]`, without gradient."""
        z: Tensor = self.dist.sample(torch.Size(sample_shape))
        return z

    def expand(self, batch_shape: Shape, _instance: object = None) -> FlowDistribution:
        """Return the distribution with a larger batch shape."""
        return FlowDistribution(self.dist.expand(torch.Size(batch_shape)))


def build_flow(
    family: str, features: int, *, context: int = 0, transforms: int = 2, hidden: Sequence[int]
) -> nn.Module:
    """Return a Zuko flow: a module from a context to a normalizing flow on R^features.

    Args:
        family: "maf" (affine autoregressive, scores fast and samples in D passes), "iaf" (its
            inverse, samples fast), "nsf" (autoregressive rational-quadratic splines),
            "nsf-coupling" (splines by halves) or "realnvp" (affine by halves); the last two are
            fast both ways.
        features: Number of dimensions D.
        context: Number of context features, 0 for none.
        transforms: Number of layers.
        hidden: Widths of each layer's hidden units.

    Raises:
        ValueError: If the family is unknown, or is by halves and D is 1.
    """
    builders = _builders()
    if family not in builders:
        raise ValueError(f"family: expected one of {', '.join(FLOW_FAMILIES)}; got {family!r}. Choose one of them.")
    if features < 2 and family in ("nsf-coupling", "realnvp"):
        raise ValueError(
            f"family: {family!r} transforms one half of the dimensions given the other, and expected "
            f"at least 2; got latent_dim = {features}. Use 'maf' or 'nsf'."
        )
    return builders[family](features=features, context=context, transforms=transforms, hidden_features=tuple(hidden))


def zuko() -> Any:
    """Return Zuko, imported without its switching off of torch's argument checks for everyone."""
    validate = pyro.settings.get("validate_distributions_torch")
    import zuko as module

    pyro.settings.set(validate_distributions_torch=validate)
    return module


def _builders() -> dict[str, Callable[..., nn.Module]]:
    flows = zuko().flows
    return {
        "maf": flows.MAF,
        "iaf": _inverse_autoregressive,
        "nsf": flows.NSF,
        "nsf-coupling": lambda **options: flows.NSF(passes=2, **options),
        "realnvp": flows.NICE,
    }


def _inverse_autoregressive(**options: Any) -> nn.Module:
    """Return MAF with every layer inverted: Kingma et al. (2016), https://arxiv.org/abs/1606.04934."""
    flow = zuko().flows.MAF(**options)
    layers = [layer.inv for layer in flow.transform.transforms]
    return zuko().flows.Flow(layers, flow.base)
