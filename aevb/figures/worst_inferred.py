"""The datapoints whose posterior the guide misses most: what they are, and both clouds of draws."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor

from .canvas import PALETTE, Array, array, panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["worst_inferred"]


def worst_inferred(
    data: Tensor | ArrayLike,
    guide: Tensor | ArrayLike,
    chains: Tensor | ArrayLike,
    titles: Sequence[str],
    image_shape: tuple[int, int, int] | None = None,
) -> "Figure":
    """Draw each datapoint above its guide's cloud and the chains' cloud.

    The plane is that of the first two principal directions of both clouds together; of a single latent, histograms.

    Arguments:
        data: datapoints ``[N, P]``.
        guide: the guide's draws ``[S, N, D]``.
        chains: the chains' draws ``[S, N, D]``.
        titles: what stands above each datapoint, e.g. its row and k-hat.
        image_shape: ``(C, H, W)`` where a datapoint is a picture; else its numbers are bars.

    Raises:
        ValueError: if the numbers of datapoints differ.
    """
    points, mine, theirs = array(data), array(guide), array(chains)
    if not len(points) == mine.shape[1] == theirs.shape[1] == len(titles) > 0:
        raise ValueError(
            f"worst_inferred: expected as many datapoints as clouds and titles, got {len(points)}, {mine.shape[1]}, "
            f"{theirs.shape[1]} and {len(titles)}."
        )
    count = len(points)
    figure, axes = panels(2, count, 1.2 + 1.9 * count, 4.6)
    for k in range(count):
        _datapoint(axes[k], points[k], image_shape)
        axes[k].set_title(titles[k], fontsize=10)
        _clouds(axes[count + k], mine[:, k], theirs[:, k])
    axes[count].legend(loc="best", fontsize=8, markerscale=3)
    return figure


def _datapoint(axes: "Axes", point: Array, image_shape: tuple[int, int, int] | None) -> None:
    if image_shape is None:
        axes.bar(np.arange(len(point)), point, color=PALETTE[6])
        axes.set_xlabel("dimension of x", fontsize=8)
    else:
        picture = point.reshape(image_shape).transpose(1, 2, 0).clip(0, 1)
        axes.imshow(picture.squeeze(-1) if image_shape[0] == 1 else picture, cmap="gray", vmin=0, vmax=1)
        axes.set_axis_off()


def _clouds(axes: "Axes", guide: Array, chains: Array) -> None:
    names = (("guide", guide, PALETTE[1]), ("HMC", chains, PALETTE[0]))
    if guide.shape[1] == 1:
        edges = np.histogram_bin_edges(np.concatenate([guide, chains]), 30).tolist()
        for name, cloud, colour in names:
            axes.hist(cloud[:, 0], edges, density=True, color=colour, alpha=0.5, label=name)
        axes.set_xlabel("z", fontsize=8)
        return
    centre = np.concatenate([guide, chains])
    middle = centre.mean(0)
    directions = np.linalg.svd(centre - middle, full_matrices=False)[2][:2]
    for name, cloud, colour in names:
        x, y = directions @ (cloud - middle).T
        axes.scatter(x, y, s=5, color=colour, alpha=0.4, linewidths=0, label=name)
    axes.set_xlabel("1st direction of z", fontsize=8)
    axes.set_ylabel("2nd direction", fontsize=8)
    axes.set_aspect("equal", adjustable="datalim")
    axes.tick_params(labelsize=7)
