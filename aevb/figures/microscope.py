"""How noisy each objective's gradient is, a parameter block at a time."""

from typing import TYPE_CHECKING

import numpy as np

from .canvas import PALETTE, panels

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

__all__ = ["gradient_noise"]

_MARKERS = "osD^vPX*"


def gradient_noise(table: "pd.DataFrame", player: str = "guide") -> "Figure":
    """Draw the variance and the signal-to-noise ratio of each objective's gradient, a line a parameter block.

    Bars are two standard errors of the variance; a ratio's bar is what they make of it.

    Arguments:
        table: What :func:`~aevb.inference.gradient_microscope` returned.
        player: Whose parameters: guide or model.

    Raises:
        ValueError: if the table has no rows of the player.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    rows = table[table["player"] == player]
    if rows.empty:
        known = sorted(set(map(str, table["player"])))
        raise ValueError(f"gradient_noise: expected player one of {', '.join(known)}, got {player!r}.")
    blocks, objectives = list(dict.fromkeys(rows["block"])), list(dict.fromkeys(rows["objective"]))
    figure, (left, right) = panels(1, 2, 8.6, 1.0 + 0.1 * len(blocks) * (len(objectives) + 1.5))
    for k, objective in enumerate(objectives):
        some = rows[rows["objective"] == objective]
        height = np.array([-float(blocks.index(block)) for block in some["block"]])
        height += 0.8 * (0.5 - (k + 0.5) / len(objectives))  # the first objective on top
        variance, ratio = some["variance"].to_numpy(), some["snr"].to_numpy()
        low, high = some["variance_low"].to_numpy(), some["variance_high"].to_numpy()
        style = {
            **{"fmt": _MARKERS[k % len(_MARKERS)], "color": PALETTE[k % len(PALETTE)]},
            **{"markersize": 4, "linewidth": 1, "label": objective},
        }
        left.errorbar(variance, height, xerr=[variance - low, high - variance], **style)
        with np.errstate(divide="ignore", invalid="ignore"):
            ends = [ratio - ratio * np.sqrt(variance / high), ratio * np.sqrt(variance / low) - ratio]
        right.errorbar(ratio, height, xerr=np.nan_to_num(ends, nan=0.0, posinf=0.0), **style)
    for axes, title in ((left, "variance of the gradient"), (right, "signal-to-noise ratio")):
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if axes is right else (1.0,)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel(title)
        axes.set_yticks([-float(k) for k in range(len(blocks))], blocks, fontsize=8)
        axes.grid(axis="y", visible=False)
        for k in range(1, len(blocks)):
            axes.axhline(0.5 - k, color="0.85", linewidth=0.8)
    right.tick_params(labelleft=False)
    right.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=8)
    return figure
