r"""The convolutional decoder: h_0 = f(W z + b), h_l = f(W_l (*) h_{l-1} + b_l), doubling the image."""

import math
from collections.abc import Sequence

from torch import Tensor, nn

from .activations import make_activation
from .initialization import initialize
from .shapes import as_image_shape, check_features, halved_sizes

__all__ = ["ConvDecoder"]


class ConvDecoder(nn.Module):
    r"""One dense layer, then transposed convolutions that double the image: ``ConvEncoder`` mirrored.

    .. math:: h_0 = f(W z + b), \qquad h_l = f(W_l \circledast h_{l-1} + b_l), \qquad y = h_L

    Each transposed convolution has a kernel of 4, a stride of 2 and a padding of 1; the last one
    has no non-linearity and gives ``num_params * C`` channels. Shapes: ``[..., in_features]`` to
    ``[..., num_params * C * H * W]``, the likelihood's parameters in chunks, each a flat image in
    the order (channel, row, column); any leading dimensions, any height and width.

    Args:
        in_features: size of the input, the latent's dimension.
        image_shape: (channels, height, width) of an image.
        channels: number of channels from the image inwards, as the mirrored encoder's.
        num_params: decoder outputs per pixel, the likelihood's ``num_params``; None means what
            ``out_features`` implies, or 1.
        out_features: size of the output; None means ``num_params * C * H * W``.
        activation: the non-linearity f: elu, gelu, leaky-relu, relu, silu, softplus or tanh.
        init: "default" keeps PyTorch's initial values; "paper" draws every weight and bias from
            N(0, 0.01), 0.01 taken as the standard deviation.

    Raises:
        ValueError: if a name is unknown, the sizes contradict each other, or the image is too small
            to be halved for each channel.

    Example:
        >>> import torch
        >>> ConvDecoder(20, (1, 28, 28), num_params=2)(torch.zeros(7, 10, 20)).shape
        torch.Size([7, 10, 1568])

    References:
        Unsupervised Representation Learning with Deep Convolutional Generative Adversarial
        Networks, Radford, Metz & Chintala, 2016, arXiv 1511.06434.
        Deconvolution and Checkerboard Artifacts, Odena, Dumoulin & Olah, 2016, Distill (a kernel
        that the stride divides).
    """

    name = "conv"
    roles = ("decoder",)

    def __init__(
        self,
        in_features: int,
        image_shape: Sequence[int],
        channels: Sequence[int] = (32, 64),
        num_params: int | None = None,
        out_features: int | None = None,
        *,
        activation: str = "relu",
        init: str = "default",
    ) -> None:
        super().__init__()
        self.in_features = in_features
        self.image_shape = as_image_shape("ConvDecoder", image_shape)
        self.channels = list(channels)
        self.num_params = _params_per_pixel(num_params, out_features, math.prod(self.image_shape))
        self.out_features = self.num_params * math.prod(self.image_shape)
        self.activation = activation
        self.init = init
        sizes = halved_sizes("ConvDecoder", self.image_shape, len(self.channels))[::-1]
        depths = [*self.channels[::-1], self.num_params * self.image_shape[0]]
        self.layers = nn.Sequential(
            nn.Linear(in_features, depths[0] * math.prod(sizes[0])),
            nn.Unflatten(-1, (depths[0], *sizes[0])),
        )
        for before, after, small, large in zip(depths, depths[1:], sizes, sizes[1:], strict=False):
            self.layers.append(make_activation(activation))
            self.layers.append(_doubling(before, after, small, large))
        initialize(self, init)

    def forward(self, z: Tensor) -> Tensor:
        """Map ``z`` ``[..., in_features]`` to flat images ``[..., num_params * C * H * W]``."""
        check_features(z, self.in_features, "ConvDecoder")
        images = self.layers(z.reshape(-1, self.in_features))
        return images.reshape(*z.shape[:-1], self.out_features)


def _doubling(before: int, after: int, small: tuple[int, int], large: tuple[int, int]) -> nn.ConvTranspose2d:
    # An odd size was rounded down when it was halved: the output padding gives the pixel back.
    padding = (large[0] - 2 * small[0], large[1] - 2 * small[1])
    return nn.ConvTranspose2d(before, after, kernel_size=4, stride=2, padding=1, output_padding=padding)


def _params_per_pixel(num_params: int | None, out_features: int | None, num_pixels: int) -> int:
    if num_params is None:
        num_params = 1 if out_features is None else out_features // num_pixels
    if num_params < 1 or out_features not in (None, num_params * num_pixels):
        raise ValueError(
            f"ConvDecoder: expected out_features = num_params * {num_pixels} (the image's pixels "
            f"and channels), got num_params {num_params} and out_features {out_features}."
        )
    return num_params
