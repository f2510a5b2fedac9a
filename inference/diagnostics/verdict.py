"""A verdict on a fitted pair: every estimator that applies, then what their numbers mean, in sentences.

Each estimator and each question is asked by itself: one that does not apply, or fails, is listed with its reason and
loses none of the others.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ..evidence import AnnealedImportanceSampling, Estimator, Evidence
from ..evidence.provenance import provenance
from ..one_line import reason
from ..pairs.data import Rows, as_rows
from ..pairs.finished import Finished, checked
from ..pairs.pair import Pair
from ..random_state import RandomState
from .every_estimator import every_estimator
from .verdict_questions import QUESTIONS, Case

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Verdict", "verdict"]

Told = Callable[[str, "Evidence | str"], None]


@dataclass(frozen=True, repr=False)
class Verdict:
    """The answers of every estimator and question, and what they mean.

    Args:
        evidence: What each estimator that applies says, by name.
        refused: Why the others say nothing.
        seconds: What each took.
        sentences: The answers, one per question.
        doubtful: Rows whose importance weights are not to be trusted, the worst first.
        found: What answers were read from: ``sandwich``, ``gaps``, ``calibration``, ``model``, ``usage``, ``doctor``.
        warnings: What stands against ``guide``, ``model``, ``pair`` or ``numbers``; without any, no fault is found.
    """

    evidence: Mapping[str, Evidence]
    refused: Mapping[str, str]
    seconds: Mapping[str, float]
    sentences: tuple[str, ...]
    doubtful: Tensor
    found: Mapping[str, Any]
    warnings: tuple[tuple[str, str], ...] = ()

    def __repr__(self) -> str:
        return "\n".join(("Verdict:", *self.sentences))

    @property
    def table(self) -> pd.DataFrame:
        """A row per estimator, in the order they were asked."""
        import pandas as pd

        told = ["direction", "mean", "standard_error", "monte_carlo_error", "num_samples"]
        told += ["khat_over_threshold", "khat_threshold"]
        rows = []
        for name, seconds in self.seconds.items():
            record = self.evidence[name].record("") if name in self.evidence else {}
            rows.append({"method": name, **{column: record.get(column) for column in told}, "seconds": seconds})
        table = pd.DataFrame(rows).set_index("method")
        return table.assign(reason=[self.refused.get(name, "") for name in table.index])


def verdict(
    pair: Finished,
    data: Any,
    estimators: Mapping[str, Estimator] | None = None,
    *,
    annealing: AnnealedImportanceSampling | None = None,
    tell: Told = lambda name, found: None,
    seed: int = 0,
) -> Verdict:
    """Ask every estimator and every question.

    Args:
        pair: A run, or a checked pair.
        data: Held-out datapoints; a hundred say much.
        estimators: By name; as a default :func:`every_estimator`.
        annealing: How simulated data are sandwiched; as a default as the first of the estimators that anneals does it,
            and where there is none as the first of :func:`every_estimator` does.
        tell: Called with each estimator's name and its evidence, or the reason why there is none, as soon as it is
            done.
        seed: Of all draws.

    Returns:
        The estimates, and the sentences that they end in.

    Example:
        >>> import torch, pyro, pyro.distributions as dist
        >>> def model(x):
        ...     with pyro.plate("data", len(x)):
        ...         z = pyro.sample("z", dist.Normal(0.0, 1.0))
        ...         pyro.sample("x", dist.Normal(z, 1.0), obs=x)
        >>> def guide(x):  # right on average, too narrow by half
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("z", dist.Normal(x / 2, 0.35))
        >>> from aevb.inference import Pair, verdict
        >>> from aevb.inference.evidence import ELBO, Exact, ImportanceSampling
        >>> x = torch.linspace(-2.0, 2.0, 8)
        >>> ask = {"elbo": ELBO(), "importance": ImportanceSampling(), "exact": Exact()}
        >>> found = verdict(Pair(model, guide).check(x), x, ask)
        >>> found.evidence["exact"]
        Evidence(exact: -1.694 +- 0.14 nats per datapoint over 8, exact...)
        >>> print(found)
        Verdict:
        ...

    References:
        Yes, but Did It Work? Evaluating Variational Inference (Yao et al., 2018), https://arxiv.org/abs/1802.02538
    """
    pair = checked(pair)
    rows = as_rows(data, pair.example[0].device)
    evidence, refused, seconds = dict[str, Evidence](), dict[str, str](), dict[str, float]()
    asked = every_estimator(pair) if estimators is None else estimators
    broken: list[str] = []
    for name, estimator in asked.items():
        began = time.perf_counter()
        found = _ask(name, estimator, pair, rows, seed, broken)
        seconds[name] = time.perf_counter() - began
        if isinstance(found, Evidence):
            evidence[name] = found
        else:
            refused[name] = found
        tell(name, found)
    case = Case(pair, rows, evidence, seconds, annealing or _annealing(pair, asked), seed)
    for name in broken:
        case.warn("numbers", f"{name} came to nothing")
    sentences = tuple(_answer(name, question, case) for name, question in QUESTIONS.items())
    return Verdict(evidence, refused, seconds, sentences, case.doubtful, case.found, tuple(case.warnings))


def _annealing(pair: Pair, asked: Mapping[str, Estimator]) -> AnnealedImportanceSampling:
    """The annealing that an answer is about: whether its bounds meet says how far its evidence is to be trusted."""
    every = (estimator for known in (asked, every_estimator(pair)) for estimator in known.values())
    first = next(estimator for estimator in every if isinstance(estimator, AnnealedImportanceSampling))
    return replace(first, checkpoint=None)  # whose chunks are of the real data


def _ask(name: str, estimator: Estimator, pair: Pair, rows: Rows, seed: int, broken: list[str]) -> Evidence | str:
    """The evidence, or why there is none; what should have applied, and failed, is added to ``broken``."""
    try:
        if (why := getattr(estimator, "applies_to", _to_every_pair)(pair)) is not None:
            return str(why)
        with RandomState(seed, pair.example[0].device), pair.evaluation():
            found = replace(estimator(pair, rows), method=name, provenance=provenance(pair, rows))
    except Exception as error:  # one estimator that fails must not lose the others
        if not isinstance(error, ValueError):  # by which an estimator says that it does not apply
            broken.append(name)
        return reason(error)
    lost = int((~found.log_px.isfinite()).sum())
    if lost:
        broken.append(name)
        return f"it is not finite on {lost} of {len(rows)} datapoints."
    return found


def _to_every_pair(pair: Pair) -> None:
    """Say nothing against a pair: an estimator without a word of its own refuses when it is called."""


def _answer(name: str, question: Callable[[Case], str], case: Case) -> str:
    try:
        return question(case)
    except Exception as error:  # likewise a question
        case.warn("numbers", f"{name} is not answered")
        return f"Not answered, {name}: {reason(error)}"
