r"""The marginal likelihood itself, where it can be had.

A model may know its own answer (a method ``log_evidence(x)``); discrete latents are enumerated,
p(x) = sum_z p(x, z); up to three continuous ones are integrated (:mod:`quadrature`); of more, a linear-Gaussian model's
log p(x) follows from its density (:mod:`~aevb.inference.posterior.gaussian`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..pairs.data import Rows, chunks
from ..pairs.pair import Pair
from ..pairs.sites import Data
from ..pairs.unconstrained import dimension, flatten
from ..posterior.gaussian import LOOKED_AT, gaussian_posterior, misfit
from .evidence import Evidence
from .quadrature import MOST_DIMENSIONS, Quadrature

__all__ = ["Exact"]

_MOST_STATES = 100_000
_NEGLIGIBLE = 0.01  # nats that rounding may cost
_FAR = 20  # draws of the prior at which a Gaussian model is held to be one
_ROWS = 20_000  # states of all datapoints of a chunk that are scored at once


@dataclass(frozen=True)
class Exact:
    """Take the model's own answer, enumerate discrete latents, integrate up to three others, or solve a Gaussian model.

    A model that knows log p(x) says so by a method ``log_evidence(*data) -> [batch]``, in nats. Where an integral has
    not converged on some datapoints, the evidence is an estimate, a note names them, and its errors say by how much.

    Raises:
        ValueError: No exact answer can be had; the message says why, and what would do.

    Example:
        >>> from aevb.models import GaussianMixture
        >>> from aevb.inference import log_evidence
        >>> _ = torch.manual_seed(0)
        >>> model = GaussianMixture(data_dim=2, num_components=3)
        >>> x = model.simulate(4)
        >>> exact = log_evidence(model, None, x, Exact())
        >>> exact.direction, exact.monte_carlo_error
        ('exact', 0.0)
    """

    name = "exact"

    @classmethod
    def in_verdict(cls, pair: Pair) -> dict[str, dict[str, Any]]:
        """Be asked, except where it could but integrate: quadrature is asked for that itself."""
        return {} if _integrates(pair) else {cls.name: {}}

    def __call__(self, pair: Pair, data: Rows) -> Evidence:
        """Work out log p(x) of every datapoint."""
        own = getattr(pair.model.fn, "log_evidence", None)
        if callable(own):
            return _evidence([own(*part) for part in chunks(data, _ROWS)], 0, "the model's own closed form")
        discrete = [site.name for site in pair.latents if _is_discrete(site.support)]
        if discrete:
            return _enumerated(pair, data, discrete)
        dim = _dimension(pair)
        if dim > MOST_DIMENSIONS:
            return _gaussian(pair, data, dim)
        found = Quadrature()(pair, data)
        found = replace(found, method="exact", notes=(f"by quadrature on {found.num_samples} points", *found.notes))
        return found if found.direction == "exact" else _closed_form_or(found, pair, data, dim)


def _integrates(pair: Pair) -> bool:
    """Whether quadrature is the only way to the answer."""
    own = callable(getattr(pair.model.fn, "log_evidence", None))
    if own or any(_is_discrete(site.support) for site in pair.latents):
        return False
    try:
        return dimension(pair) <= MOST_DIMENSIONS and not _is_gaussian(*_misfit(pair, pair.example))
    except (ValueError, RuntimeError):  # latents without coordinates: the refusal is said when it is asked
        return False


def _dimension(pair: Pair) -> int:
    try:
        return dimension(pair)
    except ValueError as error:
        raise ValueError(_refusal(f"its latents have no unconstrained coordinates ({error})")) from error


def _closed_form_or(found: Evidence, pair: Pair, data: Rows, dim: int) -> Evidence:
    """The closed form of a linear-Gaussian model, whose thin ridges quadrature is slow on; else what was found."""
    try:
        return _gaussian(pair, data, dim)
    except ValueError:
        return found


def _gaussian(pair: Pair, data: Rows, dim: int) -> Evidence:
    answers, worst = [], 0.0
    for part in chunks(data, min(LOOKED_AT, max(1, _ROWS // (dim + 1)))):
        try:
            off, tolerance = _misfit(pair, part)
        except (ValueError, RuntimeError) as error:  # latents that no gradient reaches
            raise ValueError(_refusal(f"it has {dim} latent dimensions")) from error
        if not _is_gaussian(off, tolerance):
            raise ValueError(_refusal(f"it has {dim} latent dimensions and is not linear and Gaussian in them"))
        answers.append(gaussian_posterior(pair, part).log_px)
        worst = max(worst, off)
    note = f"the closed form of a linear-Gaussian model (log p(x, z) is quadratic in z within {worst:.1g} nats)"
    return _evidence(answers, 0, note)


def _misfit(pair: Pair, part: Data) -> tuple[float, float]:
    return misfit(pair, part, flatten(pair, pair.sample_prior(part, _FAR)))


def _is_gaussian(off: float, tolerance: float) -> bool:
    return off <= min(tolerance, _NEGLIGIBLE)


def _enumerated(pair: Pair, data: Rows, discrete: list[str]) -> Evidence:
    continuous = [site.name for site in pair.latents if site.name not in discrete]
    if continuous:
        raise ValueError(
            _refusal(f"its latents {discrete} are discrete, to be enumerated, but {continuous} are continuous")
        )
    states = _states(pair)
    count = len(next(iter(states.values())))
    answers = []
    for part in chunks(data, max(1, _ROWS // count)):
        joint = [_log_joint(pair, some, part) for some in _split(states, _ROWS)]
        answers.append(torch.cat(joint).double().logsumexp(0))
    return _evidence(answers, count, f"by enumeration of {count} states")


def _states(pair: Pair) -> dict[str, Tensor]:
    """Every combination of the latents' values: site to ``[S, 1, *event]``."""
    sites = pair.trace(pair.model, pair.example, None)
    values = [_values(latent.name, sites[latent.name]["fn"]) for latent in pair.latents]
    count = math.prod(len(value) for value in values)
    _insist_on_few(count)
    index = torch.cartesian_prod(*(torch.arange(len(value)) for value in values)).reshape(count, len(values))
    return {
        latent.name: value[column.to(value.device)].unsqueeze(1)
        for latent, value, column in zip(pair.latents, values, index.unbind(1), strict=True)
    }


