r"""8-bit pixels, several modes each: p(x|z) = prod_i sum_c w_ic DiscretizedLogistic(x_i | m_ic, s_ic)."""

import pyro.distributions as dist
import torch
from torch import Tensor

from ..announced import Announced
from .discretized_logistic import LogisticOnGrid, check_levels
from .layout import split_parameters
from .positive import check_floor, positive

__all__ = ["DiscretizedLogisticMixture"]


class DiscretizedLogisticMixture(Announced):
    r"""Grey levels under a mixture of rounded logistic laws, one mixture a pixel.

    .. math:: p(x|z) = \prod_i \sum_c w_{ic} \Bigl[\sigma\Bigl(\frac{x_i + w - m_{ic}}{s_{ic}}\Bigr)
        - \sigma\Bigl(\frac{x_i - w - m_{ic}}{s_{ic}}\Bigr)\Bigr]

    The decoder gives, for C components, C chunks of weights' logits, C of locations, C of raw
    scales, ``[..., 3 C P]``: ``num_params`` is 3 C. The weights are the logits' softmax, a scale is
    ``min_scale + softplus(raw)``. Data, support and mean are ``DiscretizedLogistic``'s. Colour
    channels are independent given z, unlike the reference's.

    Args:
        num_components: number of components C.
        levels: number of grey levels.
        min_scale: the smallest scale.

    Raises:
        ValueError: if there is no component, fewer than two levels, or the floor is negative.

    References:
        PixelCNN++: Improving the PixelCNN with Discretized Logistic Mixture Likelihood and Other
        Modifications, Salimans, Karpathy, Chen & Kingma, 2017, arXiv 1701.05517, equations 1, 2.
    """

    name = "discretized-logistic-mixture"

    def __init__(self, num_components: int = 5, levels: int = 256, *, min_scale: float = 1e-4) -> None:
        super().__init__()
        if num_components < 1:
            raise ValueError(f"DiscretizedLogisticMixture: expected num_components >= 1, got {num_components}.")
        check_levels("DiscretizedLogisticMixture", levels)
        check_floor("DiscretizedLogisticMixture", "min_scale", min_scale)
        self.num_components = num_components
        self.levels = levels
        self.min_scale = min_scale
        self.num_params = 3 * num_components

    def forward(self, h: Tensor) -> dist.Distribution:
        """Return p(x|z) for ``h`` ``[..., 3 C * P]``: batch ``[...]``, event ``[P]``."""
        chunks = split_parameters(h, self.num_params, "DiscretizedLogisticMixture")
        parameters = torch.stack(chunks, -1)  # [..., P, 3 C]
        logits, loc, raw = parameters.chunk(3, -1)
        components = LogisticOnGrid(loc, positive(raw, self.min_scale), self.levels)
        weights = dist.Categorical(logits=logits)
        return dist.MixtureSameFamily(weights, components).to_event(1)
