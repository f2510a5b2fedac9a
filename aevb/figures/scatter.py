"""The latent means of the data in the plane."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor

from .canvas import CLASSES, PALETTE, Array, array, blank

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["latent_scatter"]


def latent_scatter(z: Tensor | ArrayLike, labels: Tensor | ArrayLike | None = None) -> "Figure":
    """Draw latent means ``z`` ``[N, 2]``, coloured and named by class ``labels`` ``[N]`` where there are any.

    Raises:
        ValueError: if z is not ``[N, 2]``.
    """
    points = array(z)
    if points.ndim != 2 or points.shape[1] != 2:
        raise ValueError(f"latent_scatter: expected z of shape [N, 2], got {list(points.shape)}.")
    figure, axes = blank(5.6, 5.2)
    size = float(np.clip(4000 / len(points), 2, 30))
    if labels is None:
        axes.scatter(points[:, 0], points[:, 1], s=size, color=PALETTE[0], alpha=0.6, linewidths=0)
    else:
        classes = np.asarray(labels.cpu() if isinstance(labels, Tensor) else labels)
        for k, label in enumerate(np.unique(classes)):
            _draw_class(axes, points[classes == label], str(label), CLASSES[k % len(CLASSES)], size)
    axes.set(xlabel="$z_1$", ylabel="$z_2$", aspect="equal")
    return figure


def _draw_class(axes: "Axes", points: Array, label: str, colour: str, size: float) -> None:
    from matplotlib.patheffects import withStroke

    axes.scatter(points[:, 0], points[:, 1], s=size, color=colour, alpha=0.7, linewidths=0)
    outline = [withStroke(linewidth=3, foreground="white")]
    x, y = np.median(points, axis=0)
    axes.text(x, y, label, ha="center", va="center", weight="bold", color="0.1", path_effects=outline)
