"""Estimates of log p(x) beside each other, each with its error and the side it stands on."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .canvas import PALETTE, blank

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["evidence_forest"]


def evidence_forest(rows: Sequence[Mapping[str, Any]]) -> "Figure":
    """Draw one line per method: mean log p(x) and its standard error; the marker tells which side the truth is on.

    Arguments:
        rows: records with ``method``, ``mean``, ``standard_error`` and, where known, ``direction`` (lower
            bound, upper bound or estimate), ``split`` and ``label`` (in place of the method's name).

    Raises:
        ValueError: if there are no rows.
    """
    if not rows:
        raise ValueError("evidence_forest: expected at least one row, got none.")
    figure, axes = blank(7.0, 1.3 + 0.42 * len(rows))
    several = [what for what in ("split", "num_points") if len({row.get(what) for row in rows}) > 1]
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
        names.append(_name(row, several))
    axes.set_yticks(range(len(rows), 0, -1), names)
    axes.set(ylim=(0.4, len(rows) + 0.8), xlabel="log p(x), nats per datapoint (bars: \u00b1 1 standard error)")
    axes.margins(x=0.12)
    axes.locator_params(axis="x", nbins=6)
    axes.grid(axis="y", visible=False)
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
    return figure


def _name(row: Mapping[str, Any], several: Sequence[str]) -> str:
    """A row's name, with the split and the number of datapoints where rows differ in them."""
    told = {"split": f"{row.get('split')}", "num_points": f"{row.get('num_points')} datapoints"}
    beside = ", ".join(told[what] for what in several if row.get(what))
    return str(row.get("label", row.get("method"))) + (f" ({beside})" if beside else "")


def _direction(direction: str) -> tuple[dict[str, Any], str]:
    """Style a direction: the marker points from a bound to where the truth is."""
    for word, marker, colour, kind in (
        ("lower", ">", PALETTE[0], "lower bound"),
        ("upper", "<", PALETTE[1], "upper bound"),
    ):
        if word in direction:
            return {"fmt": marker, "color": colour, "markersize": 8, "capsize": 3}, kind
    return {"fmt": "o", "color": PALETTE[2], "markersize": 6, "capsize": 3}, "estimate"
