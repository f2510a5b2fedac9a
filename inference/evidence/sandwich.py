r"""Bidirectional Monte Carlo: a lower and an upper bound on log p(x) that must meet.

Data simulated from the model, (x, z) ~ p(x, z), come with one exact draw z of their posterior. Annealed chains from
the start to the posterior give a stochastic lower bound, chains back from z a stochastic upper one:

    E log mean_c w_c  <=  log p(x)  <=  E [ -log mean_c 1/w_c ],

and their distance says how far annealed importance sampling is from the truth on data like these.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..pairs.data import Rows, Tensors, as_rows, chunks
from ..pairs.pair import Pair
from ..pairs.sites import ContractError, Data, as_data
from ..pairs.unconstrained import flatten
from ..random_state import RandomState
from .annealed import AnnealedImportanceSampling
from .annealing import Tick
from .errors import log_mean_errors, spread_error, with_rounding
from .evidence import Evidence

__all__ = ["BidirectionalMonteCarlo", "Sandwich", "sandwich"]

_SIMULATED_AT_ONCE = 1000
_HEAVY = 0.5  # the shape that the tail of 1/w is taken to have: the heaviest with a variance


@dataclass(frozen=True)
class Sandwich:
    """A lower and an upper bound on log p(x) of the same simulated data.

    Args:
        lower: The stochastic lower bound, by forward chains.
        upper: The stochastic upper bound, by chains back from exact posterior draws.
        data: The simulated data, as the programs take them.
    """

    lower: Evidence
    upper: Evidence
    data: Data

    @property
    def gaps(self) -> Tensor:
        """Upper less lower bound of each datapoint, ``[N]``, in nats; below zero only by chance."""
        return self.upper.log_px - self.lower.log_px

    @property
    def gap(self) -> float:
        """The mean gap, nats per datapoint."""
        return float(self.gaps.mean())

    @property
    def gap_error(self) -> float:
        """The standard error of the mean gap over datapoints, wider where they are few."""
        return spread_error(self.gaps)

    def __str__(self) -> str:
        """One sentence."""
        return (
            f"on {len(self.gaps)} datapoints simulated from the model log p(x) lies between {self.lower.mean:.3f} and "
            f"{self.upper.mean:.3f} nats, a gap of {self.gap:.3f} +- {self.gap_error:.3f}"
        )


def sandwich(
    model: Callable[..., Any],
    guide: Callable[..., Any] | None,
    like: Any,
    annealing: AnnealedImportanceSampling | None = None,
    *,
    seed: int = 0,
) -> Sandwich:
    """Bound log p(x) of simulated data from both sides.

    Args:
        model: The generative program, or a pair that has been checked.
        guide: The recognition program; ``None`` where the chains start at the prior.
        like: Data that say how many datapoints to simulate, what the model is conditioned on (a label) and which
            entries are missing; or, for a checked pair, their number, all like the first row it was checked with.
        annealing: How the chains are annealed.
        seed: Of the data and the chains; the global random state is left as it was found.

    Returns:
        Both bounds, on the same data.

    Raises:
        ContractError: The pair breaks the contract, or its dreams cannot take its data's place.
        ValueError: ``like`` is a number and the pair has seen no data.

    Example:
        >>> from aevb.models import ProbabilisticPCA
        >>> from aevb.inference.evidence import AnnealedImportanceSampling, sandwich
        >>> _ = torch.manual_seed(0)
        >>> model = ProbabilisticPCA(data_dim=3, latent_dim=1)
        >>> short = AnnealedImportanceSampling(50, num_chains=4, start="prior", num_tuning=20)
        >>> found = sandwich(model, None, model.simulate(8), short)
        >>> found.lower.direction, found.upper.direction, abs(found.gap) < 0.5
        ('lower bound', 'upper bound', True)

    References:
        Sandwiching the Marginal Likelihood Using Bidirectional Monte Carlo (Grosse, Ghahramani & Adams, 2015),
        https://arxiv.org/abs/1511.02543; On the Quantitative Analysis of Decoder-Based Generative Models (Wu et al.,
        2017), https://arxiv.org/abs/1611.04273
    """
    pair = model if isinstance(model, Pair) else Pair(model, guide)
    if isinstance(like, int) and not pair.example:
        raise ValueError(
            f"like={like} says how many datapoints, but this pair has seen none and their shape is not known; give "
            "some data, or a pair that has been checked: Pair(model, guide).check(x)."
        )
    device = next((p.device for p in pair.parameters()), torch.device("cpu"))
    with RandomState(seed, device), pair.evaluation():
        if isinstance(like, int):
            return _sandwich(pair, pair.blank(like), annealing or AnnealedImportanceSampling())
        rows = as_rows(like, device)
        if not pair.example:
            pair.check(as_data(rows[torch.arange(min(16, len(rows)), device=device)]))
        return _sandwich(pair, rows, annealing or AnnealedImportanceSampling())


@dataclass(frozen=True)
class BidirectionalMonteCarlo(AnnealedImportanceSampling):
    """Sandwich log p(x) of data simulated from the model between a lower and an upper bound that must meet.

    The evidence that comes back is the lower bound of as many *simulated* datapoints as the data have; a note tells
    the upper one and the gap. :func:`sandwich` returns both. The options are those of annealed importance sampling.

    References:
        Sandwiching the Marginal Likelihood Using Bidirectional Monte Carlo (Grosse, Ghahramani & Adams, 2015),
        https://arxiv.org/abs/1511.02543
    """

    name = "bdmc"

    @classmethod
    def in_verdict(cls, pair: Pair) -> dict[str, dict[str, Any]]:
        """Be listed; whether the bounds meet is a question of its own."""
        return {cls.name: {}}

    def applies_to(self, pair: Pair) -> str:
        """Say that these numbers are of other data."""
        return "it bounds log p(x) of simulated datapoints, not of these; whether bounds meet is asked below."

    def __call__(self, pair: Pair, data: Rows) -> Evidence:
        """Bound log p(x) of as many simulated datapoints from both sides."""
        found = _sandwich(pair, data, self)
        return replace(found.lower, method="bdmc", notes=(str(found), *found.lower.notes))


def _sandwich(pair: Pair, like: Rows | Data, annealing: AnnealedImportanceSampling) -> Sandwich:
    simulated = _simulate(pair, Tensors(*like) if isinstance(like, tuple) else like)

    def weigh(part: Data, tick: Tick) -> Tensor:
        *x, u = part
        chains = annealing.annealing(pair, tuple(x), tick)
        forward = chains.forward()
        backward = chains.backward(u.unsqueeze(0).expand(annealing.num_chains, -1, -1))
        return torch.cat([forward, backward, annealing.start_khat(chains.path)])

    both = annealing.chunked(pair, simulated, weigh, 2 * annealing.num_temperatures)
    forward, backward, (khat,) = both.split([annealing.num_chains, annealing.num_chains, 1])
    inverse = annealing.evidence(-backward, torch.full_like(khat, -torch.inf))  # of 1/w, whose mean is 1/p(x)
    # Where chains wander too far out, 1/w has the heavy tail that w has where they are too narrow.
    errors = log_mean_errors(-backward, unseen=_HEAVY)
    upper = replace(inverse, method="reverse-ais", direction="upper bound", log_px=-inverse.log_px, **errors._asdict())
    lower, upper = (with_rounding(bound, pair) for bound in (annealing.evidence(forward, khat), upper))
    return Sandwich(lower, upper, simulated.parts[:-1])


def _simulate(pair: Pair, like: Rows) -> Tensors:
    """Data from the model, with the same holes; their posterior draws stand, unconstrained, in the last part."""
    if any(position is None for position in pair.observed.values()):
        raise ContractError(
            f"observed sites {sorted(pair.observed)} are not all arguments of the programs, so data that are simulated "
            "cannot take their place; observe an argument itself: pyro.sample(..., obs=x)."
        )
    parts = []
    for part in chunks(like, _SIMULATED_AT_ONCE):
        z, simulated = pair.simulate(part)
        parts.append((*simulated, flatten(pair, z).squeeze(0)))
    return Tensors(*(torch.cat(pieces) for pieces in zip(*parts, strict=True)))
