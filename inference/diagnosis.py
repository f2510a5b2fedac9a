"""Where a number stopped being finite: the error of a run gone wrong, and the site to look at."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyro
import torch
from torch import Tensor

from .pair import Data, Pair, site_has_density, site_log_prob

if TYPE_CHECKING:
    from .run import Run

__all__ = ["NonFiniteError", "first_non_finite"]


class NonFiniteError(ArithmeticError):
    """A loss or a gradient is NaN or infinite; ``run`` holds the pair with its last good parameters."""

    def __init__(self, message: str, run: Run) -> None:
        super().__init__(message)
        self.run = run

    def __reduce__(self) -> tuple[type[NonFiniteError], tuple[str, Run]]:
        """An error of a fit in another process comes back with its run."""
        return type(self), (str(self), self.run)


def first_non_finite(pair: Pair, data: Data) -> str:
    """Say which parameter, value or log-density of a pair is the first that is not finite on a batch."""
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
        site_said = _model_site(pair, z, data)
    return site_said or "every site is finite on a fresh draw, so a rare draw or a steep gradient is the cause"


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
