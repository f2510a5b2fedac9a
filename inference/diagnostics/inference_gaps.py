r"""Where the bound is lost, datapoint by datapoint: to the guide's family, or to its amortization.

    log p(x) - L[q]  =  log p(x) - L[q*]   +   L[q*] - L[q],        L[q] = E_q[ log p(x, z) - log q(z) ]
                        approximation          amortization

q* is the best member of the guide's own family for the one datapoint (:mod:`local_guide`). The first gap asks for a
richer family, the second for a better encoder.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..evidence import AnnealedImportanceSampling, Estimator, Evidence, Exact, Provenance
from ..evidence.errors import mean_errors
from ..evidence.provenance import difference, provenance
from ..pairs.data import Rows, as_rows, chunks
from ..pairs.finished import Finished, checked
from ..pairs.pair import Pair
from ..pairs.sites import Data
from ..posterior.local_guide import fit_local
from ..random_state import RandomState

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Gap", "Gaps", "gaps"]

_NOTHING = 0.05  # nats that are next to nothing
_ERRORS = 3  # Monte Carlo errors within which all may be chance
_ROWS = 2000  # draws of all datapoints of a chunk that are scored at once


@dataclass(frozen=True)
class Gap:
    """One part of the loss: ``values`` ``[N]`` in nats with their Monte Carlo standard ``errors`` ``[N]``."""

    values: Tensor
    errors: Tensor

    @property
    def mean(self) -> float:
        """The mean over datapoints."""
        return float(self.values.mean())

    @property
    def standard_error(self) -> float:
        """The standard error of the mean over datapoints; their Monte Carlo errors are a part of their spread."""
        return float(self.values.std() / math.sqrt(len(self.values))) if len(self.values) > 1 else math.nan

    @property
    def monte_carlo_error(self) -> float:
        """The part of that error that more draws would take away."""
        return float(torch.linalg.vector_norm(self.errors) / len(self.errors))


@dataclass(frozen=True, repr=False)
class Gaps:
    """The log p(x), the bound of the fitted q* and the guide's, each ``[N]`` with its Monte Carlo errors ``[N]``.

    ``method`` and ``direction`` are those of the evidence; errors that it does not know are not numbers.
    """

    log_px: Tensor
    log_px_errors: Tensor
    local_bound: Tensor
    local_errors: Tensor
    bound: Tensor
    bound_errors: Tensor
    method: str = ""
    direction: str = "exact"

    @property
    def approximation(self) -> Gap:
        """The nats that the family cannot reach, log p(x) - L[q*]."""
        return Gap(self.log_px - self.local_bound, torch.hypot(self.log_px_errors, self.local_errors))

    @property
    def amortization(self) -> Gap:
        """The nats that the encoder does not find, L[q*] - L[q]; below zero only by chance."""
        return Gap(self.local_bound - self.bound, torch.hypot(self.local_errors, self.bound_errors))

    @property
    def total(self) -> Gap:
        """All that is lost, log p(x) - L[q] = KL(q(z|x) || p(z|x))."""
        return Gap(self.log_px - self.bound, torch.hypot(self.log_px_errors, self.bound_errors))

    @property
    def table(self) -> pd.DataFrame:
        """A row per datapoint."""
        import pandas as pd

        parts = {"approximation": self.approximation, "amortization": self.amortization, "total": self.total}
        columns = {"log_px": self.log_px, "local_bound": self.local_bound, "bound": self.bound}
        for name, gap in parts.items():
            columns |= {name: gap.values, f"{name}_error": gap.errors}
        return pd.DataFrame({name: value.numpy() for name, value in columns.items()})

    def __repr__(self) -> str:
        return f"Gaps: {self.sentence}"

    @property
    def sentence(self) -> str:
        """The place where the bound is lost, in words."""
        family, encoder, total = self.approximation, self.amortization, self.total
        said = (
            f"The bound lies {total.mean:.2f} +- {total.standard_error:.2f} nats below log p(x): "
            f"{family.mean:.2f} +- {family.standard_error:.2f} because of the guide's family (approximation) and "
            f"{encoder.mean:.2f} +- {encoder.standard_error:.2f} because of its encoder (amortization)"
        )
        floor = f", at least, since {self.method} is a lower bound" if self.direction == "lower bound" else ""
        return f"{said}{floor}: {self._advice()}."

    @property
    def blames(self) -> str:
        """The part that loses most: ``"family"``, ``"encoder"`` or ``"both"``; empty where that cannot be told."""
        return _larger(self.approximation, self.amortization)

    def _advice(self) -> str:
        encoder, total = self.amortization, self.total
        slack = _ERRORS * total.monte_carlo_error
        if math.isnan(slack):
            return "how much of it is chance is not known, for the error of log p(x) is not"
        if encoder.mean < -max(_NOTHING, _ERRORS * encoder.monte_carlo_error):
            return "the fit of q* has not reached the guide's own bound; take more steps (num_steps)"
        if total.mean + slack < _NOTHING:
            return "next to nothing is lost" + ("" if self.direction == "exact" else f" that {self.method} could see")
        if total.mean < slack:
            return f"the Monte Carlo error ({slack:.2g}) hides whether anything is lost; take more draws (num_draws)"
        return {
            "family": "a richer family wins back most of it (full-covariance-normal, flow)",
            "encoder": "a larger encoder, longer training, or refine(x) wins back most of it",
            "both": "both a richer family and a better encoder would help",
            "": "which of the two is the larger the Monte Carlo error hides; take more draws (num_draws)",
        }[self.blames]


def _larger(family: Gap, encoder: Gap) -> str:
    """Which of the two is the larger by far, or that both are there, where chance leaves that to be said."""
    slack = _ERRORS * math.hypot(family.monte_carlo_error, encoder.monte_carlo_error)
    if family.mean > 2 * encoder.mean and family.mean - encoder.mean > slack:
        return "family"
    if encoder.mean > 2 * family.mean and encoder.mean - family.mean > slack:
        return "encoder"
    return "both" if min(family.mean, encoder.mean) > slack else ""


def gaps(
    pair: Finished,
    data: Any,
    *,
    log_px: Evidence | Estimator | None = None,
    num_steps: int = 500,
    num_samples: int = 10,
    num_draws: int = 1000,
    seed: int = 0,
) -> Gaps:
    """Split what the bound loses on every datapoint.

    Args:
        pair: A run, or a checked pair whose latents are reparameterised.
        data: The datapoints; some tens say much.
        log_px: What is known of log p(x): the evidence of these very datapoints, or an estimator. By default the exact
            answer where there is one, else annealing from the guide by 500 temperatures.
        num_steps: Steps of the first round of the fit of q*.
        num_samples: Draws a datapoint and step of that fit.
        num_draws: Fresh draws per datapoint for each of the two bounds.
        seed: Of the draws.

    Returns:
        The three numbers of each datapoint with their errors.

    Raises:
        ContractError: A latent's distribution cannot be moved for a datapoint by itself.
        ValueError: The evidence that is given has another number of rows.

    Example:
        >>> import torch, pyro, pyro.distributions as dist
        >>> def model(x):
        ...     with pyro.plate("data", len(x)):
        ...         z = pyro.sample("z", dist.Normal(0.0, 1.0))
        ...         pyro.sample("x", dist.Normal(z, 1.0), obs=x)
        >>> def guide(x):  # right on average, too narrow by half
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("z", dist.Normal(x / 2, 0.35))
        >>> from aevb.inference import Pair, gaps
        >>> x = torch.linspace(-2.0, 2.0, 8)
        >>> found = gaps(Pair(model, guide).check(x), x, num_steps=100)
        >>> found  # the family holds the posterior: all that is lost is the encoder's
        Gaps: The bound lies 0.33 +- 0.01 nats below log p(x): 0.00 +- 0.00 because of the guide's family ...
        >>> found.total.values.shape, list(found.table.columns)[:3]
        (torch.Size([8]), ['log_px', 'local_bound', 'bound'])

    References:
        Inference Suboptimality in Variational Autoencoders (Cremer, Li & Duvenaud, 2018),
        https://arxiv.org/abs/1801.03558
    """
    pair = checked(pair)
    device = pair.example[0].device
    rows = as_rows(data, device)
    with RandomState(seed, device), pair.evaluation():
        known = log_px if isinstance(log_px, Evidence) else _known(pair, rows, log_px)
        if len(known.log_px) != len(rows):
            raise ValueError(f"log_px holds {len(known.log_px)} datapoints, but the data have {len(rows)} rows.")
        _refuse_unlike(known, provenance(pair, rows))
        found = []
        for part in chunks(rows, max(1, _ROWS // num_samples)):
            local = fit_local(pair, part, num_steps=num_steps, num_samples=num_samples)
            # Fresh draws, which no fit has seen.
            found.append((*_bound(local.pair, part, num_draws), *_bound(pair, part, num_draws)))
    best, best_errors, bound, bound_errors = (torch.cat(column) for column in zip(*found, strict=True))
    truth, errors = known.log_px.double().cpu(), known.errors.double().cpu()
    return Gaps(truth, errors, best, best_errors, bound, bound_errors, known.method, known.direction)


def _refuse_unlike(known: Evidence, mine: Provenance) -> None:
    """Refuse evidence of other rows, or of another density of them; what was built by hand is taken at its word."""
    reason = None if known.provenance is None else difference(("log_px", "this pair"), known.provenance, mine)
    if reason is not None:
        raise ValueError(f"log_px cannot be held against this pair's bounds: {reason}.")


def _known(pair: Pair, rows: Rows, estimator: Estimator | None) -> Evidence:
    if estimator is not None:
        return estimator(pair, rows)
    try:
        return Exact()(pair, rows)
    except ValueError:
        return AnnealedImportanceSampling(500, progress=False)(pair, rows)


def _bound(pair: Pair, part: Data, num_draws: int) -> tuple[Tensor, Tensor]:
    """The bound of every datapoint of one batch, and its Monte Carlo error, ``[batch]`` in float64 on the CPU."""
    weights = []
    for first in range(0, num_draws, at_once := max(1, _ROWS // len(part[0]))):
        weights.append(pair.cloud(part, min(at_once, num_draws - first)).log_weight.double().cpu())
    log_weight = torch.cat(weights)
    return log_weight.mean(0), mean_errors(log_weight).own_errors
