"""ArviZ's plots of a pair: k-hat a datapoint, and replicated data over the observed ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from torch import Tensor

from ..arviz_compat import draw_khat, draw_predictive, inference_data
from ..evidence import Evidence, khat_threshold

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["plot_khat", "plot_ppc"]


def plot_khat(evidence: Evidence | Tensor, num_samples: int | None = None) -> Figure:
    """Plot the Pareto shape of every datapoint's importance weights, with the shares between the lines.

    Args:
        evidence: What has weights (importance sampling, annealing), or k-hat itself, ``[N]``.
        num_samples: Weights a datapoint; asked for where k-hat itself is given.

    Returns:
        The figure: lines at 0, at the threshold min(1 - 1 / log10 S, 0.7) and at 1; numbers that are not finite lie at
        the edge.

    Raises:
        ValueError: The evidence has no weights, or their number is not known.

    References:
        Pareto Smoothed Importance Sampling (Vehtari et al., 2024), https://arxiv.org/abs/1507.02646
    """
    if isinstance(evidence, Evidence):
        khat, num_samples = evidence.khat, evidence.num_samples
        if khat is None:
            raise ValueError(
                f"evidence by {evidence.method!r} has no importance weights and so no k-hat; use ImportanceSampling."
            )
    else:
        khat = evidence
    if num_samples is None:
        raise ValueError(
            "num_samples: expected the number of weights behind each k-hat, got None; the threshold follows from it."
        )
    return draw_khat(khat, khat_threshold(num_samples))


def plot_ppc(
    draws: Any,
    *,
    group: Literal["posterior", "prior"] = "posterior",
    kind: Literal["ecdf", "kde"] = "ecdf",
    statistic: Callable[[np.ndarray], np.ndarray] | None = None,
    var_name: str | None = None,
    num_draws: int = 50,
) -> Figure:
    """Plot replicated data sets over the observed one (posterior or prior predictive check).

    Draws of the posterior have seen the datapoint that they replicate, so that they tell misfit of p(x|z) alone; those
    of the prior are new data, and tell misfit of the whole model.

    Args:
        draws: What :meth:`Run.to_arviz`, :func:`guide_draws` or :func:`hmc_draws` returned.
        group: Whose replications.
        kind: ``"ecdf"``, right for numbers and counts alike, or ``"kde"``.
        statistic: What of each datapoint is compared: takes values ``[..., datum, *event]`` to ``[..., datum]``, e.g.
            the sum over pixels for the ink of an image; its name goes to the axis. By default every number.
        var_name: The observed site, where there are several.
        num_draws: Replications that are drawn, if there are as many.

    Raises:
        ValueError: The draws hold no replications, or there are several observed sites and none is named.

    References:
        Visualization in Bayesian Workflow (Gabry et al., 2019), sec. 5, https://arxiv.org/abs/1709.01449
    """
    if f"{group}_predictive" not in _groups(draws):
        raise ValueError(
            f"the draws hold no {group}_predictive group; ask for it: to_arviz(x), num_predictive above 0."
        )
    replicated, observed = draws[f"{group}_predictive"], draws["observed_data"]
    names = [str(name) for name in observed.data_vars if name in replicated.data_vars]
    if var_name is None and len(names) == 1:
        var_name = names[0]
    if var_name not in names:
        raise ValueError(f"var_name: expected one of the observed sites {names}, got {var_name!r}.")
    take, label = statistic or (lambda values: values), _label(statistic, var_name)
    groups = {
        f"{group}_predictive": {label: take(np.asarray(replicated[var_name].values))},
        "observed_data": {label: take(np.asarray(observed[var_name].values))},
    }
    most = int(replicated.sizes["chain"] * replicated.sizes["draw"])
    axes = groups["observed_data"][label].ndim
    dims = {label: ["datum", *(f"dim_{axis}" for axis in range(axes - 1))]}
    return draw_predictive(inference_data(groups, dims=dims, coords={}, attrs={}), group, kind, min(num_draws, most))


def _label(statistic: Callable[[np.ndarray], np.ndarray] | None, var_name: str) -> str:
    """What is drawn, by name: ``ink of x`` where the statistic is called ``ink``."""
    if statistic is None:
        return var_name
    name = getattr(statistic, "__name__", "<lambda>")
    return f"{'statistic' if name == '<lambda>' else name} of {var_name}"


def _groups(draws: Any) -> set[str]:
    """The groups' names, without the slash that one of the two majors writes."""
    names = draws.groups() if callable(draws.groups) else draws.groups
    return {str(name).strip("/") for name in names}
