r"""8-bit pixels: p(x|z) = prod_i S((x_i + w - m_i)/s_i) - S((x_i - w - m_i)/s_i), S logistic."""

from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.utils import broadcast_all
from torch.nn.functional import logsigmoid

from ..announced import Announced
from .constraints import Grid
from .layout import split_parameters
from .positive import check_floor, positive

__all__ = ["DiscretizedLogistic", "LogisticOnGrid", "check_levels"]

_MEAN_CHUNK = 16


class LogisticOnGrid(dist.TorchDistribution):
    r"""A logistic law rounded to the grid 0, 1/(levels - 1), ..., 1, its tails put on the two ends.

    .. math:: \sigma(b) - \sigma(a) = \sigma(b)\,\sigma(-a)\,(1 - e^{a - b})

    is how an interior probability is computed: each factor's logarithm is stable, however far the
    location is from the value. At 0 only the first factor stays, at 1 only the second.

    Args:
        loc: location m, any shape.
        scale: scale s > 0, broadcasts against ``loc``.
        levels: number of grid points.
    """

    arg_constraints = {"loc": constraints.real, "scale": constraints.positive}

    def __init__(self, loc: Tensor, scale: Tensor, levels: int, validate_args: bool | None = None) -> None:
        self.loc, self.scale = broadcast_all(loc, scale)
        self.levels = levels
        super().__init__(self.loc.shape, validate_args=validate_args)

    @constraints.dependent_property(is_discrete=True, event_dim=0)
    def support(self) -> constraints.Constraint:
        """The grid."""
        return Grid(self.levels)

    def expand(
        self,
        batch_shape: torch.Size | list[int] | tuple[int, ...],
        _instance: "LogisticOnGrid | None" = None,
    ) -> "LogisticOnGrid":
        """Return the same law with its batch expanded to ``batch_shape``."""
        new: Any = self._get_checked_instance(LogisticOnGrid, _instance)
        shape = torch.Size(batch_shape)
        new.loc, new.scale = self.loc.expand(shape), self.scale.expand(shape)
        new.levels = self.levels
        super(LogisticOnGrid, new).__init__(shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-probability of ``value``, in nats."""
        if self._validate_args:
            self._validate_sample(value)
        top = self.levels - 1
        level = (value * top).round()
        below = (level - 0.5) / top - self.loc
        above = (level + 0.5) / top - self.loc
        log_width = torch.log(-torch.expm1(-1 / (top * self.scale)))
        log_below = logsigmoid(-below / self.scale) + log_width * (level < top)
        log_above = logsigmoid(above / self.scale)
        return torch.where(level > 0, log_below, 0) + torch.where(level < top, log_above, 0)

    def sample(self, sample_shape: torch.Size | list[int] | tuple[int, ...] = ()) -> Tensor:
        """Return draws ``[*sample_shape, *batch_shape]``, each a point of the grid."""
        with torch.no_grad():
            uniform = self.loc.new_empty(self._extended_shape(torch.Size(sample_shape))).uniform_()
            value = self.loc + self.scale * uniform.logit()
            top = self.levels - 1
            return (value * top).round().clamp(0, top) / top

    @property
    def mean(self) -> Tensor:
        """The mean, summed over the grid: sum_k P(x >= k / (levels - 1)) / (levels - 1)."""
        top = self.levels - 1
        edges = (torch.arange(top, dtype=self.loc.dtype, device=self.loc.device) + 0.5) / top
        total = torch.zeros_like(self.loc)
        # In chunks, because a batch of images times all levels at once would fill the memory.
        for chunk in edges.split(_MEAN_CHUNK):
            exceeds = (self.loc.unsqueeze(-1) - chunk) / self.scale.unsqueeze(-1)
            total = total + exceeds.sigmoid().sum(-1)
        return total / top


def check_levels(owner: str, levels: int) -> None:
    """Check a number of grey levels.

    Raises:
        ValueError: if there are fewer than two.
    """
    if levels < 2:
        raise ValueError(f"{owner}: expected levels >= 2, got {levels}.")


class DiscretizedLogistic(Announced):
    r"""Grey levels as a logistic law rounded to the grid of the pixels.

    .. math:: p(x|z) = \prod_i \sigma\Bigl(\frac{x_i + w - m_i}{s_i}\Bigr)
        - \sigma\Bigl(\frac{x_i - w - m_i}{s_i}\Bigr), \qquad w = \frac{1}{2(\text{levels} - 1)}

    The first term is 1 at x = 1, the second 0 at x = 0, so that the probabilities sum to one.
    The decoder gives ``[location | raw scale]`` ``[..., 2 P]``: ``num_params`` is 2, and the scale
    is ``min_scale + softplus(raw)``. Data are levels k / (levels - 1), as 8-bit pixels divided by
    255; the support is that grid and rejects anything else, pixels divided by 256 included.
    The mean is summed over the grid.

    Args:
        levels: number of grey levels.
        min_scale: the smallest scale.

    Raises:
        ValueError: if there are fewer than two levels or the floor is negative.

    References:
        Improved Variational Inference with Inverse Autoregressive Flow, Kingma et al., 2016,
        arXiv 1606.04934, appendix C.
    """

    name = "discretized-logistic"
    num_params = 2

    def __init__(self, levels: int = 256, *, min_scale: float = 1e-4) -> None:
        super().__init__()
        check_levels("DiscretizedLogistic", levels)
        check_floor("DiscretizedLogistic", "min_scale", min_scale)
        self.levels = levels
        self.min_scale = min_scale

    def forward(self, h: Tensor) -> dist.Distribution:
        """Return p(x|z) for ``h`` ``[..., 2 * P]``: batch ``[...]``, event ``[P]``."""
        loc, raw = split_parameters(h, self.num_params, "DiscretizedLogistic")
        return LogisticOnGrid(loc, positive(raw, self.min_scale), self.levels).to_event(1)
