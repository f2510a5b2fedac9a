"""Learning curves: a bound, or an estimate, against what was spent on it."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from .canvas import AXIS_TITLES, PALETTE, blank

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["curves"]


def curves(histories: "Mapping[str, pd.DataFrame]", x: str = "samples_seen", y: str = "bound") -> "Figure":
    """Draw learning curves: solid lines in training, dashed ones (column ``validation_<y>``) in validation.

    Where a column's standard errors are in the history (``<y>_error``), a band of one of them lies around its line.

    The horizontal axis is logarithmic, as in the paper's Figures 2 and 3, unless it holds a zero.
    A steep start is cut off below, so that the differences at the end can be seen.

    Arguments:
        histories: label of a run to its history, one row per epoch.
        x: column of the horizontal axis: samples_seen, gradient_evaluations, epoch, step or seconds.
        y: column of the vertical axis, higher is better.

    Raises:
        ValueError: if there is nothing to draw, or a history lacks a column.

    References:
        Auto-Encoding Variational Bayes, Kingma & Welling, 2014, arXiv 1312.6114, Figures 2 and 3.
    """
    if not histories:
        raise ValueError("curves: expected at least one history, got none.")
    figure, axes = blank(7.0, 4.2)
    validated = False
    for k, (label, history) in enumerate(histories.items()):
        for column in (x, y):
            if column not in history:
                raise ValueError(f"curves: no column {column!r} in {label!r}, only {', '.join(map(str, history))}.")
        colour = PALETTE[k % len(PALETTE)]
        dot = "o" if len(history) == 1 else ""
        axes.plot(history[x], history[y], color=colour, label=label, marker=dot)
        checked = history[[x, f"validation_{y}"]].dropna() if f"validation_{y}" in history else history[:0]
        for drawn in (y, f"validation_{y}"):
            _band(axes, history, x, drawn, colour)
        if len(checked):
            validated = True
            axes.plot(*checked.to_numpy().T, color=colour, linestyle="--", marker="s" if len(checked) == 1 else "")
    if all((history[x] > 0).all() for history in histories.values()):
        axes.set_xscale("log")
    _cut_steep_start(axes)
    axes.set(xlabel=AXIS_TITLES.get(x, x), ylabel=AXIS_TITLES.get(y, y))
    if validated:
        axes.plot([], [], color="0.3", label="training")
        axes.plot([], [], color="0.3", linestyle="--", label="validation")
    if validated or len(histories) > 1:
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
    return figure


def _band(axes: "Axes", history: "pd.DataFrame", x: str, y: str, colour: str) -> None:
    """One standard error to either side of a curve, where the history tells it."""
    if f"{y}_error" in history:
        at, middle, error = history[[x, y, f"{y}_error"]].dropna().to_numpy(dtype=float).T
        axes.fill_between(at, middle - error, middle + error, color=colour, alpha=0.15, linewidth=0)


def _cut_steep_start(axes: "Axes") -> None:
    """Let the vertical axis begin at what the curves reach a seventh of the way along the horizontal one."""
    along = axes.transScale + axes.transLimits
    reached, values = [], []
    for line in axes.get_lines():
        points = np.asarray(line.get_xydata(), dtype=float)
        points = points[np.isfinite(points).all(axis=1)]
        if not len(points):
            continue
        left, right = np.quantile(along.transform(points)[:, 0], [0, 1])
        late = along.transform(points)[:, 0] >= left + (right - left) / 7
        reached.append(points[late, 1].min())
        values.extend(points[:, 1])
    if not values:
        return
    low, high = min(reached), max(values)
    if min(values) < low - (high - low) / 2 and high > low:
        axes.set_ylim(low - 0.1 * (high - low), high + 0.05 * (high - low))
