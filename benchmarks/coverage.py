"""How often two stated errors cover: every estimator that states one, on worlds whose log p(x) is known.

    python benchmarks/coverage.py [--repeats 400] [--worlds normal ...] [--estimators importance-1000 ...]

Draws are a datapoint's own, so copies of a datapoint are repeats. A row of the table is an estimator on a world:

    known     per cent of repeats that state an error
    covered   of those, per cent within two errors of the truth: 90 to 99 are asked for, where chance decides
    doubtful  per cent whose k-hat is above its threshold
    mean      per cent of averages over 20 repeats that lie within two of their own Monte Carlo errors

An exact guide weighs every draw alike, so only rounding is left and all is covered; the errors of integrals are bounds,
which no chance is in. What is exact is held to a few units in the last place.

Beside the estimators of log p(x) stand what is made of them: the bounds of a sandwich and its gap, the parts of ELBO
surgery, the gaps of a guide, the difference of a comparison (over so many datapoints), and leave-one-out's elpd (whose
error is of the datapoints' spread: the repeats are data sets; ArviZ's asks for a hundred of them). A gap's error is of
the draws that both bounds are averaged over: where the family holds the posterior the approximation gap is zero, and
what is left, a thousandth of a nat, is where each fit of q* has stopped. Chains are too few to show a tail, so one of
shape 1/3 is allowed for, and light ones are covered a little too often.
"""

from __future__ import annotations

import argparse
import math
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import worlds  # noqa: E402

from aevb.inference import Pair, compare, elbo_surgery, gaps, log_evidence, loo  # noqa: E402
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
_ROUNDING = 2.0**-40  # of a number, that sums in another order may differ by
_NOTHING = float("nan")

_SHORT = AnnealedImportanceSampling(10, num_chains=8, num_leapfrog=4, num_tuning=10, rows=100_000, progress=False)
ESTIMATORS: dict[str, Estimator] = {
    "elbo-99": ELBO(99),
    "elbo-100": ELBO(100),
    "elbo-1000": ELBO(1000),
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
    "ais-8-guide-80": replace(_SHORT, num_temperatures=80, num_tuning=20),
    "density-fit": DensityFit(thin=4, warmup=100, rows=100_000),
    "quadrature": Quadrature(),
    "quadrature-60": Quadrature(num_cells=2, most_points=60),
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
        "covered": _per_cent((away <= 2 * errors + _ROUNDING * (1.0 + truth.abs()))[known]),
        "doubtful": 100.0 * len(found.doubtful) / len(truth),
        "mean": _per_cent(torch.tensor(stated)),
    }


def _only(found: Evidence, rows: Tensor) -> Evidence:
    """The evidence of some rows."""
    columns = {
        c: v[rows] for c in ("log_px", "own_errors", "scatter", "biases") if (v := getattr(found, c)) is not None
    }
    return replace(found, **columns, ess=None, khat=None, provenance=None)


def _within(found: Evidence, truth: Tensor, rows: Tensor) -> bool | None:
    """Whether the average of some rows lies within two of its own errors."""
    some = _only(found, rows)
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
        table[name] = _row(known, within)
    return table


def bounded_by_heavy_tails(repeats: int, num_samples: int) -> dict[str, float]:
    """Coverage of the error of a bound by a guide whose log-weights have no variance: Student's t(3)."""
    world = worlds.make("normal")
    slope, sd = 0.6, 0.1**0.5  # of the posterior

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.StudentT(3.0, slope * (x - 0.3), sd))

    rows = torch.arange(repeats) % len(world.log_px)
    found = log_evidence(world.model, guide, world.rows(rows), ELBO(num_samples))
    entropy = float(torch.distributions.StudentT(torch.tensor(3.0, dtype=torch.float64), 0.0, sd).entropy())
    return covered(found, world.log_px[rows] - 0.5 * math.log(2 * math.pi * sd**2) - 1.5 + entropy)


def gap_of_a_sandwich(annealing: AnnealedImportanceSampling, repeats: int) -> dict[str, float]:
    """Coverage of the error of the mean gap of 20 datapoints, about the mean of all."""
    found, _ = sandwiched(annealing, repeats * _GROUP)
    some = [
        replace(found, lower=_only(found.lower, rows), upper=_only(found.upper, rows))
        for rows in torch.arange(repeats * _GROUP).split(_GROUP)
    ]
    away = torch.tensor([abs(one.gap - found.gap) <= 2 * one.gap_error for one in some])
    return _row(torch.ones(repeats, dtype=torch.bool), away)


