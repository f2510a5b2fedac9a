"""The questions of a verdict: each looks at what was found and answers in a sentence.

A new question is one function and one line in :data:`QUESTIONS`. One that cannot be answered raises, with the reason.
What stands against the pair, a question says in its sentence and tells the case by :meth:`Case.warn`; the last one,
whose fault it is, reads those warnings, and finds no fault only where there is none of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..evidence import AnnealedImportanceSampling, Evidence, khat_threshold, sandwich
from ..pairs.data import Rows
from ..pairs.pair import Pair
from ..pairs.sites import Data, as_data
from ..posterior.guide_versus_hmc import guide_versus_hmc
from .calibration import simulation_based_calibration
from .doctor import doctor
from .inference_gaps import gaps
from .latent_usage import latent_usage
from .model_check import check_model

__all__ = ["QUESTIONS", "Case", "meeting"]

_LISTED = 10  # rows that a sentence names
_GAP_POINTS = 20  # datapoints on which the bound is taken apart
_CHAINED = 5  # of the first rows, and of the worst, that chains are run on
_CHAIN_DRAWS = 1000
_SIMULATED = 50  # simulated datapoints that are sandwiched
_SIMULATIONS = 300  # of the calibration
_LOST = 0.05  # nats per datapoint that a bound, or an estimate, may lie too low without a word
_MEET = 0.1  # nats within which two bounds meet, and what their gap's uncertainty may be for that to be said
_ERRORS = 3  # standard errors of a gap that are its uncertainty


@dataclass
class Case:
    """The evidence and the pair that the questions are put to.

    Args:
        pair: A checked pair.
        data: Its datapoints.
        evidence: What every estimator that applies says of them, by name.
        seconds: What each of them took.
        annealing: How simulated data are sandwiched.
        seed: Of the draws.
        found: What an answer was read from, for the answers that come after it.
        warnings: What stands against the ``guide``, the ``model``, the ``pair`` or the ``numbers``, as it is found.
    """

    pair: Pair
    data: Rows
    evidence: dict[str, Evidence]
    seconds: dict[str, float]
    annealing: AnnealedImportanceSampling
    seed: int
    found: dict[str, Any] = field(default_factory=dict)
    warnings: list[tuple[str, str]] = field(default_factory=list)

    def warn(self, whose: str, what: str) -> None:
        """Keep what stands against something, in words that go on from a colon."""
        self.warnings.append((whose, what))

    def against(self, *whose: str) -> list[str]:
        """The reservations against these."""
        return [what for name, what in self.warnings if name in whose]

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
        """Evidence that knows the k-hat of the guide's weights on each datapoint; other k-hats do not speak of it."""
        known = [found for found in self.evidence.values() if found.khat is not None and self.pair.has_density]
        return known[0] if known else None

    @property
    def doubtful(self) -> Tensor:
        """Rows whose importance weights are not to be trusted, the worst first."""
        return torch.zeros(0, dtype=torch.long) if self.weighed is None else self.weighed.doubtful


def _which_estimate_to_use(case: Case) -> str:
    if case.exact:
        name = case.exact[0]
        return f"Use {name}: log p(x) = {_number(case.evidence[name])}, without Monte Carlo error."
    if not case.bounds:
        raise ValueError("there is neither an exact answer nor a lower bound.")
    best, *others = case.bounds
    said = f"Use {best}: log p(x) is in expectation at least {_number(case.evidence[best])}. "
    for other in sorted(others, key=case.seconds.__getitem__):
        difference, error = _paired(case.evidence[best], case.evidence[other])
        if difference + 2 * error <= _MEET and case.seconds[other] < case.seconds[best]:
            share = case.seconds[other] / case.seconds[best]
            return said + f"{other} is as good ({difference:.3f} +- {error:.3f} below it) at {share:.0%} of its time."
    if not others:
        return f"{said}There is no other stochastic lower bound to set beside it."
    difference, error = _paired(case.evidence[best], case.evidence[others[0]])
    return (
        f"{said}Of {len(case.bounds)} stochastic lower bounds the highest is, but for chance, the nearest; {others[0]} "
        f"lies {difference:.3f} +- {error:.3f} below it."
    )


def _whether_the_bounds_meet(case: Case) -> str:
    found = case.found["sandwich"] = sandwich(case.pair, None, case.first(_SIMULATED), case.annealing, seed=case.seed)
    met = meeting(found.gap, found.gap_error, len(found.gaps))
    if not met.startswith("they meet"):
        how = "do not meet" if met.startswith("they do not meet") else "cannot be said to meet"
        case.warn("numbers", f"the bounds by annealing from the {case.annealing.start} {how}")
    return f"By annealing from the {case.annealing.start}, {found}: {met}."


