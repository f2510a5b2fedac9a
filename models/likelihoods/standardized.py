r"""A likelihood of standardised numbers as one of the numbers themselves: y = (x - m) / s, p(x|z) = p_y(y|z) / s."""

from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import AffineTransform, constraints

from ..announced import Announced

__all__ = ["Rescaled", "Standardized"]


class Rescaled(dist.TransformedDistribution):
    """The law of ``shift + unit * y`` where y has the law ``base``, entry by entry.

    Args:
        base: The law of y, on the real line.
        shift: What is added, broadcasts against ``base``.
        unit: What y is counted in, positive, likewise.
    """

    def __init__(self, base: Any, shift: Tensor, unit: Tensor, validate_args: bool | None = None) -> None:
        self.shift, self.unit = shift, unit
        super().__init__(base, [AffineTransform(shift, unit)], validate_args=validate_args)

    def expand(
        self, batch_shape: torch.Size | list[int] | tuple[int, ...], _instance: "Rescaled | None" = None
    ) -> "Rescaled":
        """Return the same law with its batch expanded to ``batch_shape``."""
        new: Any = self._get_checked_instance(Rescaled, _instance)
        new.shift, new.unit = self.shift, self.unit
        expanded: Rescaled = super().expand(torch.Size(batch_shape), _instance=new)
        return expanded

    @property
    def mean(self) -> Tensor:
        """The mean, m + s E[y]."""
        return self.shift + self.unit * self.base_dist.mean

    @property
    def variance(self) -> Tensor:
        """The variance, s^2 Var[y]."""
        return self.unit.square() * self.base_dist.variance


class Standardized(Announced):
    r"""A likelihood whose decoder works in standard units, while data and densities stay in the data's own.

    .. math:: \log p(x|z) = \sum_i \log p_y\bigl((x_i - m_i) / s_i \,\big|\, z\bigr) - \log s_i

    So a log-density is one of the original columns, and comparable whether or not they were standardised; draws and
    means are in their units as well. Columns of unequal scale then weigh alike in a network's first steps. Give the
    encoder the same ``loc`` and ``scale`` by :class:`aevb.models.networks.Standardized`.

    Args:
        likelihood: A likelihood on the real line that factorises over the data dimension (normal, Laplace, Student-t).
        loc: The means m of the columns ``[P]``.
        scale: Their standard deviations s ``[P]``.

    Raises:
        ValueError: If a scale is not positive, the likelihood is not one on the real line, entry by entry, or the
            decoder has other columns.

    Example:
        >>> from aevb.models.likelihoods import Normal
        >>> Standardized(Normal(0.5), loc=[10.0, -3.0], scale=[100.0, 0.1])(torch.zeros(2)).mean
        tensor([10., -3.])
    """

    shift: Tensor
    unit: Tensor

    def __init__(self, likelihood: nn.Module, loc: Sequence[float], scale: Sequence[float]) -> None:
        super().__init__()
        if len(loc) != len(scale) or not min(scale) > 0:
            raise ValueError(
                f"Standardized: expected as many positive scales as means, got {len(loc)} means and {len(scale)} "
                f"scales, the smallest {min(scale):g}; drop columns that are constant."
            )
        self.likelihood = likelihood
        self.loc, self.scale = list(loc), list(scale)
        self.num_params = int(getattr(likelihood, "num_params", 1))
        self.register_buffer("shift", torch.tensor(self.loc))
        self.register_buffer("unit", torch.tensor(self.scale))
        with torch.no_grad():
            self(torch.zeros(self.num_params * len(self.loc)))

    def forward(self, h: Tensor) -> dist.Distribution:
        """Return p(x|z) for ``h`` ``[..., num_params * P]``: batch ``[...]``, event ``[P]``."""
        p_y = self.likelihood(h)
        if not isinstance(p_y, dist.Independent) or p_y.base_dist.support is not constraints.real:
            raise ValueError(
                f"Standardized: expected a likelihood on the real line, entry by entry, got "
                f"{type(self.likelihood).__name__}; take Normal, Laplace or StudentT, or leave the data as they are."
            )
        if p_y.event_shape[-1] != len(self.loc):
            raise ValueError(
                f"Standardized: expected {self.num_params} * {len(self.loc)} decoder outputs, for the columns it has "
                f"means and scales of, got {h.shape[-1]}."
            )
        return Rescaled(p_y.base_dist, self.shift, self.unit).to_event(1)
