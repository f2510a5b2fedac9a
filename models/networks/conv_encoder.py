r"""The convolutional encoder: h_l = f(W_l * h_{l-1} + b_l) with stride 2, y = f(W h_L + b)."""

import math
from collections.abc import Sequence

from torch import Tensor, nn

from .activations import make_activation
from .initialization import initialize
from .shapes import as_image_shape, check_features, halved_sizes

__all__ = ["ConvEncoder"]


class ConvEncoder(nn.Module):
    r"""Convolutions that halve an image at each layer, then one dense layer of features.

    .. math:: h_l = f(W_l * h_{l-1} + b_l), \qquad y = f(W h_L + b)

    Each convolution has a kernel of 4, a stride of 2 and a padding of 1: it halves height and
    width, rounding down. Shapes: flat images ``[..., C * H * W]``, pixels in the order (channel,
    row, column), to ``[..., out_features]``; any leading dimensions, any height and width.

    Args:
        image_shape: (channels, height, width) of an image.
        channels: number of channels after each convolution.
        out_features: number of features.
        activation: the non-linearity f: elu, gelu, leaky-relu, relu, silu, softplus or tanh.
        init: "default" keeps PyTorch's initial values; "paper" draws every weight and bias from
            N(0, 0.01), 0.01 taken as the standard deviation.

    Raises:
        ValueError: if a name is unknown, or the image is too small to be halved for each channel.

    Example:
        >>> import torch
        >>> ConvEncoder((1, 28, 28))(torch.zeros(7, 10, 784)).shape
        torch.Size([7, 10, 256])

    References:
        Unsupervised Representation Learning with Deep Convolutional Generative Adversarial
        Networks, Radford, Metz & Chintala, 2016, arXiv 1511.06434 (strides in place of pooling).
    """

    name = "conv"
    roles = ("encoder",)

    def __init__(
        self,
        image_shape: Sequence[int],
        channels: Sequence[int] = (32, 64),
        out_features: int = 256,
        *,
        activation: str = "relu",
        init: str = "default",
    ) -> None:
        super().__init__()
        self.image_shape = as_image_shape("ConvEncoder", image_shape)
        self.channels = list(channels)
        self.out_features = out_features
        self.activation = activation
        self.init = init
        self.in_features = math.prod(self.image_shape)
        sizes = halved_sizes("ConvEncoder", self.image_shape, len(self.channels))
        self.layers = nn.Sequential()
        depths = [self.image_shape[0], *self.channels]
        for before, after in zip(depths, depths[1:], strict=False):
            self.layers.append(nn.Conv2d(before, after, kernel_size=4, stride=2, padding=1))
            self.layers.append(make_activation(activation))
        flat = depths[-1] * math.prod(sizes[-1])
        self.layers.extend([nn.Flatten(), nn.Linear(flat, out_features)])
        self.layers.append(make_activation(activation))
        initialize(self, init)

    def forward(self, x: Tensor) -> Tensor:
        """Map flat images ``[..., C * H * W]`` to features ``[..., out_features]``."""
        check_features(x, self.in_features, "ConvEncoder")
        features = self.layers(x.reshape(-1, *self.image_shape))
        return features.reshape(*x.shape[:-1], self.out_features)
