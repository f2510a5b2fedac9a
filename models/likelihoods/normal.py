r"""Gaussian pixels: log p(x|z) = sum_i log N(x_i | mu_i, s_i^2), s fixed, learned or per pixel."""

import math
from typing import Literal

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ..announced import Announced
from .layout import split_parameters
from .location_scale import check_location_scale, link_mean

__all__ = ["LogScaleNormal", "Normal"]


class LogScaleNormal(dist.Normal):
    """Pyro's Normal evaluated by its log-scale: a squared scale could overflow or vanish.

    Args:
        loc: means, whose shape is the batch shape.
        log_scale: logarithms of the standard deviations, which broadcast against ``loc``.
    """

    def __init__(self, loc: Tensor, log_scale: Tensor, validate_args: bool | None = None) -> None:
        super().__init__(loc, log_scale.exp(), validate_args=validate_args)
        self.log_scale = log_scale

    def expand(
        self,
        batch_shape: torch.Size | list[int] | tuple[int, ...],
        _instance: "LogScaleNormal | None" = None,
    ) -> "LogScaleNormal":
        """Return the same law with its batch expanded to ``batch_shape``."""
        new = self._get_checked_instance(LogScaleNormal, _instance)
        new.log_scale = self.log_scale
        return super().expand(batch_shape, _instance=new)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-density at ``value``, in nats."""
        if self._validate_args:
            self._validate_sample(value)
        standardised = (value - self.loc) * torch.exp(-self.log_scale)
        return -0.5 * standardised.square() - (self.log_scale + 0.5 * math.log(2 * math.pi))


class Normal(Announced):
    r"""Gaussian pixels with a fixed, a learned, or a per-pixel standard deviation.

    .. math:: \log p(x|z) = \sum_i -\tfrac12 \log 2\pi s_i^2 - (x_i - \mu_i)^2 / 2 s_i^2

    Layout of the decoder's output ``h``, and ``num_params``:

    - ``scale`` a number: ``h`` is the mean ``[..., P]``, num_params 1: the squared error plus
      a constant;
    - ``scale="learned"``: the same, and one scale for all pixels, a parameter of this module
      (``log_scale``, starting at zero);
    - ``scale="per-pixel"``: ``h`` is ``[mean | log variance]`` ``[..., 2 P]``, num_params 2.

    The support is the real line. Scales have no floor unless ``min_scale`` is given. Without one
    the likelihood is unbounded: a pixel that the decoder reproduces exactly earns any density
    (Mattei & Frellsen, 2018), and a log-variance below about -200 is an error in float32, since
    the scale is then zero. With one, a learned or per-pixel scale becomes
    ``min_scale + exp(log scale)``.

    Args:
        scale: a positive number, "learned", or "per-pixel".
        mean: "identity", or "sigmoid" for means in (0, 1) as in the paper's Frey Face decoder.
        min_scale: what is added to a learned or per-pixel scale, 0 for nothing.

    Raises:
        ValueError: if an argument is none of these.

    Example:
        >>> import torch
        >>> Normal(scale="per-pixel", mean="sigmoid")(torch.zeros(10, 2 * 560)).mean.shape
        torch.Size([10, 560])

    References:
        Auto-Encoding Variational Bayes, Kingma & Welling, 2014, arXiv 1312.6114, equation 12
        and section 5.
        Simple and Effective VAE Training with Calibrated Decoders, Rybkin, Daniilidis & Levine,
        2021, arXiv 2006.13202 (one learned scale).
        Leveraging the Exact Likelihood of Deep Latent Variable Models, Mattei & Frellsen, 2018,
        arXiv 1802.04826 (unboundedness).
    """

    name = "normal"

    def __init__(
        self,
        scale: float | Literal["learned", "per-pixel"] = 1.0,
        mean: Literal["identity", "sigmoid"] = "identity",
        *,
        min_scale: float = 0.0,
    ) -> None:
        super().__init__()
        check_location_scale("Normal", scale, mean, min_scale)
        self.scale = scale
        self.mean = mean
        self.min_scale = min_scale
        self.num_params = 2 if scale == "per-pixel" else 1
        if scale == "learned":
            self.log_scale = nn.Parameter(torch.zeros(()))

    def forward(self, h: Tensor) -> dist.Distribution:
        """Return p(x|z) for ``h`` ``[..., num_params * P]``: batch ``[...]``, event ``[P]``."""
        loc, *log_variance = split_parameters(h, self.num_params, "Normal")
        log_scale = self._log_scale(loc, log_variance)
        return LogScaleNormal(link_mean(loc, self.mean), log_scale).to_event(1)

    def _log_scale(self, loc: Tensor, log_variance: list[Tensor]) -> Tensor:
        if not isinstance(self.scale, str):
            return loc.new_full((), math.log(self.scale))
        log_scale = 0.5 * log_variance[0] if log_variance else self.log_scale
        if self.min_scale == 0:
            return log_scale
        return torch.logaddexp(log_scale, log_scale.new_full((), math.log(self.min_scale)))
