r"""Student-t pixels: log p(x|z) = sum_i c(nu) - log s_i - (nu + 1)/2 log(1 + ((x_i - m_i)/s_i)^2 / nu)."""

from typing import Literal

import pyro.distributions as dist
from torch import Tensor

from ..announced import Announced
from .layout import split_parameters
from .location_scale import Scale, check_location_scale, link_mean

__all__ = ["StudentT"]


class StudentT(Announced):
    r"""Student-t pixels, whose heavy tails make the fit robust to outliers.

    .. math:: \log p(x|z) = \sum_i \log\frac{\Gamma(\frac{\nu+1}{2})}{\Gamma(\frac\nu2)\sqrt{\nu\pi}s_i}
        - \tfrac{\nu+1}{2}\log\Bigl(1 + \frac{(x_i-m_i)^2}{\nu s_i^2}\Bigr)

    With ``scale="per-pixel"`` the decoder gives ``[location | raw scale]`` ``[..., 2 P]`` and
    ``num_params`` is 2; otherwise the location ``[..., P]`` and 1. A learned or per-pixel scale is
    ``min_scale + softplus(raw)``. The support is the real line; the location is the mean if
    nu > 1, and there is no mean otherwise (``mean`` is then nan). The degrees of freedom are fixed;
    the reference lets its decoder give them.

    Args:
        scale: a positive number s, "learned" (one for all pixels), or "per-pixel".
        mean: "identity", or "sigmoid" for locations in (0, 1).
        df: degrees of freedom nu > 0; the law tends to the normal as they grow.
        min_scale: the floor of a learned or per-pixel scale; it keeps the likelihood bounded.

    Raises:
        ValueError: if an argument is none of these.

    References:
        Student-t Variational Autoencoder for Robust Density Estimation, Takahashi, Iwata,
        Yamanaka, Yamada & Yagi, 2018, IJCAI.
    """

    name = "student-t"

    def __init__(
        self,
        scale: float | Literal["learned", "per-pixel"] = 1.0,
        mean: Literal["identity", "sigmoid"] = "identity",
        *,
        df: float = 4.0,
        min_scale: float = 1e-4,
    ) -> None:
        super().__init__()
        check_location_scale("StudentT", scale, mean, min_scale)
        if not df > 0:
            raise ValueError(f"StudentT: expected df > 0, got {df}.")
        self.scale = scale
        self.mean = mean
        self.df = df
        self.min_scale = min_scale
        self.spread = Scale(scale, min_scale)
        self.num_params = 1 + self.spread.num_params

    def forward(self, h: Tensor) -> dist.Distribution:
        """Return p(x|z) for ``h`` ``[..., num_params * P]``: batch ``[...]``, event ``[P]``."""
        loc, *raw = split_parameters(h, self.num_params, "StudentT")
        scale = self.spread(loc, tuple(raw))
        df = loc.new_full((), self.df)
        return dist.StudentT(df, link_mean(loc, self.mean), scale).to_event(1)
