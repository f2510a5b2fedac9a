r"""The multilayer perceptron: h_l = f(W_l h_{l-1} + b_l), y = W h_L + b."""

from collections.abc import Sequence

from torch import Tensor, nn

from .activations import make_activation
from .initialization import initialize
from .readout import output_size
from .shapes import check_features

__all__ = ["MLP"]


class MLP(nn.Module):
    r"""A multilayer perceptron; without ``out_features`` it ends with its last hidden layer.

    .. math:: h_l = f(W_l h_{l-1} + b_l), \qquad y = W h_L + b

    Shapes: ``[..., in_features]`` to ``[..., out_features]``, any leading dimensions.

    Args:
        in_features: size of the input.
        out_features: size of the last linear layer; None means there is none, and the attribute
            ``out_features`` is then the width of the last hidden layer.
        hidden: widths of the hidden layers.
        activation: the non-linearity f: elu, gelu, leaky-relu, relu, silu, softplus or tanh.
        init: "default" keeps PyTorch's initial values; "paper" draws every weight and bias from
            N(0, 0.01). The paper does not say whether 0.01 is a variance or a standard deviation;
            here it is the latter.
        readout: whether a last linear layer follows the hidden ones; None means exactly if
            ``out_features`` is given. Stored, so that a saved network loads with the same layers.

    Raises:
        ValueError: if a name is unknown, or the sizes leave no layer or contradict each other.

    Example:
        >>> import torch
        >>> MLP(20, 784, hidden=[500])(torch.zeros(7, 10, 20)).shape
        torch.Size([7, 10, 784])
        >>> MLP(784, hidden=[500, 200]).out_features
        200

    References:
        Auto-Encoding Variational Bayes, Kingma & Welling, 2014, arXiv 1312.6114, appendix C.
    """

    name = "mlp"

    def __init__(
        self,
        in_features: int,
        out_features: int | None = None,
        *,
        hidden: Sequence[int] = (500,),
        activation: str = "tanh",
        init: str = "default",
        readout: bool | None = None,
    ) -> None:
        super().__init__()
        self.in_features = in_features
        self.hidden = list(hidden)
        self.activation = activation
        self.init = init
        self.readout = out_features is not None if readout is None else readout
        width = self.hidden[-1] if self.hidden else None
        self.out_features = output_size("MLP", out_features, width, self.readout)
        self.layers = nn.Sequential()
        widths = [in_features, *self.hidden]
        for before, after in zip(widths, widths[1:], strict=False):
            self.layers.extend([nn.Linear(before, after), make_activation(activation)])
        if self.readout:
            self.layers.append(nn.Linear(widths[-1], self.out_features))
        initialize(self, init)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` ``[..., in_features]`` to ``[..., out_features]``."""
        check_features(x, self.in_features, "MLP")
        return self.layers(x)
