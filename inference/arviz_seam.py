"""The one place that speaks to ArviZ, in both its majors (0.23 on Python 3.11, 1.x from 3.12).

ArviZ costs seconds to import, so it is imported when first asked for.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["convergence", "inference_data", "is_new", "open_inference_data", "pareto_khat", "smoothed_weights"]


def arviz() -> Any:
    """The ArviZ module."""
    with warnings.catch_warnings():
        # 0.23 announces the refactoring on every import; both sides of it are spoken here.
        warnings.filterwarnings("ignore", message="\\s*ArviZ is undergoing", category=FutureWarning)
        import arviz
    return arviz


def is_new() -> bool:
    """Whether this is ArviZ 1.x: its ``from_dict`` takes the groups in one mapping."""
    return "posterior" not in inspect.signature(arviz().from_dict).parameters


def smoothed_weights(log_weights: Tensor) -> tuple[Tensor, Tensor]:
    """Pareto-smoothed, normalised log-weights and k-hat.

    Args:
        log_weights: Raw log-weights ``[N, K]``.

    Returns:
        Smoothed log-weights ``[N, K]`` (they sum to one) and k-hat ``[N]``.
    """
    values = log_weights.detach().double().cpu().numpy()
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        if is_new():
            from arviz_stats.base import array_stats

            # 1.x takes log-likelihoods, whose negatives are the weights of leave-one-out.
            smoothed, khat = array_stats.psislw(-values, axis=-1)
        else:
            smoothed, khat = arviz().psislw(values)
    return torch.as_tensor(np.asarray(smoothed)), torch.as_tensor(np.atleast_1d(np.asarray(khat, dtype=float)))


def pareto_khat(log_weights: Tensor) -> Tensor:
    """The Pareto k-hat of each datapoint's weights.

    Args:
        log_weights: Raw log-weights ``[N, K]``.

    Returns:
        k-hat ``[N]``, float64; minus infinity where all weights are equal, as there is no tail.
    """
    rows = log_weights.detach().double()
    # A guide that is exact has equal weights up to rounding, and no Pareto tail can be fitted to rounding.
    flat = rows.max(-1).values - rows.min(-1).values < 1e-6
    khat = torch.full((len(rows),), -torch.inf, dtype=torch.float64)
    if not bool(flat.all()):
        khat[~flat] = smoothed_weights(rows[~flat])[1]
    return khat


def convergence(draws: Tensor) -> tuple[Tensor, Tensor]:
    """How well chains agree, by ArviZ: rank-normalised split r-hat and bulk effective sample size of each variable.

    Args:
        draws: ``[chain, draw, D]``.

    Returns:
        r-hat and effective sample size, each ``[D]`` in float64.
    """
    columns = draws.detach().double().cpu().numpy().transpose(2, 0, 1)
    rhat = [float(arviz().rhat(column)) for column in columns]
    ess = [float(arviz().ess(column)) for column in columns]
    return torch.tensor(rhat, dtype=torch.float64), torch.tensor(ess, dtype=torch.float64)


def inference_data(
    groups: Mapping[str, Mapping[str, np.ndarray]],
    *,
    dims: Mapping[str, Sequence[str]],
    coords: Mapping[str, Any],
    attrs: Mapping[str, Any],
) -> Any:
    """Labelled groups as ``InferenceData`` (0.x) or ``DataTree`` (1.x).

    Args:
        groups: Group to variable to array; samples come as ``[chain, draw, ...]``.
        dims: Variable to the names of its dimensions beyond chain and draw.
        coords: Dimension to its labels.
        attrs: What to write on every group.
    """
    named: dict[str, Any] = {"dims": {k: list(v) for k, v in dims.items()}, "coords": dict(coords)}
    plain = {group: dict(values) for group, values in groups.items()}
    if is_new():
        return arviz().from_dict(plain, attrs={"/": dict(attrs), **{g: dict(attrs) for g in plain}}, **named)
    data = arviz().from_dict(**plain, **named)
    for group in data.groups():
        data[group].attrs.update(attrs)
    return data


def open_inference_data(path: str | Path) -> Any:
    """Read what ``to_netcdf`` wrote."""
    return arviz().from_netcdf(str(path))
