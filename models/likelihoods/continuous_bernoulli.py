r"""Grey pixels in [0, 1]: log p(x|z) = sum_i h_i x_i - A(h_i), A(h) = log((exp(h) - 1) / h)."""

import pyro.distributions as dist
import torch
from torch import Tensor

from ..announced import Announced

__all__ = ["ContinuousBernoulli", "LogitContinuousBernoulli"]

# Below this logit the series around zero are exact to 1e-7, above it the closed forms are.
_SERIES = 0.5


class LogitContinuousBernoulli(dist.ContinuousBernoulli):
    """Pyro's continuous Bernoulli with every quantity computed from its logits.

    PyTorch's normaliser uses a probability clamped away from 0 and 1: in float32 its density does
    not integrate to one once a logit exceeds about 16, which decoders reach on black pixels.
    Turning the sign of the logit turns x into 1 - x, so the closed forms are written for -|logit|.

    Args:
        logits: any real numbers.
    """

    def __init__(self, logits: Tensor, validate_args: bool | None = None) -> None:
        super().__init__(logits=logits, validate_args=validate_args)

    def expand(
        self,
        batch_shape: torch.Size | list[int] | tuple[int, ...],
        _instance: "LogitContinuousBernoulli | None" = None,
    ) -> "LogitContinuousBernoulli":
        """Return the same law with its batch expanded to ``batch_shape``."""
        new = self._get_checked_instance(LogitContinuousBernoulli, _instance)
        return super().expand(batch_shape, _instance=new)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-density at ``value``, in nats."""
        if self._validate_args:
            self._validate_sample(value)
        near_zero, small, size = self._parts()
        log_sinhc = small**2 / 24 - small**4 / 2880 + small**6 / 181440
        log_mass = torch.log(-torch.expm1(-size) / size)
        return torch.where(near_zero, small * (value - 0.5) - log_sinhc, -size * self._reflect(value) - log_mass)

    @property
    def mean(self) -> Tensor:
        """The mean, the derivative of A at the logit."""
        near_zero, small, size = self._parts()
        series = 0.5 + small / 12 - small**3 / 720 + small**5 / 30240
        return torch.where(near_zero, series, self._reflect(1 / size - 1 / torch.expm1(size)))

    @property
    def variance(self) -> Tensor:
        """The variance, the second derivative of A at the logit."""
        near_zero, small, size = self._parts()
        series = 1 / 12 - small**2 / 240 + small**4 / 6048 - small**6 / 172800
        tail = torch.exp(-size)
        return torch.where(near_zero, series, 1 / size**2 - tail / (1 - tail) ** 2)

    def cdf(self, value: Tensor) -> Tensor:
        """Return the probability of a number below ``value``."""
        size = self.logits.abs().clamp(min=1e-6)
        distance = self._reflect(value.clamp(0, 1))
        return self._reflect(torch.expm1(-size * distance) / torch.expm1(-size))

    def icdf(self, value: Tensor) -> Tensor:
        """Return the quantiles at the probabilities ``value``."""
        size = self.logits.abs().clamp(min=1e-6)
        level = self._reflect(value)
        return self._reflect(-torch.log1p(level * torch.expm1(-size)) / size).clamp(0, 1)

    def entropy(self) -> Tensor:
        """Return the differential entropy: -log p at the mean, since log p is linear in x."""
        return -self.log_prob(self.mean)

    def _reflect(self, value: Tensor) -> Tensor:
        return torch.where(self.logits > 0, 1 - value, value)

    def _parts(self) -> tuple[Tensor, Tensor, Tensor]:
        # Each branch of the later torch.where gets harmless numbers where the other one is taken,
        # because the gradient of the branch not taken is computed as well, and nan * 0 is nan.
        near_zero = self.logits.abs() < _SERIES
        small = torch.where(near_zero, self.logits, 0)
        size = torch.where(near_zero, _SERIES, self.logits.abs())
        return near_zero, small, size


class ContinuousBernoulli(Announced):
    r"""Grey pixels in [0, 1] under the cross entropy, normalised to a density.

    .. math:: \log p(x|z) = \sum_i h_i x_i - \log\frac{e^{h_i} - 1}{h_i}

    The decoder gives logits ``h`` ``[..., P]``: ``num_params`` is 1. The support is the unit
    interval. The mean is 1/(1 - exp(-h)) - 1/h, not the logistic function of h.

    Example:
        >>> import torch
        >>> ContinuousBernoulli()(torch.zeros(2, 784)).mean[0, 0]
        tensor(0.5000)

    References:
        The continuous Bernoulli: fixing a pervasive error in variational autoencoders,
        Loaiza-Ganem & Cunningham, 2019, arXiv 1907.06845.
    """

    name = "continuous-bernoulli"
    num_params = 1

    # Without it the signature would be nn.Module's (*args, **kwargs), which promises arguments.
    def __init__(self) -> None:
        super().__init__()

    def forward(self, h: Tensor) -> dist.Distribution:
        """Return p(x|z) for logits ``h`` ``[..., P]``: batch ``[...]``, event ``[P]``."""
        return LogitContinuousBernoulli(h).to_event(1)
