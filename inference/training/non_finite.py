"""Where a number stopped being finite: the error of a run gone wrong, and the site to look at."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyro
import torch
from torch import Tensor

from ..pairs.pair import Pair
from ..pairs.sites import Data, site_has_density, site_log_prob

if TYPE_CHECKING:
    from .run import Run

__all__ = ["NonFiniteError", "explain"]


class NonFiniteError(ArithmeticError):
    """A loss or a gradient is NaN or infinite; ``run`` holds the pair with its last good parameters."""

    def __init__(self, message: str, run: Run) -> None:
        super().__init__(message)
        self.run = run

    def __reduce__(self) -> tuple[type[NonFiniteError], tuple[str, Run]]:
        """An error of a fit in another process comes back with its run."""
        return type(self), (str(self), self.run)


def explain(pair: Pair, data: Data, rows: Tensor, moved: bool) -> str:
    """Say where a batch first stops being finite, why, and what to do about it.

    Args:
        pair: The pair, its parameters those before the step that went wrong.
        data: The batch.
        rows: Its rows' numbers ``[batch]`` in the data set.
        moved: Whether any step was made before.
    """
    site = _first_non_finite(pair, data)
    mend = "Lower the learning rate, clip the gradients (clip_norm), or bound the scales."
    if site is None:
        return f"every site is finite on a fresh draw, so a rare draw or a steep gradient is the cause. {mend}"
    broken = _rows_not_finite(data)
    sound = tuple(part[~broken] for part in data)
    if 0 < len(sound[0]) < len(rows) and _first_non_finite(pair, sound) is None:
        return (
            f"{site}, and only with row {int(rows[broken.to(rows.device)][0])} of the data, which holds NaN or "
            "infinities. Drop such rows, or take a guide and a model that mask missing entries (missing=True)."
        )
    if not moved:
        mend = "No parameter has moved yet: look at the range of the data and at the scales that the pair starts with."
    return f"{site}. {mend}"


def _rows_not_finite(data: Data) -> Tensor:
    """Which datapoints hold NaN or infinities, ``[batch]``."""
    return torch.stack([~part.reshape(len(part), -1).isfinite().all(1) for part in data]).any(0)


def _first_non_finite(pair: Pair, data: Data) -> str | None:
    """The first parameter, value or log-density of a pair that is not finite on a batch, if there is one."""
    for name, parameter in pair.named_parameters():
        if not _finite(parameter):
            return f"parameter {name!r} is not finite"
    with torch.no_grad(), pyro.validation_enabled(False):
        guide = {} if pair.guide is None else pair.trace(pair.guide, data, 1)
        for name, site in guide.items():
            scored = [("log-density", site_log_prob(site, 1))] if site_has_density(site) else []
            for what, value in (("value", site["value"]), *scored):
                if not _finite(value):
                    return _said("guide", name, what, value)
        z = pair.sample_guide(data) if pair.guide is not None else pair.sample_prior(data)
        return _model_site(pair, z, data)


def _model_site(pair: Pair, z: dict[str, Tensor], data: Data) -> str | None:
    log_prior, log_lik = pair.log_densities(z, data)
    latents, observed = sorted(z), sorted(pair.observed)
    if not _finite(log_prior):
        return _said("model", ", ".join(latents), "log-prior", log_prior)
    if not _finite(log_lik):
        return _said("model", ", ".join(observed), "log-likelihood", log_lik)
    return None


def _finite(value: Tensor) -> bool:
    return bool(torch.isfinite(value).all())


def _said(role: str, name: str, what: str, value: Tensor) -> str:
    bad = int((~torch.isfinite(value)).sum())
    return f"first at {role} site {name!r}: {bad} of {value.numel()} entries of its {what} are not finite"
