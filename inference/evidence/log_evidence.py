"""The one door to every estimator of the evidence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from ..pairs.contract import check_rows
from ..pairs.data import as_rows
from ..pairs.pair import Pair
from ..pairs.sites import as_data
from ..random_state import RandomState
from .evidence import Estimator, Evidence
from .provenance import provenance

__all__ = ["log_evidence"]


def log_evidence(
    model: Callable[..., Any],
    guide: Callable[..., Any] | None,
    data: Any,
    estimator: Estimator,
    *,
    seed: int = 0,
    split: str | None = None,
) -> Evidence:
    """Estimate log p(x) of every datapoint under any Pyro pair.

    Args:
        model: The generative program.
        guide: The recognition program; ``None`` for an estimator that needs none.
        data: What :func:`~aevb.inference.fit` takes.
        estimator: E.g. ``ImportanceSampling(5000)``.
        seed: Of the draws; the global random state is left as it was found.
        split: What the rows are called ("test"): evidence of another split is then not compared with it.

    Returns:
        The evidence, ``log_px`` ``[N]`` in nats, and what it is of.

    Raises:
        ContractError: The pair breaks the contract.

    Example:
        >>> from aevb.models import ProbabilisticPCA
        >>> from aevb.inference.evidence import ImportanceSampling
        >>> _ = torch.manual_seed(0)
        >>> model = ProbabilisticPCA(data_dim=3, latent_dim=2)
        >>> x = model.simulate(20)
        >>> def guide(x):  # the exact posterior: every weight is p(x)
        ...     import pyro
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("z", model.posterior(x))
        >>> evidence = log_evidence(model, guide, x, ImportanceSampling(10))
        >>> torch.allclose(evidence.log_px.float(), model.log_evidence(x), atol=1e-4)
        True
    """
    device = _device(model, guide)
    rows = as_rows(data, device)
    pair = Pair(model, guide)
    with RandomState(seed, device), pair.evaluation():
        pair.check(as_data(rows[torch.arange(min(16, len(rows)), device=device)]))
        check_rows(pair, rows)
        return replace(estimator(pair, rows), provenance=provenance(pair, rows, split))


def _device(*programs: Any) -> torch.device:
    for program in programs:
        if isinstance(program, torch.nn.Module):
            for parameter in program.parameters():
                return parameter.device
    return torch.device("cpu")
