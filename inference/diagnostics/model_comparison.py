"""Models ranked by held-out log p(x), with the error of each *difference* on the same datapoints.

Two models find the same datapoints hard, so the error of a difference is far smaller than the errors of its parts say.
Only like is ranked: the same rows in the same units, against the same measure, bounded on the same side.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import TYPE_CHECKING

from ..evidence import Evidence
from ..evidence.errors import spread_error
from ..evidence.provenance import difference as unlike

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["compare"]


def compare(evidence: Mapping[str, Evidence], *, assume_alike: bool = False) -> pd.DataFrame:
    """Rank models by the mean log p(x) of the same held-out datapoints.

    Args:
        evidence: A model's name to its evidence, all on the same rows in the same order.
        assume_alike: Take numbers whose provenance is not known (evidence built by hand, rows that are drawn afresh) to
            be of the same rows and measure. What is known to be unlike is refused all the same.

    Returns:
        A row per model, the best first: ``rank``, ``log_px`` and ``standard_error`` (nats per datapoint),
        ``difference`` to the best and its paired ``difference_error`` (a standard error, wider where few datapoints do
        not know their own spread: two of it cover), ``share_better`` (datapoints this model finds
        likelier than the best one does), ``method``, ``direction``, ``measure`` and ``khat_over_threshold``.

    Raises:
        ValueError: Nothing is given, or the numbers are of different rows, units, measures, splits or directions, or
            are not known to be of the same.

    Example:
        >>> import torch, pyro, pyro.distributions as dist
        >>> from aevb import log_evidence
        >>> from aevb.inference.evidence import ImportanceSampling
        >>> def model(x, noise=1.0):
        ...     with pyro.plate("data", len(x)):
        ...         z = pyro.sample("z", dist.Normal(0.0, 1.0))
        ...         pyro.sample("x", dist.Normal(z, noise), obs=x)
        >>> def guide(x):
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("z", dist.Normal(x / 2, 0.7))
        >>> x = 1.4 * torch.randn(100, generator=torch.Generator().manual_seed(0))
        >>> sharper = lambda x: model(x, noise=0.3)
        >>> ask = ImportanceSampling(100)
        >>> table = compare({"wide": log_evidence(model, guide, x, ask), "sharp": log_evidence(sharper, guide, x, ask)})
        >>> table[["rank", "difference"]].round(1)
               rank  difference
        model
        wide      0         0.0
        sharp     1        -0.2
    """
    import pandas as pd

    if not evidence:
        raise ValueError("there is nothing to compare: give a mapping from a model's name to its evidence.")
    for names in combinations(evidence, 2):
        _refuse_unlike(names, *(evidence[name] for name in names))
    if not assume_alike:
        _insist_on_provenance(evidence)
    ranked = sorted(evidence, key=lambda name: -evidence[name].mean)
    best = evidence[ranked[0]].log_px.double().cpu()
    rows = []
    for rank, name in enumerate(ranked):
        found = evidence[name]
        difference = found.log_px.double().cpu() - best
        error = spread_error(difference)
        rows.append(
            {
                "model": name,
                "rank": rank,
                "log_px": found.mean,
                "standard_error": found.standard_error,
                "difference": float(difference.mean()),
                "difference_error": error,
                "share_better": float((difference > 0).double().mean()),
                "method": found.method,
                "direction": found.direction,
                "measure": found.provenance.measure if found.provenance else "not known",
                "khat_over_threshold": found.khat_share,
            }
        )
    return pd.DataFrame(rows).set_index("model")


def _refuse_unlike(names: tuple[str, str], a: Evidence, b: Evidence) -> None:
    reason = None
    if len(a.log_px) != len(b.log_px):
        reason = f"{names[0]} has {len(a.log_px)} rows, {names[1]} {len(b.log_px)}"
    elif a.provenance is not None and b.provenance is not None:
        reason = unlike(names, a.provenance, b.provenance)
    if reason is None and _side(a) != _side(b):
        reason = (
            f"{names[0]} is {_side(a)} ({a.method}), {names[1]} {_side(b)} ({b.method}): the higher number need not be "
            "of the likelier model"
        )
    if reason is not None:
        raise ValueError(f"{names[0]} and {names[1]} cannot be compared: {reason}.")


def _side(evidence: Evidence) -> str:
    """On which side of log p(x) the numbers lie in expectation; an exact one is the best of estimates."""
    sides = {"lower bound": "a lower bound", "upper bound": "an upper bound"}
    return sides.get(evidence.direction, "an estimate of log p(x)")


def _insist_on_provenance(evidence: Mapping[str, Evidence]) -> None:
    unknown = [name for name, found in evidence.items() if found.provenance is None or not found.provenance.known]
    if unknown and len(evidence) > 1:
        raise ValueError(
            f"what the numbers of {', '.join(unknown)} are of is not known (built by hand, or of rows that are drawn "
            "afresh), so they cannot be compared; take them from log_evidence on fixed rows, or say assume_alike=True."
        )