def compared(repeats: int, points: int) -> dict[str, float]:
    """Coverage of the error of a difference of two models' exact log p(x) over so many datapoints of the first."""
    torch.manual_seed(0)
    laws = [dist.Normal(torch.tensor(at, dtype=torch.float64), scale) for at, scale in ((0.3, 2.5**0.5), (0.0, 1.2))]
    truth = -float(torch.distributions.kl_divergence(*laws))
    x = laws[0].sample((repeats, points))
    hits = []
    for row in x:
        table = compare(
            {n: Evidence("exact", "exact", law.log_prob(row), 0) for n, law in zip("ab", laws, strict=True)},
            assume_alike=True,
        )
        sign = 1.0 if table.index[0] == "a" else -1.0
        hits.append(abs(sign * table["difference"].iloc[1] - truth) <= 2 * table["difference_error"].iloc[1])
    return _row(torch.ones(repeats, dtype=torch.bool), torch.tensor(hits))


def told_apart(place: tuple[str, str], repeats: int, num_draws: int) -> dict[str, dict[str, float]]:
    """Coverage of the errors of a guide's gaps: all of it about the truth, its parts about the average of repeats."""
    world = worlds.make(place[0])
    guide, rows = world.others[place[1]], torch.arange(repeats) % len(world.log_px)
    pair = Pair(world.model, guide.program).check(world.data)
    found = gaps(pair, world.rows(rows), num_steps=100, num_draws=num_draws)
    table = {}
    for name in ("total", "approximation", "amortization"):
        part = getattr(found, name)
        about = torch.stack([part.values[rows == row].mean() for row in range(len(world.log_px))])
        truth = torch.as_tensor(guide.gap) if name == "total" else about
        within = (part.values - truth[rows]).abs() <= 2 * part.errors
        table[name] = _row(~part.errors.isnan(), within[~part.errors.isnan()])
    return table


def left_out(repeats: int, points: int) -> dict[str, float]:
    """Coverage of leave-one-out's error, over data sets, about the elpd of as many new datapoints given each."""

    def model(x: Tensor) -> None:
        theta = pyro.param("theta", torch.zeros((), dtype=torch.float64))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), dtype=torch.float64), 1.0))
            pyro.sample("x", dist.Normal(theta + z, 1.0), obs=x)

    def guide(x: Tensor) -> None:
        theta = pyro.param("theta", torch.zeros((), dtype=torch.float64))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal((x - theta) / 2, 0.5**0.5))

    torch.manual_seed(0)
    hits = []
    for x in 0.7 + 2**0.5 * torch.randn(repeats, points, dtype=torch.float64):
        precision = 1.0 + points / 2
        posterior = torch.distributions.Normal(x.sum() / 2 / precision, precision**-0.5)
        variance = 1.0 / precision + 2.0
        new = -0.5 * (math.log(2 * math.pi * variance) + (2.0 + (0.7 - float(posterior.loc)) ** 2) / variance)
        found = loo(Pair(model, guide).check(x), x, {"theta": posterior}, num_weights=100, num_samples=2)
        elpd = float(getattr(found, "elpd_loo", None) or found.elpd)
        hits.append(abs(elpd - points * new) <= 2 * float(found.se))
    return _row(torch.ones(repeats, dtype=torch.bool), torch.tensor(hits))


def _row(known: Tensor, within: Tensor) -> dict[str, float]:
    return {"known": _per_cent(known), "covered": _per_cent(within), "doubtful": _NOTHING, "mean": _NOTHING}


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
    for chains in (4, 8):
        yield (
            "simulated, 20 points",
            f"sandwich-{chains} gap",
            gap_of_a_sandwich(replace(_SHORT, num_chains=chains), repeats),
        )
    for num_draws in (1, 20, 74, 500):
        for name, row in operated(repeats, num_draws).items():
            yield "many_rows wide", f"surgery-{num_draws} {name}", row
    for num_samples in (100, 1000):
        yield "normal t(3)", f"elbo-{num_samples}", bounded_by_heavy_tails(repeats, num_samples)
    for place in PLACES[:3] + PLACES[4:7]:
        for name, row in told_apart(place, repeats, 1000).items():
            yield " ".join(place), f"gaps-1000 {name}", row
    for points in (10, 100, 1000):
        yield f"{points} datapoints", "compare difference", compared(repeats, points)
    for points in (20, 100):
        yield f"{points} datapoints", "loo elpd", left_out(min(repeats, 200), points)


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
