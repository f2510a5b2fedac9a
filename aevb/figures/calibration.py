r"""Whether a posterior is calibrated: histograms of its ranks with their band, and the ECDF-difference plot.

Ranks of the truth among draws of a right posterior are uniform. A heap in the middle: the posteriors are too wide;
heaps at both ends: too narrow; a slope: shifted. The ECDF difference F(u) - u shows the same without bins, and its
band holds everywhere at once. Dimensions are counted from zero, as z[..., 0] is.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from aevb.inference.diagnostics.calibration import Calibration, ECDFDifference

from .canvas import PALETTE, Array, array, panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["rank_ecdf", "rank_histograms"]

_NAMED = 4  # curves with a colour and a name of their own
_COLUMNS = 3


def rank_histograms(
    calibration: Calibration, site: str | None = None, *, worst: int = 6, bins: int = 20, prob: float = 0.99
) -> "Figure":
    """Draw the rank histogram of a site's dimensions, one a panel; of many dimensions the ``worst`` ones alone.

    The worst are those whose ECDF leaves its band by most, the first panel the worst of all. Bins outside the band,
    in which one bin of a calibrated posterior lies with probability ``prob``, are drawn in the second colour.

    Args:
        calibration: Ranks of simulated truths.
        site: The latent; None where there is only one.
        worst: The most panels.
        bins: Bins of each histogram.
        prob: Of a calibrated bin's being inside the band.

    Raises:
        ValueError: There are several latents and none is named, or none of that name.
    """
    site = _site(calibration, site)
    histogram = calibration.histogram(site, bins, prob)
    counts, edges = array(histogram.counts), array(histogram.edges)
    order = np.argsort(-_excess(_plot(calibration, site, 0.95)), kind="stable")[:worst]
    total = counts.shape[1]
    cols = min(_COLUMNS, len(order))
    rows = -(-len(order) // cols)
    figure, axes = panels(rows, cols, max(4.4, 0.6 + 2.6 * cols), 0.9 + 1.7 * rows)
    for ax, j in zip(axes, order, strict=False):
        _histogram(ax, edges, counts[:, j], histogram.low, histogram.high)
        ax.set_title(f"{site}[{j}]", fontsize=10, loc="left")
    for ax in axes[len(order) :]:
        ax.remove()
    top = 1.08 * max(float(counts[:, order].max()), histogram.high)
    for ax in axes[: len(order)]:
        ax.set(xlim=(0, 1), ylim=(0, top))
    which = f"the {len(order)} worst of {total} dimensions; " if total > len(order) else ""
    note = f"{which}{100 * prob:g} % of calibrated bins lie in the grey band"
    figure.supxlabel(f"rank of the truth among {calibration.num_draws} draws, as a fraction\n({note})", fontsize=10)
    figure.supylabel("simulations", fontsize=10)
    return figure


def rank_ecdf(
    calibration: Calibration | Mapping[str, Calibration], site: str | None = None, *, prob: float = 0.95
) -> "Figure":
    r"""Draw the ECDF of the ranks less the uniform one, a curve a dimension, with its simultaneous band.

    .. math:: F_j(u) - u, \qquad F_j(u) = \frac1S \sum_s 1[\mathrm{rank}_{sj} + 1 \le u (L + 1)]

    All curves of a calibrated posterior stay inside, at every point, with probability ``prob``: the level is divided
    by the number of all curves there are, as :meth:`~aevb.inference.Calibration.miscalibrated` does. Curves that leave
    are coloured, the worst of them named; those that stay are grey.

    Args:
        calibration: Ranks of simulated truths; or label to ranks (guide, HMC, ...), a panel each.
        site: The latent, or a quantity that joins latents and data (``log_joint``, ...); None where there is only one
            latent.
        prob: Of a calibrated posterior's being inside, all curves together.

    Raises:
        ValueError: There is nothing to draw, several latents and none is named, or none of that name.

    References:
        Graphical Test for Discrete Uniformity, Sailynoja, Burkner & Vehtari, 2022, arXiv 2103.10522.
    """
    shown = calibration if isinstance(calibration, Mapping) else {"": calibration}
    if not shown:
        raise ValueError("rank_ecdf: expected at least one calibration, got none.")
    figure, axes = panels(1, len(shown), 0.8 + 4.2 * len(shown), 3.6)
    for ax, (label, one) in zip(axes, shown.items(), strict=True):
        outcome = _differences(ax, one, _site(one, site), prob)
        ax.set_title(f"{label}: {outcome}" if label else outcome, fontsize=10, loc="left")
        ax.set(xlim=(0, 1), xlabel="rank of the truth, as a fraction u")
    reach = max(abs(limit) for ax in axes for limit in ax.get_ylim())
    for ax in axes:
        ax.set_ylim(-reach, reach)
    axes[0].set_ylabel("F(u) \u2212 u")
    return figure


def _histogram(axes: "Axes", edges: Array, counts: Array, low: float, high: float) -> None:
    inside = (counts >= low) & (counts <= high)
    axes.axhspan(low, high, color="0.9", linewidth=0)
    for which, colour in ((inside, PALETTE[0]), (~inside, PALETTE[1])):
        axes.bar(edges[:-1][which], counts[which], np.diff(edges)[which], align="edge", color=colour, edgecolor="white")
    axes.axhline(counts.sum() / len(counts), color="0.2", linestyle="--", linewidth=1)


def _differences(axes: "Axes", calibration: Calibration, site: str, prob: float) -> str:
    """Draw one panel; return how many curves leave the band, in words."""
    plot = _plot(calibration, site, prob)
    grid = np.concatenate([[0.0], array(plot.grid), [1.0]])
    difference, excess = np.pad(array(plot.difference), ((1, 1), (0, 0))), _excess(plot)
    left = [int(j) for j in np.argsort(-excess, kind="stable") if excess[j] > 1.0 + 1e-9]
    low, high = np.pad(array(plot.low), 1), np.pad(array(plot.high), 1)
    axes.fill_between(grid, low, high, color="0.85", linewidth=0, label=f"band, {100 * prob:g} %")
    axes.axhline(0.0, color="0.2", linewidth=1)
    for place, j in enumerate(left):
        named = place < _NAMED
        label = f"{site}[{j}]" if named else "others outside" if place == _NAMED else None
        colour, width = (PALETTE[place], 1.6) if named else ("0.2", 0.9)
        axes.plot(grid, difference[:, j], color=colour, linewidth=width, label=label, zorder=4 - place / len(left))
    kept = [j for j in range(len(excess)) if j not in left]
    for j in kept:
        axes.plot(grid, difference[:, j], color="0.55", linewidth=0.9, label="inside" if j == kept[0] else None)
    axes.legend(fontsize=8, ncols=2)
    return f"{len(left)} of {len(excess)} outside the band"


def _plot(calibration: Calibration, site: str, prob: float) -> ECDFDifference:
    """The differences with the band that all dimensions together keep with ``prob``."""
    return calibration.ecdf_difference(site, calibration.together(prob))


def _excess(plot: ECDFDifference) -> Array:
    """How far each dimension's curve goes at most, in widths of its band: above one it leaves."""
    difference, low, high = array(plot.difference), array(plot.low)[:, None], array(plot.high)[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        reach: Array = np.nan_to_num(np.where(difference > 0, difference / high, difference / low)).max(axis=0)
    return reach


def _site(calibration: Calibration, site: str | None) -> str:
    names = list(calibration.ranks)
    if site is None and len(names) == 1:
        return names[0]
    if site not in (*names, *calibration.joint):
        raise ValueError(f"site: expected one of the latents {names}, got {site!r}; name it: site={names[0]!r}.")
    return str(site)
