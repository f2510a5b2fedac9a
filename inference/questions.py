"""The questions of a verdict: each looks at what was found and answers in a sentence.

A new question is one function and one line in :data:`QUESTIONS`. One that cannot be answered raises, with the reason.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from .calibration import simulation_based_calibration
from .data import Dataset
from .evidence import AnnealedImportanceSampling, Evidence, khat_threshold, sandwich
from .gaps import gaps
from .model_check import check_model
from .pair import Data, Pair, as_data

__all__ = ["QUESTIONS", "Case", "meeting"]

_LISTED = 10  # rows that a sentence names
_GAP_POINTS = 20  # datapoints on which the bound is taken apart
_SIMULATED = 50  # simulated datapoints that are sandwiched
_SIMULATIONS = 300  # of the calibration
_MEET = 0.1  # nats within which two bounds meet, and what their gap's uncertainty may be for that to be said
_ERRORS = 3  # standard errors of a gap that are its uncertainty


@dataclass
class Case:
    """What the questions are put to.

    Args:
        pair: A checked pair.
        data: Its datapoints.
        evidence: What every estimator that applies says of them, by name.
        seconds: What each of them took.
        annealing: How simulated data are sandwiched.
        seed: Of the draws.
        found: What an answer was read from, for the answers that come after it.
    """

    pair: Pair
    data: Dataset
    evidence: dict[str, Evidence]
    seconds: dict[str, float]
    annealing: AnnealedImportanceSampling
    seed: int
    found: dict[str, Any] = field(default_factory=dict)

    def first(self, count: int) -> Data:
        """The first rows."""
        return as_data(self.data[torch.arange(min(count, len(self.data)))])

    @property
    def exact(self) -> list[str]:
        """The estimators that give log p(x) itself."""
        return [name for name, found in self.evidence.items() if found.direction == "exact"]

    @property
    def bounds(self) -> list[str]:
        """Those that lie below log p(x) in expectation, the highest and so the nearest first."""
        below = [name for name, found in self.evidence.items() if found.direction == "lower bound"]
        return sorted(below, key=lambda name: -self.evidence[name].mean)

    @property
    def weighed(self) -> Evidence | None:
        """Evidence that knows each datapoint's k-hat."""
        return next((found for found in self.evidence.values() if found.khat is not None), None)

    @property
    def doubtful(self) -> Tensor:
        """Rows whose importance weights are not to be trusted, the worst first."""
        return torch.zeros(0, dtype=torch.long) if self.weighed is None else self.weighed.doubtful


def _which_estimate_to_use(case: Case) -> str:
    if case.exact:
        name = case.exact[0]
        return f"Use {name}: {_number(case.evidence[name])}, without Monte Carlo error."
    if not case.bounds:
        raise ValueError("there is neither an exact answer nor a lower bound.")
    best, *others = case.bounds
    said = f"Use {best}: {_number(case.evidence[best])}. "
    for other in sorted(others, key=case.seconds.__getitem__):
        difference, error = _paired(case.evidence[best], case.evidence[other])
        if difference <= 2 * error and case.seconds[other] < case.seconds[best]:
            share = case.seconds[other] / case.seconds[best]
            return said + f"{other} is as good ({difference:.3f} +- {error:.3f} below it) at {share:.0%} of its time."
    said += f"Of {len(case.bounds)} stochastic lower bounds the highest is the nearest"
    if others:
        difference, error = _paired(case.evidence[best], case.evidence[others[0]])
        said += f"; {others[0]} lies {difference:.3f} +- {error:.3f} below it"
    return f"{said}."


def _whether_the_bounds_meet(case: Case) -> str:
    found = case.found["sandwich"] = sandwich(case.pair, None, case.first(_SIMULATED), case.annealing, seed=case.seed)
    said = str(found)
    return f"{said[0].upper()}{said[1:]}: {meeting(found.gap, found.gap_error, len(found.gaps))}."


