"""Fit a guide to a finished model, which is held still: what was trained without one gets one for its evidence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ..objectives import SGVB, Only
from .run import Run
from .settings import Training
from .trainer import Fit

__all__ = ["GUIDE_ALONE", "fit_guide"]

GUIDE_ALONE = Only(SGVB(), ("guide",))


def fit_guide(run: Run, guide: Callable[..., Any], data: Any, training: Training) -> Run:
    """Fit a guide q(z|x) to the model of a run by its bound on log p(x).

    Args:
        run: A run of an objective that trains the model alone, such as Monte Carlo EM.
        guide: A guide over the model's latents.
        data: What the model was trained on.
        training: How long, and by which optimiser.

    Returns:
        The run with the guide beside its model. Model, history, objective and settings are as they were.
    """
    paired = Fit(run.model, guide, data, training, objective=GUIDE_ALONE).drain()
    return replace(paired, rows=run.rows, objective=run.objective, settings=run.settings)
