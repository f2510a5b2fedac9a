r"""The residual perceptron: h_0 = W x + b, h_l = h_{l-1} + V_l f(U_l f(h_{l-1})), y = W' f(h_L) + b'."""

from collections.abc import Sequence

from torch import Tensor, nn

from .activations import make_activation
from .initialization import initialize
from .readout import output_size
from .shapes import check_features

__all__ = ["ResidualMLP"]


class ResidualMLP(nn.Module):
    r"""A perceptron whose hidden layers add to what they receive, for deep encoders and decoders.

    .. math:: h_0 = W x + b, \quad h_l = h_{l-1} + V_l f(U_l f(h_{l-1}) + c_l) + d_l,
        \quad y = W' f(h_L) + b'

    Shapes: ``[..., in_features]`` to ``[..., out_features]``, any leading dimensions.

    Args:
        in_features: size of the input.
        out_features: size of the last linear layer; None means there is none: the output is f(h_L),
            and the attribute ``out_features`` is the width of the hidden layers.
        hidden: the width of each of the L blocks, all of them equal.
        activation: the non-linearity f: elu, gelu, leaky-relu, relu, silu, softplus or tanh.
        init: "default" keeps PyTorch's initial values; "paper" draws every weight and bias from
            N(0, 0.01), 0.01 taken as the standard deviation.
        readout: whether a last linear layer follows the hidden ones; None means exactly if
            ``out_features`` is given. Stored, so that a saved network loads with the same layers.

    Raises:
        ValueError: if a name is unknown, or the widths differ or contradict ``out_features``.

    Example:
        >>> import torch
        >>> ResidualMLP(20, 784, hidden=[64, 64])(torch.zeros(7, 10, 20)).shape
        torch.Size([7, 10, 784])

    References:
        Identity Mappings in Deep Residual Networks, He, Zhang, Ren & Sun, 2016,
        arXiv 1603.05027, figure 1b.
    """

    name = "residual-mlp"

    def __init__(
        self,
        in_features: int,
        out_features: int | None = None,
        *,
        hidden: Sequence[int] = (500, 500),
        activation: str = "relu",
        init: str = "default",
        readout: bool | None = None,
    ) -> None:
        super().__init__()
        self.in_features = in_features
        self.hidden = list(hidden)
        width = _common_width(self.hidden)
        self.activation = activation
        self.init = init
        self.readout = out_features is not None if readout is None else readout
        self.out_features = output_size("ResidualMLP", out_features, width, self.readout)
        self.stem = nn.Linear(in_features, width)
        self.blocks = nn.ModuleList(_branch(width, activation) for _ in self.hidden)
        self.head = nn.Sequential(make_activation(activation))
        if self.readout:
            self.head.append(nn.Linear(width, self.out_features))
        initialize(self, init)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` ``[..., in_features]`` to ``[..., out_features]``."""
        check_features(x, self.in_features, "ResidualMLP")
        h = self.stem(x)
        for block in self.blocks:
            h = h + block(h)
        return self.head(h)


def _common_width(hidden: list[int]) -> int:
    if not hidden or len(set(hidden)) > 1:
        raise ValueError(
            f"ResidualMLP: expected hidden to be one width, once for each block, got {hidden}. "
            "A block adds to its input, so that all are as wide; take an MLP for other shapes."
        )
    return hidden[0]


def _branch(width: int, activation: str) -> nn.Sequential:
    return nn.Sequential(
        make_activation(activation),
        nn.Linear(width, width),
        make_activation(activation),
        nn.Linear(width, width),
    )
