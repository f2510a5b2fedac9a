"""What every figure is drawn on and with: an empty canvas, the colours, the axes' names, arrays, files.

Colours are Okabe and Ito's, which readers with any of the common colour blindnesses tell apart.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from aevb.inference.files import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["AXIS_TITLES", "CLASSES", "PALETTE", "Array", "array", "blank", "panels", "save"]

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F", "#000000")
CLASSES = (
    *("#3F90DA", "#FFA90E", "#BD1F01", "#94A4A2", "#832DB6"),
    *("#A96B59", "#E76300", "#B9AC70", "#717581", "#92DADD"),
)
AXIS_TITLES = {
    "samples_seen": "training samples seen",
    "gradient_evaluations": "gradient evaluations of a training sample",
    "epoch": "epoch",
    "step": "gradient steps",
    "seconds": "seconds",
    "bound": "bound on log p(x), nats per datapoint",
    "estimate": "estimate of the bound, nats per datapoint",
    "log_joint": "log p(x, z), nats per datapoint",
    "log_px": "log p(x), nats per datapoint",
}
Array = NDArray[np.floating[Any]]


def save(figure: "Figure", path: str | Path, dpi: int = 150) -> Path:
    """Write ``figure`` to ``path`` (its folder is made) and return the path."""
    path = Path(path)
    with replacing(path) as unfinished:
        figure.savefig(unfinished, dpi=dpi)
    return path


def blank(width: float, height: float) -> "tuple[Figure, Axes]":
    """Make a figure of that many inches with one empty pair of axes."""
    figure, axes = panels(1, 1, width, height)
    return figure, axes[0]


def panels(rows: int, cols: int, width: float, height: float) -> "tuple[Figure, list[Axes]]":
    """Make a figure of that many inches with ``rows * cols`` empty pairs of axes, row by row."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    every = [figure.add_subplot(rows, cols, k + 1) for k in range(rows * cols)]
    for axes in every:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="0.92", linewidth=0.8)
        axes.set_axisbelow(True)
    return figure, every


def array(x: Tensor | ArrayLike) -> Array:
    """Take what is drawn off its device and out of its graph, in double precision."""
    return np.asarray(x.detach().cpu() if isinstance(x, Tensor) else x, dtype=np.float64)