def meeting(gap: float, error: float, simulated: int = _SIMULATED) -> str:
    """Whether a lower and an upper bound meet, cannot, or leave it open, and what is to be done.

    Args:
        gap: Upper less lower bound, nats per datapoint; below zero only by chance.
        error: Its standard error; not a number where there is a single datapoint.
        simulated: Datapoints they were found on.

    Example:
        >>> meeting(0.01, 0.03)
        'they meet, so annealing is to be trusted on data like these'
        >>> meeting(5.0, 0.5)
        'they do not meet: take more temperatures (num_temperatures), or a better guide to start from'
        >>> meeting(5.0, 3.0)
        "it cannot be told whether they meet: the gap's error is too large; take more chains (num_chains)"
    """
    unknown = "it cannot be told whether they meet"
    if not math.isfinite(gap):
        return f"{unknown}: a bound is not finite"
    if math.isnan(error):
        return f"{unknown}: of a single datapoint the gap has no error; take more datapoints"
    if abs(gap) > max(_MEET, _ERRORS * error):
        if gap < 0:  # no annealing, however short, does that: E lower <= log p(x) <= E upper
            return (
                f"{unknown}: they have crossed by more than chance, so draws of the model, or of what the chains start "
                "from, do not follow their density"
            )
        return "they do not meet: take more temperatures (num_temperatures), or a better guide to start from"
    if _ERRORS * error <= _MEET:
        return "they meet, so annealing is to be trusted on data like these"
    more = f", or more datapoints: {_SIMULATED} are simulated where there are as many" if simulated < _SIMULATED else ""
    return f"{unknown}: the gap's error is too large; take more chains (num_chains){more}"


def _which_datapoints_are_doubtful(case: Case) -> str:
    if case.weighed is None:
        raise ValueError("there are no importance weights.")
    threshold, points = khat_threshold(case.weighed.num_samples), len(case.data)
    rows = case.doubtful.tolist()
    if not rows:
        return f"Importance weights are to be trusted on all {points} datapoints (k-hat at most {threshold:.2f})."
    listed = ", ".join(map(str, rows[:_LISTED])) + (", ..." if len(rows) > _LISTED else "")
    return (
        f"Importance weights are not to be trusted on {len(rows)} of {points} datapoints (k-hat above "
        f"{threshold:.2f}), the worst first: rows {listed}."
    )


def _where_the_bound_is_lost(case: Case) -> str:
    known = [*case.exact, *case.bounds]
    if not known:
        raise ValueError("log p(x) is not known.")
    truth, count = case.evidence[known[0]], min(_GAP_POINTS, len(case.data))
    errors = None if truth.errors is None else truth.errors[:count]
    truth = replace(truth, log_px=truth.log_px[:count], own_errors=errors, ess=None, khat=None)
    found = case.found["gaps"] = gaps(case.pair, case.first(count), log_px=truth, seed=case.seed)
    return f"On {count} datapoints: {found.sentence[0].lower()}{found.sentence[1:]}"


def _whether_the_guide_is_calibrated(case: Case) -> str:
    found = case.found["calibration"] = simulation_based_calibration(
        case.pair, num_simulations=_SIMULATIONS, conditions=case.data, seed=case.seed
    )
    said = " ".join(found.sentences)
    return f"{said[0].upper()}{said[1:]}"


def _whether_the_model_could_have_made_the_data(case: Case) -> str:
    found = case.found["model"] = check_model(case.pair, case.data, seed=case.seed)
    return " ".join(found.sentences)


def _whose_fault_it_is(case: Case) -> str:
    if not {"calibration", "model"} <= case.found.keys():
        raise ValueError("calibration, or the check of the model, is missing.")
    calibration = case.found["calibration"]
    guide = any(bool(calibration.miscalibrated(site).any()) for site in calibration.ranks)
    return _FAULT[guide, case.found["model"].fails]


_FAULT = {
    (False, False): "So no fault is found, neither with the guide nor with the model.",
    (True, False): "So the fault is the guide's: a richer family, longer training, or refine(x).",
    (False, True): "So the fault is the model's: another prior, likelihood or decoder.",
    (True, True): (
        "So both are at fault: the guide fails on the model's own simulations, and real data are unlike those. Mend "
        "the model first, since the guide has to follow its posterior."
    ),
}

QUESTIONS: dict[str, Callable[[Case], str]] = {
    "which estimate to use": _which_estimate_to_use,
    "whether the bounds meet": _whether_the_bounds_meet,
    "which datapoints the guide gets wrong": _which_datapoints_are_doubtful,
    "where the bound is lost": _where_the_bound_is_lost,
    "whether the guide is calibrated": _whether_the_guide_is_calibrated,
    "whether the model could have made the data": _whether_the_model_could_have_made_the_data,
    "whose fault it is": _whose_fault_it_is,
}


def _number(evidence: Evidence) -> str:
    return f"log p(x) = {evidence.mean:.3f} +- {evidence.standard_error:.3f} nats per datapoint"


def _paired(best: Evidence, other: Evidence) -> tuple[float, float]:
    """The mean difference on the same datapoints, with its error."""
    difference = best.log_px.double().cpu() - other.log_px.double().cpu()
    return float(difference.mean()), float(difference.std()) / math.sqrt(len(difference))
