"""A network that is shown its data in standard units, y = (x - m) / s."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

__all__ = ["Standardized"]


class Standardized(nn.Module):
    """An encoder behind a standardisation of the data columns; what stands beside them goes in as it is.

    Args:
        network: The encoder.
        loc: The means m of the first P columns.
        scale: Their standard deviations s.
        masked: The columns behind the data are the mask of what is there (as of a `MaskedNormal` guide), and what is
            not becomes 0, the mean.

    Raises:
        ValueError: If a scale is not positive.

    Example:
        >>> Standardized(nn.Identity(), loc=[10.0], scale=[5.0])(torch.tensor([20.0, 1.0]))
        tensor([2., 1.])
    """

    def __init__(
        self, network: nn.Module, loc: Sequence[float], scale: Sequence[float], *, masked: bool = False
    ) -> None:
        super().__init__()
        if len(loc) != len(scale) or not min(scale) > 0:
            raise ValueError(
                f"Standardized: expected as many positive scales as means, got {len(loc)} means and {len(scale)} "
                f"scales, the smallest {min(scale):g}; drop columns that are constant."
            )
        self.network = network
        self.loc, self.scale, self.masked = list(loc), list(scale), masked
        self.register_buffer("shift", torch.tensor(self.loc))
        self.register_buffer("unit", torch.tensor(self.scale))
        if hasattr(network, "out_features"):
            self.out_features = network.out_features

    def forward(self, x: Tensor) -> Tensor:
        """Return the network's features of `[..., P]`, or `[..., P + C]` where something stands beside the data."""
        y, beside = x.split([len(self.loc), x.shape[-1] - len(self.loc)], -1)
        y = (y - self.shift) / self.unit
        features: Tensor = self.network(torch.cat([y * beside if self.masked else y, beside], -1))
        return features
