"""Images: grids of them, data beside their reconstructions, the manifold of a 2-D latent space."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from .canvas import Array, array, blank

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["image_grid", "manifold", "reconstructions"]


def image_grid(
    images: Tensor | ArrayLike, image_shape: tuple[int, int, int], rows: int | None = None, cols: int | None = None
) -> "Figure":
    """Draw the first ``rows * cols`` of flat ``images`` ``[N, P]`` in [0, 1], row by row.

    Arguments:
        images: pictures, ``P = C * H * W``.
        image_shape: ``(C, H, W)``; one channel is drawn in grey, three in colour.
        rows: number of rows; None means as many as are needed.
        cols: number of columns; None means a square where the number is one, else ten.

    Raises:
        ValueError: if the pictures do not have ``C * H * W`` pixels.
    """
    pictures = _pictures(images, image_shape)
    if cols is None:
        side = int(np.sqrt(len(pictures)))
        cols = -(-len(pictures) // rows) if rows else side if side**2 == len(pictures) else min(10, len(pictures))
    rows = rows or -(-len(pictures) // cols)
    return _mosaic_figure(_mosaic(pictures[: rows * cols], rows, cols))[0]


def reconstructions(
    x: Tensor | ArrayLike, x_hat: Tensor | ArrayLike, image_shape: tuple[int, int, int], cols: int = 10
) -> "Figure":
    """Draw pairs of rows: data ``x`` ``[N, P]`` above, their reconstructions ``x_hat`` ``[N, P]`` below.

    Raises:
        ValueError: if the two differ in number or do not have ``C * H * W`` pixels.
    """
    data, again = _pictures(x, image_shape), _pictures(x_hat, image_shape)
    if len(data) != len(again):
        raise ValueError(f"reconstructions: expected as many x_hat as x, got {len(again)} and {len(data)}.")
    cols = min(cols, len(data))
    pairs = [block[i : i + cols] for i in range(0, len(data), cols) for block in (data, again)]
    mosaic = np.concatenate([_mosaic(row, 1, cols) for row in pairs])
    figure, axes = _mosaic_figure(mosaic, margin=(0.6, 0.0))
    height = len(mosaic) / len(pairs)
    axes.set_yticks((np.arange(len(pairs)) + 0.5) * height, ["data", "model"] * (len(pairs) // 2), fontsize=9)
    axes.tick_params(left=False, labelleft=True)
    return figure


def manifold(
    decode: Callable[[Tensor], Tensor | ArrayLike], image_shape: tuple[int, int, int], grid: str = "kingma"
) -> "Figure":
    r"""Draw the learned manifold of a 2-D latent space: means of p(x|z) on a grid of z.

    .. math:: z_{ij} = (\Phi^{-1}(u_j), \Phi^{-1}(u_i))

    z_1 grows to the right and z_2 upward.

    Arguments:
        decode: takes z ``[M, 2]`` to the means ``[M, P]``.
        image_shape: ``(C, H, W)``.
        grid: ``kingma``, 10 x 10 with u = (i + 0.5) / 10; ``su``, 15 x 15 with u from 0.05 to 0.95; or ``linear``,
            15 x 15 with z itself evenly spaced from -3 to 3, which shows the tails too.

    Raises:
        ValueError: if the grid is unknown.

    References:
        Auto-Encoding Variational Bayes, Kingma & Welling, 2014, arXiv 1312.6114, Figure 4.
    """
    grids = {
        "kingma": torch.special.ndtri((torch.arange(10) + 0.5) / 10),
        "su": torch.special.ndtri(torch.linspace(0.05, 0.95, 15)),
        "linear": torch.linspace(-3.0, 3.0, 15),
    }
    if grid not in grids:
        raise ValueError(f"manifold: expected grid one of {', '.join(grids)}, got {grid!r}.")
    quantiles = grids[grid]
    up, right = torch.meshgrid(quantiles.flip(0), quantiles, indexing="ij")
    with torch.no_grad():
        images = decode(torch.stack([right.flatten(), up.flatten()], dim=-1))
    n = len(quantiles)
    figure, axes = _mosaic_figure(_mosaic(_pictures(images, image_shape), n, n), margin=(0.6, 0.6))
    height, width = axes.get_images()[0].get_size()
    ticks = np.array([0.5, n / 2, n - 0.5]) / n
    outer = f"{quantiles[-1]:.1f}"
    names = ["\u2212" + outer, "0", outer]
    axes.set_xticks(ticks * width, names)
    axes.set_yticks((1 - ticks) * height, names)
    axes.tick_params(length=0, labelleft=True, labelbottom=True)
    axes.set(xlabel="$z_1$", ylabel="$z_2$")
    return figure


def _pictures(images: Tensor | ArrayLike, image_shape: tuple[int, int, int]) -> Array:
    """Shape flat images ``[N, P]`` as ``[N, H, W, C]``."""
    flat = array(images)
    if flat.ndim != 2 or flat.shape[1] != np.prod(image_shape) or not len(flat):
        raise ValueError(
            f"images: expected shape [N, {np.prod(image_shape)}] of {image_shape}, got {list(flat.shape)}."
        )
    return flat.reshape(-1, *image_shape).transpose(0, 2, 3, 1).clip(0, 1)


def _mosaic(pictures: Array, rows: int, cols: int) -> Array:
    """Lay ``[N, H, W, C]`` out as one picture with white between, ``[rows * (H + gap), cols * (W + gap), C]``."""
    _, height, width, channels = pictures.shape
    gap = max(1, width // 14)
    cells = np.ones((rows * cols, height + gap, width + gap, channels))
    cells[: len(pictures), gap // 2 : gap // 2 + height, gap // 2 : gap // 2 + width] = pictures
    grid = cells.reshape(rows, cols, height + gap, width + gap, channels).swapaxes(1, 2)
    return grid.reshape(rows * (height + gap), cols * (width + gap), channels)


def _mosaic_figure(mosaic: Array, margin: tuple[float, float] = (0.0, 0.0)) -> "tuple[Figure, Axes]":
    height, width, channels = mosaic.shape
    scale = 6.0 / max(height, width)
    figure, axes = blank(width * scale + margin[0], height * scale + margin[1])
    axes.grid(visible=False)
    axes.imshow(
        mosaic[..., 0] if channels == 1 else mosaic,
        cmap="gray",
        vmin=0,
        vmax=1,
        extent=(0, width, height, 0),
        interpolation="nearest",
    )
    axes.spines[:].set_visible(False)
    axes.tick_params(left=False, bottom=False, labelleft=False, labelbottom=False)
    return figure, axes
