"""What every estimator holds."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any, get_args

import torch
from torch import Tensor, nn

from aevb import guides
from aevb.inference import Pair
from aevb.inference.evidence import Direction, Evidence
from aevb.inference.pairs.data import as_rows
from aevb.models import ProbabilisticPCA
from aevb.testing.holds import agree, insist, seeded

__all__ = ["check_estimator"]

_WIDTH, _DIM, _ROWS = 3, 2, 5
_ERRORS = 5.0  # standard errors
_EXACT = 1e-3  # nats within which what is called exact has to lie


def check_estimator(make: Callable[[], Any]) -> None:
    """Hold an estimator to what every estimator holds, on a linear-Gaussian model whose log p(x) is known.

    It gives one finite number per datapoint, on the side of log p(x) that its direction says, within its error where
    that is known; the same numbers for the same seed; for a row alone and for rows in another order what it gives for
    them in a batch, within the errors; and a record that JSON can hold. One that says by ``applies_to(pair)`` why it
    has no answer for these data is held to the form of what it gives alone.

    Args:
        make: What makes the estimator.

    Raises:
        AssertionError: Something does not hold; the message says what.

    Example:
        >>> from aevb.inference.evidence import ImportanceSampling
        >>> check_estimator(lambda: ImportanceSampling(100))
    """
    with seeded():
        pair, model, x = _world()
        right = model.log_evidence(x).detach()
        elsewhere = getattr(make(), "applies_to", lambda pair: None)(pair)
        insist(elsewhere is None or isinstance(elsewhere, str), "applies_to must return a reason, or None")
        found = _asked(make(), pair, x)
        _has_the_form(found)
        agree(_asked(make(), pair, x).log_px, found.log_px, "of one seed it gives different numbers", 1e-12)
        if elsewhere is None:
            _keeps_its_direction(found, right)
            order = torch.arange(_ROWS).flip(0)
            _rows_are_themselves(_asked(make(), pair, x[order]), _rows(found, order), "in another order")
            _rows_are_themselves(_asked(make(), pair, x[:1]), _rows(found, torch.tensor([0])), "alone")


def _world() -> tuple[Pair, ProbabilisticPCA, Tensor]:
    """Probabilistic PCA with a diagonal guide that is too wide: its bound has a gap, its weights a variance."""
    model = ProbabilisticPCA(_WIDTH, _DIM).double()
    x = model.simulate(_ROWS).detach()
    encoder = nn.Linear(_WIDTH, _WIDTH)
    guide = guides.Normal(_DIM, encoder).double()
    zero, columns = model.posterior(x.new_zeros(1, _WIDTH)), model.posterior(torch.eye(_WIDTH, dtype=x.dtype))
    with torch.no_grad():
        encoder.weight.copy_(torch.eye(_WIDTH))
        encoder.bias.zero_()
        guide.mean.weight.copy_((columns.mean - zero.mean).mT)
        guide.mean.bias.copy_(zero.mean[0])
        guide.log_scale.weight.zero_()
        guide.log_scale.bias.copy_(zero.variance[0].sqrt().log() + 0.1)
    return Pair(model, guide).check(x), model, x


def _asked(estimator: Any, pair: Pair, x: Tensor) -> Evidence:
    with seeded(1), pair.evaluation(), torch.no_grad():
        found = estimator(pair, as_rows(x, x.device))
    insist(isinstance(found, Evidence), f"it must return an Evidence, but returns a {type(found).__name__}")
    evidence: Evidence = found
    return evidence


def _has_the_form(found: Evidence) -> None:
    insist(
        found.log_px.shape == (_ROWS,), f"log_px must be [{_ROWS}], one a datapoint; it is {list(found.log_px.shape)}"
    )
    insist(bool(found.log_px.isfinite().all()), "log_px is not finite")
    insist(
        found.direction in get_args(Direction), f"its direction {found.direction!r} is none of {get_args(Direction)}"
    )
    insist(bool(found.method), "its evidence has no method's name")
    for name in ("ess", "khat", "own_errors"):
        column = getattr(found, name)
        insist(column is None or column.shape == (_ROWS,), f"{name} must be [{_ROWS}], one a datapoint")
    insist(not bool((found.errors < 0).any()), "its errors are below zero")
    json.dumps(found.record("test"))


def _keeps_its_direction(found: Evidence, right: Tensor) -> None:
    off = found.log_px.double().cpu() - right.double()
    allowed = _ERRORS * found.errors.double().nan_to_num(torch.inf) + 1e-6
    if found.direction == "exact":
        insist(bool((off.abs() < _EXACT).all()), f"it is called exact, and is off by {float(off.abs().max()):.3g} nats")
    above, below = bool((off > allowed).any()), bool((off < -allowed).any())
    insist(not (above and found.direction == "lower bound"), f"a lower bound lies {float(off.max()):.3g} nats too high")
    insist(
        not (below and found.direction == "upper bound"), f"an upper bound lies {float(-off.min()):.3g} nats too low"
    )
    outside = (above or below) and found.direction == "estimate"
    insist(not outside, f"an estimate is off by {float(off.abs().max()):.3g} nats, more than its errors allow")


def _rows(found: Evidence, order: Tensor) -> Evidence:
    return replace(found, log_px=found.log_px[order], own_errors=found.errors[order])


def _rows_are_themselves(found: Evidence, expected: Evidence, how: str) -> None:
    off = (found.log_px - expected.log_px).abs()
    known = found.errors.double().nan_to_num(torch.inf) + expected.errors.double().nan_to_num(torch.inf)
    insist(bool((off <= _ERRORS * known + 1e-6).all()), f"{how}, a row's number is off by {float(off.max()):.3g} nats")
