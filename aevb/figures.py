"""Figures: pure functions from arrays to a matplotlib Figure, with no window and no global state.

Colours are Okabe and Ito's, which readers with any of the common colour blindnesses tell apart.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "curves",
    "evidence_forest",
    "image_grid",
    "khat_histogram",
    "latent_scatter",
    "manifold",
    "reconstructions",
    "save",
    "weight_concentration",
]

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F", "#000000")
CLASSES = (
    *("#3F90DA", "#FFA90E", "#BD1F01", "#94A4A2", "#832DB6"),
    *("#A96B59", "#E76300", "#B9AC70", "#717581", "#92DADD"),
)
AXIS_TITLES = {
    "samples_seen": "training samples seen",
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
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=dpi)
    return path


def curves(histories: "Mapping[str, pd.DataFrame]", x: str = "samples_seen", y: str = "bound") -> "Figure":
    """Draw learning curves: solid lines in training, dashed ones (column ``validation_<y>``) in validation.

    The horizontal axis is logarithmic, as in the paper's Figures 2 and 3, unless it holds a zero.
    A steep start is cut off below, so that the differences at the end can be seen.

    Arguments:
        histories: label of a run to its history, one row an epoch.
        x: column of the horizontal axis: samples_seen, epoch, step or seconds.
        y: column of the vertical axis, higher is better.

    Raises:
        ValueError: if there is nothing to draw, or a history lacks a column.

    References:
        Auto-Encoding Variational Bayes, Kingma & Welling, 2014, arXiv 1312.6114, Figures 2 and 3.
    """
    if not histories:
        raise ValueError("curves: expected at least one history, got none.")
    figure, axes = _blank(7.0, 4.2)
    validated = False
    for k, (label, history) in enumerate(histories.items()):
        for column in (x, y):
            if column not in history:
                raise ValueError(f"curves: no column {column!r} in {label!r}, only {', '.join(map(str, history))}.")
        colour = PALETTE[k % len(PALETTE)]
        dot = "o" if len(history) == 1 else ""
        axes.plot(history[x], history[y], color=colour, label=label, marker=dot)
        checked = history[[x, f"validation_{y}"]].dropna() if f"validation_{y}" in history else history[:0]
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
    figure, axes = _mosaic_figure(_mosaic(_pictures(images, image_shape), n, n, gap=0), margin=(0.6, 0.6))
    height, width = axes.get_images()[0].get_size()
    ticks = np.array([0.5, n / 2, n - 0.5]) / n
    outer = f"{quantiles[-1]:.1f}"
    names = ["\u2212" + outer, "0", outer]
    axes.set_xticks(ticks * width, names)
    axes.set_yticks((1 - ticks) * height, names)
    axes.tick_params(length=0, labelleft=True, labelbottom=True)
    axes.set(xlabel="$z_1$", ylabel="$z_2$")
    return figure


def latent_scatter(z: Tensor | ArrayLike, labels: Tensor | ArrayLike | None = None) -> "Figure":
    """Draw latent means ``z`` ``[N, 2]``, coloured and named by class ``labels`` ``[N]`` where there are any.

    Raises:
        ValueError: if z is not ``[N, 2]``.
    """
    points = _array(z)
    if points.ndim != 2 or points.shape[1] != 2:
        raise ValueError(f"latent_scatter: expected z of shape [N, 2], got {list(points.shape)}.")
    figure, axes = _blank(5.6, 5.2)
    size = float(np.clip(4000 / len(points), 2, 30))
    if labels is None:
        axes.scatter(points[:, 0], points[:, 1], s=size, color=PALETTE[0], alpha=0.6, linewidths=0)
    else:
        classes = np.asarray(labels.cpu() if isinstance(labels, Tensor) else labels)
        for k, label in enumerate(np.unique(classes)):
            _draw_class(axes, points[classes == label], str(label), CLASSES[k % len(CLASSES)], size)
    axes.set(xlabel="$z_1$", ylabel="$z_2$", aspect="equal")
    return figure


def evidence_forest(rows: Sequence[Mapping[str, Any]]) -> "Figure":
    """Draw one line a method: mean log p(x) and its standard error; the marker tells which side the truth is on.

    Arguments:
        rows: records with ``method``, ``mean``, ``standard_error`` and, where known, ``direction`` (lower
            bound, upper bound or estimate), ``split`` and ``label`` (in place of the method's name).

    Raises:
        ValueError: if there are no rows.
    """
    if not rows:
        raise ValueError("evidence_forest: expected at least one row, got none.")
    figure, axes = _blank(7.0, 1.3 + 0.42 * len(rows))
    several = len({row.get("split") for row in rows}) > 1
    names, seen = [], set()
    for height, row in zip(range(len(rows), 0, -1), rows, strict=True):
        style, kind = _direction(str(row.get("direction", "estimate")))
        error = row.get("standard_error") or 0.0
        axes.errorbar(row["mean"], height, xerr=error, label=None if kind in seen else kind, **style)
        axes.annotate(
            f"{row['mean']:.2f}".replace("-", "\u2212"),
            (row["mean"], height),
            (0, 6),
            textcoords="offset points",
            ha="center",
            fontsize=8,
            color="0.3",
        )
        seen.add(kind)
        name = str(row.get("label", row.get("method")))
        names.append(f"{name} ({row['split']})" if several and row.get("split") else name)
    axes.set_yticks(range(len(rows), 0, -1), names)
    axes.set(ylim=(0.4, len(rows) + 0.8), xlabel="log p(x), nats per datapoint (bars: \u00b1 1 standard error)")
    axes.margins(x=0.12)
    axes.grid(axis="y", visible=False)
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
    return figure


def khat_histogram(khat: Tensor | ArrayLike) -> "Figure":
    """Draw the Pareto shapes k-hat ``[N]`` of the importance weights; above 0.7 an estimate is not to be trusted.

    References:
        Pareto smoothed importance sampling, Vehtari et al., 2024, arXiv 1507.02646.
    """
    values = _array(khat).ravel()
    finite = values[np.isfinite(values)]
    if len(finite) == 0:
        raise ValueError("khat_histogram: expected at least one finite k-hat, got none.")
    figure, axes = _blank(6.0, 3.6)
    low, high = min(finite.min(), 0.0), max(finite.max(), 1.0)
    edges = (np.arange(np.floor(low * 20), np.ceil(high * 20) + 1) / 20).tolist()
    axes.hist(finite[finite <= 0.7], edges, color=PALETTE[0])
    axes.hist(finite[finite > 0.7], edges, color=PALETTE[1])
    axes.axvline(0.7, color="0.2", linestyle="--", linewidth=1)
    over = np.mean(~(values <= 0.7))
    axes.set_title(f"{100 * over:.3g} % of {len(values)} datapoints above 0.7", fontsize=10, loc="left")
    lost = len(values) - len(finite)
    note = f" ({lost} not finite, not drawn)" if lost else ""
    axes.set(xlabel="Pareto shape k\u0302 of the importance weights" + note, ylabel="datapoints")
    return figure


def weight_concentration(log_weights: Tensor | ArrayLike) -> "Figure":
    r"""Draw how much of the total weight the largest m of K importance weights carry, m = 1..K.

    .. math:: S_m = \sum_{j \le m} w_{(j)} / \sum_j w_j

    The line is the median over datapoints, the band goes from their 10 % to their 90 % quantile; the
    dotted line is that of equal weights. A curve that starts near one rests on a single sample.

    Arguments:
        log_weights: log p(x, z) - log q(z|x), ``[K, N]``.

    Raises:
        ValueError: if the array is not ``[K, N]``.
    """
    log_w = _array(log_weights)
    if log_w.ndim != 2:
        raise ValueError(f"weight_concentration: expected log-weights [K, N], got {list(log_w.shape)}.")
    w = np.sort(np.exp(log_w - log_w.max(axis=0)), axis=0)[::-1]
    share = np.cumsum(w, axis=0) / w.sum(axis=0)
    low, middle, high = np.quantile(share, [0.1, 0.5, 0.9], axis=1)
    m = np.arange(1, len(share) + 1)
    figure, axes = _blank(6.0, 3.6)
    axes.fill_between(m, low, high, color=PALETTE[0], alpha=0.25, linewidth=0, label="10 % to 90 % of datapoints")
    axes.plot(m, middle, color=PALETTE[0], label="median datapoint", marker="o" if len(m) == 1 else "")
    axes.plot(m, m / len(m), color="0.4", linestyle=":", label="equal weights")
    axes.set_xscale("log")
    axes.set(xlabel=f"largest weights, of {len(m)}", ylabel="share of the total weight", ylim=(0, 1.03))
    axes.legend(loc="best")
    return figure


def _blank(width: float, height: float) -> "tuple[Figure, Axes]":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="0.92", linewidth=0.8)
    axes.set_axisbelow(True)
    return figure, axes


def _array(x: Tensor | ArrayLike) -> Array:
    return np.asarray(x.detach().cpu() if isinstance(x, Tensor) else x, dtype=np.float64)


def _pictures(images: Tensor | ArrayLike, image_shape: tuple[int, int, int]) -> Array:
    """Shape flat images ``[N, P]`` as ``[N, H, W, C]``."""
    flat = _array(images)
    if flat.ndim != 2 or flat.shape[1] != np.prod(image_shape) or not len(flat):
        raise ValueError(
            f"images: expected shape [N, {np.prod(image_shape)}] of {image_shape}, got {list(flat.shape)}."
        )
    return flat.reshape(-1, *image_shape).transpose(0, 2, 3, 1).clip(0, 1)


def _mosaic(pictures: Array, rows: int, cols: int, gap: int | None = None) -> Array:
    """Lay ``[N, H, W, C]`` out as one picture with white between, ``[rows * (H + gap), cols * (W + gap), C]``."""
    _, height, width, channels = pictures.shape
    gap = max(1, width // 14) if gap is None else gap
    cells = np.ones((rows * cols, height + gap, width + gap, channels))
    cells[: len(pictures), gap // 2 : gap // 2 + height, gap // 2 : gap // 2 + width] = pictures
    grid = cells.reshape(rows, cols, height + gap, width + gap, channels).swapaxes(1, 2)
    return grid.reshape(rows * (height + gap), cols * (width + gap), channels)


def _mosaic_figure(mosaic: Array, margin: tuple[float, float] = (0.0, 0.0)) -> "tuple[Figure, Axes]":
    height, width, channels = mosaic.shape
    scale = 6.0 / max(height, width)
    figure, axes = _blank(width * scale + margin[0], height * scale + margin[1])
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


def _draw_class(axes: "Axes", points: Array, label: str, colour: str, size: float) -> None:
    from matplotlib.patheffects import withStroke

    axes.scatter(points[:, 0], points[:, 1], s=size, color=colour, alpha=0.7, linewidths=0)
    outline = [withStroke(linewidth=3, foreground="white")]
    x, y = np.median(points, axis=0)
    axes.text(x, y, label, ha="center", va="center", weight="bold", color="0.1", path_effects=outline)


def _direction(direction: str) -> tuple[dict[str, Any], str]:
    """Style a direction: the marker points from a bound to where the truth is."""
    for word, marker, colour, kind in (
        ("lower", ">", PALETTE[0], "lower bound"),
        ("upper", "<", PALETTE[1], "upper bound"),
    ):
        if word in direction:
            return {"fmt": marker, "color": colour, "markersize": 8, "capsize": 3}, kind
    return {"fmt": "o", "color": PALETTE[2], "markersize": 6, "capsize": 3}, "estimate"
