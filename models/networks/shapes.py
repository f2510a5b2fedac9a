r"""Checks on the shapes that networks are given: x [..., in_features], images (C, H, W)."""

from collections.abc import Sequence

from torch import Tensor

__all__ = ["as_image_shape", "check_features", "halved_sizes"]


def check_features(x: Tensor, in_features: int, owner: str) -> None:
    """Check that the last dimension of ``x`` is the one that the network was built for.

    Args:
        x: input ``[..., in_features]``.
        in_features: the size the network expects.
        owner: the name of the network, for the message.

    Raises:
        ValueError: if the sizes differ.
    """
    if x.dim() == 0 or x.shape[-1] != in_features:
        raise ValueError(
            f"{owner}: expected input of shape [..., {in_features}], got {list(x.shape)}. "
            "Flatten the event dimensions, or build the network with a fitting in_features."
        )


def as_image_shape(owner: str, image_shape: Sequence[int]) -> tuple[int, int, int]:
    """Return ``image_shape`` as the tuple (channels, height, width).

    Raises:
        ValueError: if it is not three positive numbers.
    """
    if len(image_shape) != 3 or min(image_shape) < 1:
        raise ValueError(f"{owner}: expected image_shape (channels, height, width), got {tuple(image_shape)}.")
    depth, height, width = image_shape
    return depth, height, width


def halved_sizes(owner: str, image_shape: tuple[int, int, int], times: int) -> list[tuple[int, int]]:
    """Return the heights and widths of an image that is halved again and again, rounding down.

    Args:
        owner: the name of the network, for the message.
        image_shape: (channels, height, width).
        times: how often it is halved.

    Returns:
        ``times + 1`` pairs, from the full size to the smallest.

    Raises:
        ValueError: if the image is too small to be halved so often.

    Example:
        >>> halved_sizes("ConvEncoder", (1, 28, 20), 2)
        [(28, 20), (14, 10), (7, 5)]
    """
    _, height, width = image_shape
    sizes = [(height >> step, width >> step) for step in range(times + 1)]
    if 0 in sizes[-1]:
        raise ValueError(
            f"{owner}: expected an image that can be halved {times} times, once for each of its "
            f"channels, got image_shape {image_shape}. Give fewer channels."
        )
    return sizes
