"""Models ranked by held-out log p(x), with the error of each *difference* on the same datapoints.

Two models find the same datapoints hard, so the error of a difference is far smaller than the errors of its parts say.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from .evidence import Evidence

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["compare"]


def compare(evidence: Mapping[str, Evidence]) -> pd.DataFrame:
    """Rank models by the mean log p(x) of the same held-out datapoints.

    Args:
        evidence: A model's name to its evidence, all on the same rows in the same order.

    Returns:
        A row a model, the best first: ``rank``, ``log_px`` and ``standard_error`` (nats per datapoint),
        ``difference`` to the best and its paired ``difference_error``, ``share_better`` (datapoints this model finds
        likelier than the best one does), ``direction`` and ``khat_over_threshold``.

    Raises:
        ValueError: Nothing is given, or the numbers of datapoints differ.
    """
    import pandas as pd

    sizes = {name: len(found.log_px) for name, found in evidence.items()}
    if len(set(sizes.values())) != 1:
        raise ValueError(f"a paired comparison needs one data set for all models; the numbers of rows are {sizes}.")
    ranked = sorted(evidence, key=lambda name: -evidence[name].mean)
    best = evidence[ranked[0]].log_px.double().cpu()
    rows = []
    for rank, name in enumerate(ranked):
        found = evidence[name]
        difference = found.log_px.double().cpu() - best
        error = float(difference.std()) / math.sqrt(len(best)) if len(best) > 1 else math.nan
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
                "khat_over_threshold": found.khat_share,
            }
        )
    return pd.DataFrame(rows).set_index("model")
