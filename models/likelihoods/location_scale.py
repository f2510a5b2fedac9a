r"""The choices that location-scale likelihoods share: x = m(h) + s eps, s fixed, learned or per pixel."""

from typing import Literal

import torch
from torch import Tensor, nn

from ..announced import Announced
from .positive import check_floor, positive, softplus_inverse

__all__ = ["Scale", "check_location_scale", "link_mean"]


def link_mean(h: Tensor, mean: str) -> Tensor:
    """Map a decoder's output to a mean: unchanged for "identity", into (0, 1) for "sigmoid"."""
    return h.sigmoid() if mean == "sigmoid" else h


def check_location_scale(owner: str, scale: float | str, mean: str, min_scale: float) -> None:
    """Check the arguments of a location-scale likelihood.

    Raises:
        ValueError: if ``scale``, ``mean`` or ``min_scale`` is not one of the choices.
    """
    named = scale in ("learned", "per-pixel") if isinstance(scale, str) else scale > 0
    if not named:
        raise ValueError(f"{owner}: expected scale to be a positive number, 'learned' or 'per-pixel', got {scale!r}.")
    if mean not in ("identity", "sigmoid"):
        raise ValueError(f"{owner}: expected mean to be 'identity' or 'sigmoid', got {mean!r}.")
    check_floor(owner, "min_scale", min_scale)


class Scale(Announced):
    r"""A scale that is a given number, one learned number, or the softplus of a decoder output.

    .. math:: s = \text{scale} \quad\text{or}\quad s = \text{min\_scale} + \log(1 + e^{r})

    Args:
        scale: a positive number, "learned" (r is a parameter of this module, ``raw``, with s starting
            at ``1 + min_scale``) or "per-pixel" (r is a decoder output).
        min_scale: the floor of a scale that is not a given number.
    """

    def __init__(self, scale: float | Literal["learned", "per-pixel"], min_scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.min_scale = min_scale
        self.num_params = int(scale == "per-pixel")
        if scale == "learned":
            self.raw = nn.Parameter(torch.tensor(softplus_inverse(1.0)))

    def forward(self, loc: Tensor, outputs: tuple[Tensor, ...]) -> Tensor:
        """Return the scale, which broadcasts against ``loc``; ``outputs`` holds r if it is per pixel."""
        if not isinstance(self.scale, str):
            return loc.new_full((), self.scale)
        return positive(outputs[0] if outputs else self.raw, self.min_scale)
