"""Importance weights: their Pareto shapes, and how few draws carry them."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor

from aevb.inference.evidence import khat_threshold

from .canvas import PALETTE, array, blank

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["khat_histogram", "weight_concentration"]


def khat_histogram(khat: Tensor | ArrayLike, num_samples: int) -> "Figure":
    """Draw the Pareto shapes k-hat ``[N]`` of importance weights, ``num_samples`` a datapoint.

    The dashed line is the threshold min(1 - 1 / log10 S, 0.7) for so many; above it an estimate is not to be trusted.

    Raises:
        ValueError: No k-hat is finite.

    References:
        Pareto smoothed importance sampling, Vehtari et al., 2024, arXiv 1507.02646.
    """
    values, threshold = array(khat).ravel(), khat_threshold(num_samples)
    finite = values[np.isfinite(values)]
    if len(finite) == 0:
        raise ValueError("khat_histogram: expected at least one finite k-hat, got none.")
    figure, axes = blank(6.0, 3.6)
    low, high = min(finite.min(), 0.0), max(finite.max(), 1.0)
    edges = (np.arange(np.floor(low * 20), np.ceil(high * 20) + 1) / 20).tolist()
    axes.hist(finite[finite <= threshold], edges, color=PALETTE[0])
    axes.hist(finite[finite > threshold], edges, color=PALETTE[1])
    axes.axvline(threshold, color="0.2", linestyle="--", linewidth=1)
    over = np.mean(~(values <= threshold))
    axes.set_title(f"{100 * over:.3g} % of {len(values)} datapoints above {threshold:.2f}", fontsize=10, loc="left")
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
    log_w = array(log_weights)
    if log_w.ndim != 2:
        raise ValueError(f"weight_concentration: expected log-weights [K, N], got {list(log_w.shape)}.")
    w = np.sort(np.exp(log_w - log_w.max(axis=0)), axis=0)[::-1]
    share = np.cumsum(w, axis=0) / w.sum(axis=0)
    low, middle, high = np.quantile(share, [0.1, 0.5, 0.9], axis=1)
    m = np.arange(1, len(share) + 1)
    figure, axes = blank(6.0, 3.6)
    axes.fill_between(m, low, high, color=PALETTE[0], alpha=0.25, linewidth=0, label="10 % to 90 % of datapoints")
    axes.plot(m, middle, color=PALETTE[0], label="median datapoint", marker="o" if len(m) == 1 else "")
    axes.plot(m, m / len(m), color="0.4", linestyle=":", label="equal weights")
    axes.set_xscale("log")
    axes.set(xlabel=f"largest weights, of {len(m)}", ylabel="share of the total weight", ylim=(0, 1.03))
    axes.legend(loc="best")
    return figure
