"""The one place that speaks to ArviZ, in both its majors (0.23 on Python 3.11, 1.x from 3.12).

ArviZ costs seconds to import, so it is imported when first asked for.
"""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "convergence",
    "draw_khat",
    "draw_predictive",
    "inference_data",
    "is_new",
    "leave_one_out",
    "open_inference_data",
    "pareto_khat",
    "smoothed_weights",
]

_WIDE = (7.0, 3.6)


def arviz() -> Any:
    """The ArviZ module."""
    with warnings.catch_warnings():
        # 0.23 announces the refactoring on every import; both sides of it are spoken here.
        warnings.filterwarnings("ignore", message="\\s*ArviZ is undergoing", category=FutureWarning)
        import arviz
    return arviz


def is_new() -> bool:
    """Tell ArviZ 1.x by its ``from_dict``, which takes the groups in one mapping."""
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
        k-hat ``[N]``, float64; minus infinity where the largest weights are equal, as there is no tail.
    """
    rows = log_weights.detach().double().cpu()
    # A guide that is exact has equal weights up to rounding, and no Pareto tail can be fitted to rounding; of discrete
    # latents many draws may have the largest weight.
    tail = math.ceil(min(0.2 * rows.shape[-1], 3.0 * math.sqrt(rows.shape[-1])))
    largest = rows.topk(tail + 1).values
    flat = largest[:, 0] - largest[:, -1] < 1e-4
    khat = torch.full((len(rows),), -torch.inf, dtype=torch.float64)
    if not bool(flat.all()):
        khat[~flat] = smoothed_weights(rows[~flat])[1]
    return khat


def convergence(draws: Tensor) -> tuple[Tensor, Tensor]:
    """Measure how well chains agree, by ArviZ: rank-normalised split r-hat and bulk effective sample size per variable.

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


def leave_one_out(log_lik: Tensor) -> Any:
    """ArviZ's ``ELPDData`` of PSIS leave-one-out, pointwise.

    Args:
        log_lik: log p(x_n | theta_s) under independent draws theta_s of a posterior, ``[S, N]``.
    """
    values = log_lik.detach().double().cpu().numpy()[None]
    groups = {
        "log_likelihood": {"x": values},
        "posterior": {"draw_number": np.arange(values.shape[1], dtype=float)[None]},
    }
    data = inference_data(groups, dims={"x": ["datum"]}, coords={"datum": np.arange(values.shape[2])}, attrs={})
    return arviz().loo(data, pointwise=True, reff=1.0)


def draw_khat(khat: Tensor, threshold: float) -> Figure:
    """``az.plot_khat`` of a k-hat a datapoint, with lines at 0, the threshold and 1 and the shares between them.

    Args:
        khat: ``[N]``; what is not finite is drawn at the edge.
        threshold: Above which an average of weights is not to be trusted.
    """
    import xarray as xr

    finite = khat[khat.isfinite()]
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
    values = khat.detach().double().cpu().nan_to_num(nan=max(high, 1.1), posinf=max(high, 1.1), neginf=min(low, 0.0))
    lines = [0.0, threshold, 1.0]
    found = xr.DataArray(values.numpy(), dims=["datum"], coords={"datum": np.arange(len(values))}, name="pareto_k")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        if is_new():
            known: Any = SimpleNamespace(pareto_k=found, good_k=threshold)
            options: dict[str, Any] = {"hline_values": lines, "visuals": {"hlines": True, "bin_text": True}}
        else:
            from arviz.stats.stats_utils import ELPDData

            known = ELPDData([found, threshold], index=["pareto_k", "good_k"])
            options = {"hlines_kwargs": {"hlines": lines}, "show_hlines": True, "show_bins": True}
        plot = arviz().plot_khat(known, **options, **_canvas())
    return _figure(plot)


def draw_predictive(data: Any, group: str, kind: str, num_draws: int) -> Figure:
    """``az.plot_ppc`` (0.x) or ``az.plot_ppc_dist`` (1.x): replicated data sets over the observed one.

    Args:
        data: What :func:`inference_data` returned, with ``observed_data`` and the group.
        group: ``"posterior"`` or ``"prior"``.
        kind: ``"ecdf"`` or ``"kde"``.
        num_draws: Replicated data sets that are drawn.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the two packages: renamed keywords, layouts
        if is_new():
            # Of the prior ArviZ leaves the observed data out, though a check against them is what is asked for.
            named = data if group == "posterior" else _as_posterior(data)
            plot = arviz().plot_ppc_dist(named, kind=kind, num_samples=num_draws, **_canvas())
        else:
            kind = {"ecdf": "cumulative"}.get(kind, kind)
            options = {"num_pp_samples": num_draws, "random_seed": 0, "observed": True}
            plot = arviz().plot_ppc(data, group=group, kind=kind, **options, **_canvas())
    return _figure(plot)


def _as_posterior(data: Any) -> Any:
    groups = {"posterior_predictive": data["prior_predictive"], "observed_data": data["observed_data"]}
    return type(data).from_dict({name: group.to_dataset() for name, group in groups.items()})


def _canvas() -> dict[str, Any]:
    if is_new():
        return {"backend": "matplotlib", "figure_kwargs": {"figsize": _WIDE}}
    return {"backend": "matplotlib", "figsize": _WIDE}


def _figure(plot: Any) -> Figure:
    """The matplotlib figure of what a plot returned, taken out of pyplot's hands, so that it is shown once."""
    from matplotlib import pyplot

    figure: Figure = plot.viz["figure"].item() if is_new() else np.ravel(plot)[0].figure
    pyplot.close(figure)
    figure.set_layout_engine("constrained")
    return figure
