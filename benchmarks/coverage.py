"""How often two stated errors cover: every estimator that states one, on worlds whose log p(x) is known.

    python benchmarks/coverage.py [--repeats 400] [--worlds normal ...] [--estimators importance-1000 ...]

Draws are a datapoint's own, so copies of a datapoint are repeats. A row of the table is an estimator on a world:

    known     per cent of repeats that state an error
    covered   of those, per cent within two errors of the truth: 90 to 99 are asked for (of what is exact, 100)
    doubtful  per cent whose k-hat is above its threshold
    mean      per cent of averages over 20 repeats that lie within two of their own Monte Carlo errors
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import worlds  # noqa: E402

from aevb.inference import (  # noqa: E402
    Pair,
    elbo_surgery,  # noqa: E402
    log_evidence,
)
from aevb.inference.evidence import (  # noqa: E402
    ELBO,
    AnnealedImportanceSampling,
    DensityFit,
    Estimator,
    Evidence,
    Exact,
    ImportanceSampling,
    ParetoSmoothedImportanceSampling,
    Quadrature,
    Sandwich,
    sandwich,
)

__all__ = ["ESTIMATORS", "PLACES", "covered", "repeated", "sandwiched"]

_GROUP = 20  # repeats of an average

_SHORT = AnnealedImportanceSampling(10, num_chains=8, num_leapfrog=4, num_tuning=10, rows=100_000, progress=False)
ESTIMATORS: dict[str, Estimator] = {
    "elbo-10": ELBO(10),
    "elbo-100": ELBO(100),
    "importance-1": ImportanceSampling(1),
    "importance-50": ImportanceSampling(50),
    "importance-200": ImportanceSampling(200),
    "importance-1000": ImportanceSampling(1000),
    "psis-200": ParetoSmoothedImportanceSampling(200),
    "psis-1000": ParetoSmoothedImportanceSampling(1000),
    "ais-1-guide": replace(_SHORT, num_chains=1),
    "ais-4-guide": replace(_SHORT, num_chains=4),
    "ais-8-guide": _SHORT,
    "ais-16-guide": replace(_SHORT, num_chains=16),
    "ais-8-moments": replace(_SHORT, start="moments"),
    "ais-8-prior": replace(_SHORT, start="prior"),
    "ais-16-prior": replace(_SHORT, start="prior", num_chains=16, num_temperatures=50),
    "density-fit": DensityFit(thin=4, warmup=100, rows=100_000),
    "quadrature": Quadrature(),
    "exact": Exact(),
}
PLACES = [  # a world and one of its guides, "" being the good one
    ("normal", "wide"),
    ("normal", "shifted"),
    ("normal", "narrow"),
    ("normal", "prior"),
    ("collider", "mean-field"),
    ("linear_vector", "mean-field"),
    ("log_normal", "shifted"),
    ("uniform_interval", ""),
    ("heavy_noise", ""),
    ("outlying", ""),
    ("funnel", ""),
    ("hundred_dimensions", "wide"),
    ("minus_a_million", "wide"),
    ("two_modes", ""),
    ("precision", ""),
]


def repeated(place: tuple[str, str], estimator: Estimator, repeats: int, seed: int = 0) -> tuple[Evidence, Tensor]:
    """The evidence of ``repeats`` copies of a world's datapoints, and what it is about: log p(x), or the bound."""
    world = worlds.make(place[0])
    other = world.others.get(place[1])
    guide = world.guide if other is None else other.program
    rows = torch.arange(len(world.log_px)).repeat(-(-repeats // len(world.log_px)))[:repeats]
    found = log_evidence(world.model, guide, world.rows(rows), estimator, seed=seed)
    truth = world.log_px
    if isinstance(estimator, ELBO):
        gap = world.gap if other is None else other.gap
        if gap is None:
            raise ValueError("the bound itself is not known here.")
        truth = truth - torch.as_tensor(gap)
    return found, truth[rows]


def covered(found: Evidence, truth: Tensor) -> dict[str, float]:
    """The columns of a row of the table, in per cent."""
    away, errors = (found.log_px.double() - truth).abs(), found.errors.double()
    known = ~errors.isnan()
    means = [_within(found, truth, rows) for rows in torch.arange(len(truth)).split(_GROUP)]
    stated = [within for within in means if within is not None]
    return {
        "known": _per_cent(known),
        "covered": _per_cent((away <= 2 * errors)[known]),
        "doubtful": 100.0 * len(found.doubtful) / len(truth),
        "mean": _per_cent(torch.tensor(stated)),
    }


def _within(found: Evidence, truth: Tensor, rows: Tensor) -> bool | None:
    """Whether the average of some rows lies within two of its own errors."""
    columns = {
        c: v[rows] for c in ("log_px", "own_errors", "scatter", "biases") if (v := getattr(found, c)) is not None
    }
    some = replace(found, **columns, ess=None, khat=None, provenance=None)
    error = some.monte_carlo_error
    return None if error is None else abs(some.mean - float(truth[rows].mean())) <= 2 * error


def _per_cent(hits: Tensor) -> float:
    return 100.0 * float(hits.double().mean())


def sandwiched(annealing: AnnealedImportanceSampling, repeats: int) -> tuple[Sandwich, Tensor]:
    """Both bounds of ``repeats`` datapoints simulated from a linear-normal world, and their log p(x)."""
    world = worlds.make("normal")
    found = sandwich(world.model, world.others["wide"].program, world.data[0][:1].expand(repeats), annealing)
    return found, torch.distributions.Normal(0.3, (1.5**2 + 0.25) ** 0.5).log_prob(found.data[0]).double()


def operated(repeats: int, num_draws: int) -> dict[str, dict[str, float]]:
    """Coverage of the errors of ELBO surgery about the average of all repeats, which is unbiased."""
    world = worlds.make("many_rows")
    pair = Pair(world.model, world.others["wide"].program).check(world.data)
    found = [elbo_surgery(pair, world.x, num_draws=num_draws, seed=seed) for seed in range(repeats)]
    table = {}
    for name in ("marginal_kl", "index_information"):
        values, errors = (torch.tensor([getattr(one, n) for one in found]) for n in (name, f"{name}_error"))
        known = ~errors.isnan()
        within = ((values - values.mean()).abs() <= 2 * errors)[known]
        nothing = float("nan")
        table[name] = {"known": _per_cent(known), "covered": _per_cent(within), "doubtful": nothing, "mean": nothing}
    return table


def _rows(
    repeats: int, places: list[tuple[str, str]], names: list[str]
) -> Iterator[tuple[str, str, dict[str, float] | str]]:
    for place in places:
        for name in names:
            label = " ".join(place).strip()
            try:
                yield label, name, covered(*repeated(place, ESTIMATORS[name], repeats))
            except ValueError as error:
                yield label, name, str(error)


def _beside(repeats: int) -> Iterator[tuple[str, str, dict[str, float] | str]]:
    for chains in (1, 8, 16):
        found, truth = sandwiched(replace(_SHORT, num_chains=chains), repeats)
        yield "simulated", f"sandwich-{chains} lower", covered(found.lower, truth)
        yield "simulated", f"sandwich-{chains} upper", covered(found.upper, truth)
    for num_draws in (1, 20, 74, 500):
        for name, row in operated(repeats, num_draws).items():
            yield "many_rows wide", f"surgery-{num_draws} {name}", row


def _show(rows: Callable[..., Iterator[tuple[str, str, dict[str, float] | str]]], *arguments: object) -> None:
    for label, name, row in rows(*arguments):
        told = row.splitlines()[0][:60] if isinstance(row, str) else "".join(f"{value:10.1f}" for value in row.values())
        print(f"{label:26s} {name:26s} {told}", flush=True)


def main() -> None:
    """Print the table."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=400)
    parser.add_argument("--worlds", nargs="*", default=sorted({place[0] for place in PLACES} | {"beside"}))
    parser.add_argument("--estimators", nargs="*", default=list(ESTIMATORS))
    asked = parser.parse_args()
    print(f"{'world, guide':26s} {'estimator':26s} {'known':>10s}{'covered':>10s}{'doubtful':>10s}{'mean':>10s}")
    _show(_rows, asked.repeats, [place for place in PLACES if place[0] in asked.worlds], asked.estimators)
    if "beside" in asked.worlds:
        _show(_beside, asked.repeats)


if __name__ == "__main__":
    main()
