r"""The gated perceptron: h_l = (W_l h_{l-1} + b_l) * sigmoid(V_l h_{l-1} + c_l), y = W h_L + b."""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn.functional import glu

from .initialization import initialize
from .readout import output_size
from .shapes import check_features

__all__ = ["GatedLinear", "GatedMLP"]


class GatedLinear(nn.Module):
    r"""One gated layer, :math:`(W x + b) \odot \sigma(V x + c)`.

    Args:
        in_features: size of the input.
        out_features: size of the output.
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        self.both = nn.Linear(in_features, 2 * out_features)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` ``[..., in_features]`` to ``[..., out_features]``."""
        return glu(self.both(x), dim=-1)


class GatedMLP(nn.Module):
    r"""A perceptron whose hidden units are gated by others, the VampPrior paper's network.

    .. math:: h_l = (W_l h_{l-1} + b_l) \odot \sigma(V_l h_{l-1} + c_l), \qquad y = W h_L + b

    The gates are the only non-linearity. Shapes: ``[..., in_features]`` to ``[..., out_features]``,
    any leading dimensions.

    Args:
        in_features: size of the input.
        out_features: size of the last linear layer; None means there is none, and the attribute
            ``out_features`` is then the width of the last hidden layer.
        hidden: widths of the gated layers; two of 300 in the paper.
        init: "default" keeps PyTorch's initial values; "paper" draws every weight and bias from
            N(0, 0.01), 0.01 taken as the standard deviation.
        readout: whether a last linear layer follows the hidden ones; None means exactly if
            ``out_features`` is given. Stored, so that a saved network loads with the same layers.

    Raises:
        ValueError: if a name is unknown, or the sizes leave no layer or contradict each other.

    Example:
        >>> import torch
        >>> GatedMLP(784)(torch.zeros(7, 10, 784)).shape
        torch.Size([7, 10, 300])

    References:
        VAE with a VampPrior, Tomczak & Welling, 2018, arXiv 1705.07120, section 5 (networks).
        Language Modeling with Gated Convolutional Networks, Dauphin, Fan, Auli & Grangier, 2017,
        arXiv 1612.08083, equation 1.
    """

    name = "gated-mlp"

    def __init__(
        self,
        in_features: int,
        out_features: int | None = None,
        *,
        hidden: Sequence[int] = (300, 300),
        init: str = "default",
        readout: bool | None = None,
    ) -> None:
        super().__init__()
        self.in_features = in_features
        self.hidden = list(hidden)
        self.init = init
        self.readout = out_features is not None if readout is None else readout
        width = self.hidden[-1] if self.hidden else None
        self.out_features = output_size("GatedMLP", out_features, width, self.readout)
        self.layers = nn.Sequential()
        widths = [in_features, *self.hidden]
        for before, after in zip(widths, widths[1:], strict=False):
            self.layers.append(GatedLinear(before, after))
        if self.readout:
            self.layers.append(nn.Linear(widths[-1], self.out_features))
        initialize(self, init)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` ``[..., in_features]`` to ``[..., out_features]``."""
        check_features(x, self.in_features, "GatedMLP")
        return self.layers(x)
