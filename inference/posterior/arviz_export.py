"""Posterior draws of the latents as ArviZ data, from the guide or from Markov chains."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..arviz_compat import inference_data
from ..pairs.data import as_rows
from ..pairs.finished import Finished, checked
from ..pairs.pair import Pair
from ..pairs.sites import Data, as_data
from ..pairs.unconstrained import flatten, log_density, unflatten
from ..random_state import RandomState
from .hmc import sample

__all__ = ["guide_draws", "hmc_draws"]


def guide_draws(pair: Finished, data: Any, *, num_samples: int = 500, num_predictive: int = 100, seed: int = 0) -> Any:
    """Draws of the guide with their log-densities.

    Args:
        pair: A run, or a checked pair with a guide.
        data: The datapoints; keep them few, every draw of every one is kept.
        num_samples: Draws a datapoint.
        num_predictive: Draws of a chain that are followed by one of the data, x_rep ~ p(x|z), and by as many from the
            prior; at most ``num_samples``.
        seed: Of the draws.

    Returns:
        Groups ``posterior`` (latents, dims chain, draw, datum, then one per latent dimension), ``log_likelihood``,
        ``sample_stats`` (``lp`` and, of a guide with a density, ``log_q``, ``log_weight``), ``posterior_predictive``,
        ``prior_predictive`` and ``observed_data``.
    """
    pair = checked(pair)
    rows = _rows(pair, data)
    with RandomState(seed, rows[0].device), pair.evaluation():
        z, log_lik, stats = _drawn(pair, rows, num_samples)
        predictive = _predictive(pair, rows, {name: value.unsqueeze(0) for name, value in z.items()}, num_predictive)
    z = {name: value.unsqueeze(0) for name, value in z.items()}
    stats = {name: value.unsqueeze(0) for name, value in stats.items()}
    return _export(pair, rows, z, log_lik.unsqueeze(0), stats, predictive, method="guide")


def hmc_draws(
    pair: Finished,
    data: Any,
    *,
    num_chains: int = 4,
    num_samples: int = 500,
    num_predictive: int = 100,
    warmup: int = 500,
    num_leapfrog: int = 10,
    target_accept: float = 0.8,
    seed: int = 0,
) -> Any:
    """Draws of the exact posterior by HMC, ``num_chains`` chains per datapoint, all of them at once.

    ``az.summary`` of the result carries r-hat and the effective sample size of every latent of every datapoint.

    Args:
        pair: A run, or a checked pair; a guide is not needed, but where there is one the chains start at its draws.
        data: The datapoints.
        num_chains: Chains a datapoint.
        num_samples: Draws kept a chain.
        num_predictive: Draws of a chain that are followed by one of the data, as in :func:`guide_draws`.
        warmup: Transitions thrown away while the step size of each chain is tuned.
        num_leapfrog: Leapfrog steps a transition.
        target_accept: The acceptance probability that is tuned for.
        seed: Of the draws.

    Returns:
        Groups as in :func:`guide_draws`; ``sample_stats`` holds ``lp`` and ``acceptance_rate``.
    """
    pair = checked(pair)
    rows = _rows(pair, data)
    with RandomState(seed, rows[0].device), pair.evaluation():
        start = pair.sample_prior(rows, num_chains) if pair.guide is None else pair.sample_guide(rows, num_chains)
        chains = sample(
            log_density(pair, rows),
            flatten(pair, start),
            num_samples=num_samples,
            warmup=warmup,
            num_leapfrog=num_leapfrog,
            target_accept=target_accept,
        )
        draws = chains.u.transpose(0, 1).flatten(0, 1)  # [chain * draw, batch, D]
        z, _ = unflatten(pair, draws)
        log_prior, log_lik = pair.log_densities(z, rows)
        shape = (num_chains, num_samples)
        latents = {name: value.unflatten(0, shape) for name, value in z.items()}
        predictive = _predictive(pair, rows, latents, num_predictive)
    stats = {
        "lp": (log_prior + log_lik).unflatten(0, shape),
        "acceptance_rate": chains.accept_prob.transpose(0, 1),
    }
    return _export(pair, rows, latents, log_lik.unflatten(0, shape), stats, predictive, method="hmc")


def _drawn(pair: Pair, rows: Data, num_samples: int) -> tuple[dict[str, Tensor], Tensor, dict[str, Tensor]]:
    if not pair.has_density:
        z = pair.sample_guide(rows, num_samples)
        log_prior, log_lik = pair.log_densities(z, rows)
        return z, log_lik, {"lp": log_prior + log_lik}
    cloud = pair.cloud(rows, num_samples)
    return cloud.z, cloud.log_lik, {"lp": cloud.log_joint, "log_q": cloud.log_q, "log_weight": cloud.log_weight}


def _predictive(pair: Pair, rows: Data, z: dict[str, Tensor], num_draws: int) -> dict[str, dict[str, Tensor]]:
    """Data drawn after the first draws of each chain, and as many from the prior: group to site to values."""
    some = {name: value[:, :num_draws] for name, value in z.items()}
    shape = next(iter(some.values())).shape[:2]
    if not shape.numel():
        return {}
    told = pair.likelihoods({name: value.flatten(0, 1) for name, value in some.items()}, rows)
    drawn = {
        "posterior_predictive": {name: fn.sample() for name, fn in told.items()},
        "prior_predictive": pair.dream(rows, shape.numel())[1],
    }
    # Plates of an observed site lie left of the batch, where its data have dimensions right of it.
    return {
        group: {name: value.movedim(pair.max_plate_nesting, 1).unflatten(0, shape) for name, value in values.items()}
        for group, values in drawn.items()
    }


def _rows(pair: Pair, data: Any) -> Data:
    device = pair.example[0].device
    rows = as_rows(data, device)
    return as_data(rows[torch.arange(len(rows), device=device)])


def _export(
    pair: Pair,
    rows: Data,
    z: dict[str, Tensor],
    log_lik: Tensor,
    stats: dict[str, Tensor],
    predictive: dict[str, dict[str, Tensor]],
    method: str,
) -> Any:
    observed = {name: rows[at] for name, at in pair.observed.items() if at is not None}
    unseen = {name: value[0, 0] for values in predictive.values() for name, value in values.items()}
    values = {name: value[0, 0] for name, value in z.items()} | unseen | observed
    dims = {name: ["datum", *_event_dims(name, value)] for name, value in values.items()}
    coords: dict[str, Any] = {"datum": np.arange(len(rows[0]))}
    for name, value in values.items():
        coords |= {dim: np.arange(size) for dim, size in zip(_event_dims(name, value), value.shape[1:], strict=True)}
    likelihood = "_".join(pair.observed) or "x"
    # The log-likelihood is summed over a datapoint's event, so it has the datum dimension alone.
    dims |= {name: ["datum"] for name in stats}
    log_likelihood = {f"{likelihood}_log_lik": _array(log_lik)}
    dims |= {f"{likelihood}_log_lik": ["datum"]}
    return inference_data(
        {
            "posterior": {name: _array(value) for name, value in z.items()},
            "log_likelihood": log_likelihood,
            "sample_stats": {name: _array(value) for name, value in stats.items()},
            **{
                group: {name: _array(_like(value, observed.get(name))) for name, value in drawn.items()}
                for group, drawn in predictive.items()
            },
            "observed_data": {name: _array(value) for name, value in observed.items()},
        },
        dims=dims,
        coords=coords,
        attrs={"inference_library": "aevb", "method": method, "created_at": datetime.now(UTC).isoformat()},
    )


def _event_dims(name: str, value: Tensor) -> list[str]:
    return [f"{name}_dim_{axis}" for axis in range(value.dim() - 1)]


def _like(value: Tensor, observed: Tensor | None) -> Tensor:
    """Draws ``[chain, draw, datum, ...]`` shaped as the data they stand for, whose numbers may lie in one row."""
    return value if observed is None else value.reshape(*value.shape[:2], *observed.shape)


def _array(value: Tensor) -> np.ndarray:
    return value.detach().cpu().numpy()
