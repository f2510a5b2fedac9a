"""The table a reproduction writes: what was published beside what came out here."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from aevb.run_folder import ComparisonFolder

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Budget", "Row", "check_budget", "write_table"]

Budget = Literal["quick", "paper"]


class Row(NamedTuple):
    """One number: its name, the published value (NaN if there is none), ours and our standard error (NaN if exact)."""

    quantity: str
    published: float
    ours: float
    error: float = math.nan


def check_budget(budget: str) -> None:
    """Raise ValueError unless the budget is one that every reproduction knows."""
    if budget not in ("quick", "paper"):
        raise ValueError(f"budget: expected 'quick' or 'paper', got {budget!r}.")


def write_table(rows: Sequence[Row], budget: str, out: Path) -> "pd.DataFrame":
    """Write ``table.csv`` into a folder, and return it as a data frame."""
    import pandas as pd

    table = pd.DataFrame(list(rows), columns=list(Row._fields)).assign(budget=budget)
    ComparisonFolder(out).write_rows(table, float_format="%.4f")
    return table