def _values(name: str, fn: Any) -> Tensor:
    """Every value of one latent of one datapoint, ``[S, *event]``."""
    shape = fn.event_shape
    while not fn.has_enumerate_support and hasattr(fn, "base_dist"):
        fn = fn.base_dist  # a vector of discrete numbers: every one of them takes every value
    if not fn.has_enumerate_support:
        raise ValueError(_refusal(f"its latent {name!r} takes values without end"))
    support: Tensor = fn.enumerate_support(expand=False)
    each = support.reshape(len(support), *fn.event_shape)
    entries = shape.numel() // fn.event_shape.numel()
    _insist_on_few(len(each) ** entries)
    index = torch.cartesian_prod(*[torch.arange(len(each), device=each.device)] * entries)
    return each[index].reshape(-1, *shape)


def _insist_on_few(count: int) -> None:
    if count > _MOST_STATES:
        raise ValueError(_refusal(f"its discrete latents have {count} states together, more than {_MOST_STATES}"))


def _split(states: dict[str, Tensor], rows: int) -> list[dict[str, Tensor]]:
    pieces = zip(*(value.split(rows) for value in states.values()), strict=True)
    return [dict(zip(states, piece, strict=True)) for piece in pieces]


def _log_joint(pair: Pair, states: dict[str, Tensor], part: Data) -> Tensor:
    batch = len(part[0])
    z = {name: value.expand(len(value), batch, *value.shape[2:]) for name, value in states.items()}
    return pair.log_joint(z, part)


def _is_discrete(support: Any) -> bool:
    return bool(getattr(support, "is_discrete", False))


def _evidence(answers: list[Tensor], num_samples: int, how: str) -> Evidence:
    log_px = torch.cat([answer.detach().cpu().double() for answer in answers])
    return Evidence("exact", "exact", log_px, num_samples, notes=(how,), own_errors=torch.zeros_like(log_px))


def _refusal(why: str) -> str:
    return (
        f"this model has no exact log p(x) here: it has no method log_evidence(x), and {why}. Up to three continuous "
        "latent dimensions are integrated, more where all is linear and Gaussian, and discrete latents are enumerated; "
        "for anything else use annealed importance sampling, and a sandwich (bdmc) to see how far it is from the truth."
    )
