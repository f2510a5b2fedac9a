r"""Integer codes: log p(x|z) = sum_i log softmax(h_i)[x_i], x_i in {0, ..., C - 1}."""

import pyro.distributions as dist
import torch
from torch import Tensor

from ..announced import Announced
from .layout import split_parameters

__all__ = ["Categorical", "IntegerCategorical"]


class IntegerCategorical(dist.Categorical):
    """Pyro's Categorical with its codes as numbers: they have a mean, and draws are floating point."""

    @property
    def mean(self) -> Tensor:
        """The mean code, sum_c c p_c; meaningful if the codes are ordered, as grey levels are."""
        return (self.probs * self._codes()).sum(-1)

    @property
    def variance(self) -> Tensor:
        """The variance of the code."""
        return (self.probs * (self._codes() - self.mean.unsqueeze(-1)).square()).sum(-1)

    def sample(self, sample_shape: torch.Size | list[int] | tuple[int, ...] = ()) -> Tensor:
        """Return codes ``[*sample_shape, *batch_shape]`` in the type of the logits."""
        return super().sample(torch.Size(sample_shape)).to(self.logits.dtype)

    def _codes(self) -> Tensor:
        logits = self.logits
        return torch.arange(logits.shape[-1], dtype=logits.dtype, device=logits.device)


class Categorical(Announced):
    r"""Data coded by integers 0, ..., C - 1, each dimension with its own probabilities.

    .. math:: \log p(x|z) = \sum_i \log \frac{e^{h_{x_i, i}}}{\sum_c e^{h_{c, i}}}

    The decoder gives one chunk of logits a class, ``[class 0 | class 1 | ...]`` ``[..., C P]``:
    ``num_params`` is C. Data are codes ``[..., P]``, integer or floating point; the support is
    {0, ..., C - 1}. Draws are floating point, so that they can be encoded.

    Args:
        num_classes: the number of classes C.

    Raises:
        ValueError: if there are fewer than two classes.

    Example:
        >>> import torch
        >>> Categorical(num_classes=256)(torch.zeros(7, 256 * 64)).mean[0, 0]
        tensor(127.5000)

    References:
        Pixel Recurrent Neural Networks, van den Oord, Kalchbrenner & Kavukcuoglu, 2016,
        arXiv 1601.06759, section 2.3 (grey levels as classes).
    """

    name = "categorical"

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        if num_classes < 2:
            raise ValueError(f"Categorical: expected num_classes >= 2, got {num_classes}.")
        self.num_classes = num_classes
        self.num_params = num_classes

    def forward(self, h: Tensor) -> dist.Distribution:
        """Return p(x|z) for ``h`` ``[..., C * P]``: batch ``[...]``, event ``[P]``."""
        logits = torch.stack(split_parameters(h, self.num_params, "Categorical"), -1)
        return IntegerCategorical(logits=logits).to_event(1)
