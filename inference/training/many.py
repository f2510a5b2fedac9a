"""Many fits of one data set: every pair under every seed, a process per core, one thread in each.

Fits stacked into one (``vmap``) win nothing over fits in turn, since a compiled step does not spend its time on calls;
so a core is kept to one fit at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import product
from typing import Any

from ..processes import in_processes
from ..random_state import RandomState
from .run import Run
from .trainer import fit

__all__ = ["ManyRuns", "fit_many"]

ManyRuns = dict[tuple[str, int], Run]
"""Runs by the name of their pair and their seed."""


def fit_many(
    pairs: Mapping[str, Callable[[], tuple[Any, Any]]],
    data: Any,
    *,
    seeds: Iterable[int] = range(5),
    jobs: int | None = None,
    progress: bool = True,
    **settings: Any,
) -> ManyRuns:
    """Train several pairs on the same data, each under several seeds.

    Args:
        pairs: By name, what makes a pair: ``() -> (model, guide)``. It is called anew for every fit, with torch seeded,
            so a seed decides the first weights too; functions of a notebook will do.
        data: As :func:`~aevb.inference.fit` takes it.
        seeds: The seeds.
        jobs: Fits at once; by default one per core.
        progress: Show how many are done.
        settings: Everything else that :func:`~aevb.inference.fit` takes: ``epochs``, ``objective``, ``validation``...

    Returns:
        The runs, by name and seed: ``runs["flow", 3]``. A fit gives the numbers here that it gives alone, to rounding.

    Raises:
        ExceptionGroup: Fits that went wrong, each with its name and seed noted, after all others are done; those
            others are under ``runs``.
        ValueError: ``jobs`` is below 1, or ``settings`` name ``seed`` or a ``checkpoint``.

    Example::

        runs = fit_many({"normal": normal_pair, "flow": flow_pair}, x, seeds=range(3), epochs=50)
        spread = {name: run.history["bound"].iloc[-1] for (name, seed), run in runs.items()}
    """
    from joblib import cpu_count

    jobs = cpu_count() if jobs is None else jobs
    if jobs < 1:
        raise ValueError(f"jobs={jobs} must be at least 1.")
    if "seed" in settings:
        raise ValueError(f"seed={settings['seed']} is said by seeds: seeds=[{settings['seed']}].")
    if settings.get("checkpoint") is not None:
        raise ValueError(f"checkpoint={settings['checkpoint']!r} would be written by every fit; leave it out.")
    tasks = [((name, seed), (pairs[name], data, seed, settings)) for name, seed in product(pairs, seeds)]
    ended = dict(in_processes(_one, tasks, jobs=jobs, progress=progress))
    results = {key: ended[key] for key, _ in tasks}
    runs = {key: result for key, result in results.items() if isinstance(result, Run)}
    if len(runs) < len(results):
        raise _failed(results, runs)
    return runs


def _one(make: Callable[[], tuple[Any, Any]], data: Any, seed: int, settings: Mapping[str, Any]) -> Run | Exception:
    """A fit in a process of its own; an error comes back as one, so that the other fits are not lost by it."""
    try:
        with RandomState(seed):
            model, guide = make()
        return fit(model, guide, data, seed=seed, progress=False, **settings)
    except Exception as error:
        return error


def _failed(results: Mapping[tuple[str, int], Run | Exception], runs: ManyRuns) -> ExceptionGroup[Exception]:
    errors = []
    for (name, seed), result in results.items():
        if isinstance(result, Exception):
            result.add_note(f"in the fit of {name!r} under seed {seed}")
            errors.append(result)
    first = f"{type(errors[0]).__name__}: {errors[0]}"
    group = ExceptionGroup(f"{len(errors)} of {len(results)} fits failed, the first by {first}", errors)
    group.runs = runs  # type: ignore[attr-defined]
    return group