def meeting(gap: float, error: float, simulated: int = _SIMULATED) -> str:
    """Say whether a lower and an upper bound meet, cannot, or leave it open, and what is to be done.

    Args:
        gap: Upper less lower bound, nats per datapoint; below zero only by chance.
        error: Its standard error; not a number where there is a single datapoint.
        simulated: Datapoints they were found on.

    Example:
        >>> meeting(0.01, 0.03)
        'they meet, so this annealing is to be trusted on data like the simulated'
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
        return "they meet, so this annealing is to be trusted on data like the simulated"
    more = f", or more datapoints: {_SIMULATED} are simulated where there are as many" if simulated < _SIMULATED else ""
    return f"{unknown}: the gap's error is too large; take more chains (num_chains){more}"


def _which_datapoints_are_doubtful(case: Case) -> str:
    if case.weighed is None:
        raise ValueError("there are no importance weights.")
    threshold, points = khat_threshold(case.weighed.num_samples), len(case.data)
    rows = case.doubtful.tolist()
    higher = _what_lies_above(case, case.weighed)
    if rows:
        case.warn("guide", f"k-hat flags its weights on {len(rows)} of {points} datapoints")
        listed = ", ".join(map(str, rows[:_LISTED])) + (", ..." if len(rows) > _LISTED else "")
        return (
            f"Importance weights are not to be trusted on {len(rows)} of {points} datapoints (k-hat above "
            f"{threshold:.2f}), the worst first: rows {listed}." + (f" Besides, {higher}." if higher else "")
        )
    if higher:
        case.warn("guide", "its draws miss a part of the posterior")
        return (
            f"k-hat flags the weights of none of {points} datapoints, and yet {higher}: the guide's draws miss a part "
            "of the posterior, which k-hat cannot see."
        )
    return (
        f"k-hat flags the weights of none of {points} datapoints (none above {threshold:.2f}), and of the other "
        f"answers ({', '.join(_beside(case)) or 'there are none'}) none lies above theirs. A mode that no draw reached "
        "would leave no trace in k-hat."
    )


def _what_lies_above(case: Case, weighed: Evidence) -> str:
    """What lies above the estimate by weights, by more than chance and their own bias; empty where nothing does."""
    bias = 0.0 if weighed.ess is None else float((0.5 / weighed.ess - 0.5 / weighed.num_samples).mean())
    for name in _beside(case):
        difference, error = _paired(case.evidence[name], weighed)
        if difference - bias > max(_LOST, _ERRORS * error):
            return f"{name} lies {difference:.2f} +- {error:.2f} nats above what they say"
    return ""


def _beside(case: Case) -> list[str]:
    """What lies below log p(x) in expectation, or equals it, beside the estimate by weights."""
    return [name for name in (*case.exact, *case.bounds) if case.evidence[name].khat is None]


def _where_the_bound_is_lost(case: Case) -> str:
    # A bound that is itself an average of log-weights cannot say what an average of log-weights loses.
    known = [*case.exact, *(name for name in case.bounds if case.evidence[name].ess is not None)]
    if not known:
        raise ValueError("log p(x) is not known by more than the bound itself.")
    truth, count = case.evidence[known[0]], min(_GAP_POINTS, len(case.data))
    found = case.found["gaps"] = gaps(case.pair, case.first(count), log_px=truth.first(count), seed=case.seed)
    lost, error = found.total.mean, _ERRORS * found.total.monte_carlo_error
    if math.isnan(error):  # what Monte Carlo adds is not known, but is a part of the datapoints' own spread
        error = _ERRORS * found.total.standard_error
    if lost > _LOST and lost > error:
        case.warn("guide", f"its bound lies {lost:.2f} nats below log p(x)")
    elif not lost + error <= 2 * _LOST:
        case.warn("numbers", "what the bound loses is not known to a tenth of a nat")
    return f"On {count} datapoints, by {known[0]}: {found.sentence[0].lower()}{found.sentence[1:]}"


def _what_chains_say(case: Case) -> str:
    first, worst = torch.arange(min(_CHAINED, len(case.data))), case.doubtful[:_CHAINED]
    rows = torch.cat([first, worst]).unique().to(case.pair.example[0].device)
    found = case.found["chains"] = guide_versus_hmc(case.pair, case.data[rows], num_draws=_CHAIN_DRAWS, seed=case.seed)
    if bool(found.differs.any()):
        case.warn("guide", f"chains differ from it on {int(found.differs.sum())} of {len(rows)} datapoints")
    elif not bool(found.met.any()):
        case.warn("numbers", "the chains beside the guide have not met")
    chosen = f" and the {len(worst)} worst by k-hat" if len(worst) else ""
    return f"{found.sentence} (the first {len(first)}{chosen}). A mode that no chain reached is not seen."


def _whether_the_guide_is_calibrated(case: Case) -> str:
    found = case.found["calibration"] = simulation_based_calibration(
        case.pair, num_simulations=_SIMULATIONS, conditions=case.data, seed=case.seed
    )
    if found.fails:
        case.warn("guide", "it is not calibrated on the model's own simulations")
    said = " ".join(found.sentences)
    return f"{said[0].upper()}{said[1:]}"


def _whether_the_model_could_have_made_the_data(case: Case) -> str:
    found = case.found["model"] = check_model(case.pair, case.data, seed=case.seed)
    if found.fails:
        case.warn("model", "real data are unlike its own simulations")
    return " ".join(found.sentences)


def _which_latents_are_used(case: Case) -> str:
    if len(case.data) < 2:
        raise ValueError("a single datapoint does not tell what moves with the data.")
    found = case.found["usage"] = latent_usage(case.pair, case.data, seed=case.seed)
    total = sum(use.activity.numel() for use in found.sites.values())
    said = f"Of {total} latent dimensions {found.num_active} move with the data."
    for name in found.unused:
        case.warn("pair", f"latent {name!r} is hardly used")
    return " ".join([said, *(f"{warning[0].upper()}{warning[1:]}" for warning in found.warnings)])


def _what_the_doctor_found(case: Case) -> str:
    found = doctor(case.pair.model, case.pair.guide, case.data, seed=case.seed)
    case.found["doctor"] = found = [finding for finding in found if finding.severity != "note"]
    if not found:
        return "The doctor finds nothing wrong with the programs on the first rows."
    for finding in found:
        case.warn("pair", f"the doctor's {finding.severity} {finding.name!r}")
    return " ".join(f"The doctor's {finding.severity} {finding.name!r}: {finding.sentence}" for finding in found)


def _whose_fault_it_is(case: Case) -> str:
    guide, model = "; ".join(case.against("guide")), "; ".join(case.against("model"))
    rest = "; ".join(case.against("pair", "numbers"))
    if guide and model:
        said = (
            f"So both are at fault, the guide ({guide}) and the model ({model}). Mend the model first, since the guide "
            "has to follow its posterior."
        )
    elif guide:
        said = f"So the fault is the guide's ({guide}): {_mend_of_the_guide(case)}."
        if "model" in case.found:
            said += " The model passes, but was looked at through this guide."
    elif model:
        said = f"So the fault is the model's ({model}): another prior, likelihood or decoder."
    elif rest:
        return f"Guide and model fail no test, and yet nothing is cleared: {rest}."
    else:
        return "So no fault is found, neither with the guide nor with the model, by the tests above."
    return f"{said} Besides: {rest}." if rest else said


_MENDS = {  # by what the gaps blame
    "family": "a richer family",
    "encoder": "a larger encoder, longer training, or refine(x)",
}


def _mend_of_the_guide(case: Case) -> str:
    blamed = case.found["gaps"].blames if "gaps" in case.found else ""
    return _MENDS.get(blamed, "a richer family, a larger encoder, longer training, or refine(x)")


QUESTIONS: dict[str, Callable[[Case], str]] = {
    "which estimate to use": _which_estimate_to_use,
    "whether the bounds meet": _whether_the_bounds_meet,
    "which datapoints the guide gets wrong": _which_datapoints_are_doubtful,
    "where the bound is lost": _where_the_bound_is_lost,
    "what chains say of the guide": _what_chains_say,
    "whether the guide is calibrated": _whether_the_guide_is_calibrated,
    "whether the model could have made the data": _whether_the_model_could_have_made_the_data,
    "which latents are used": _which_latents_are_used,
    "what the doctor finds": _what_the_doctor_found,
    "whose fault it is": _whose_fault_it_is,
}


def _number(evidence: Evidence) -> str:
    return f"{evidence.mean:.3f} +- {evidence.standard_error:.3f} nats per datapoint"


def _paired(best: Evidence, other: Evidence) -> tuple[float, float]:
    """The mean difference on the same datapoints, with its error: of a single one, what Monte Carlo left of it."""
    difference = best.log_px.double().cpu() - other.log_px.double().cpu()
    if len(difference) > 1:
        return float(difference.mean()), float(difference.std()) / math.sqrt(len(difference))
    errors = [one.monte_carlo_error for one in (best, other)]
    return float(difference), math.hypot(*(math.inf if error is None else error for error in errors))
