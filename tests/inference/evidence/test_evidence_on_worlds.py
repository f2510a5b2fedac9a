"""Every estimator of log p(x) on every world it applies to: value, error and direction, in a batch and row by row."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import worlds

from aevb import registry
from aevb.inference import evidence, log_evidence
from aevb.inference.evidence import (
    ELBO,
    AnnealedImportanceSampling,
    BidirectionalMonteCarlo,
    DensityFit,
    Exact,
    ImportanceSampling,
    ParetoSmoothedImportanceSampling,
    Quadrature,
    sandwich,
)
from aevb.testing import check_estimator


def _chains(start, temperatures=3, chains=2, **more):
    return AnnealedImportanceSampling(
        temperatures, num_chains=chains, start=start, num_leapfrog=3, num_tuning=2, progress=False, **more
    )


WEIGHING = {  # by draws of the guide: of an exact one every weight is p(x)
    "elbo": (ELBO(4), "lower bound"),
    "importance": (ImportanceSampling(30), "lower bound"),
    "psis": (ParetoSmoothedImportanceSampling(30), None),
    "ais from the guide": (_chains("guide"), "lower bound"),
}
INTEGRATING = {"exact": Exact(), "quadrature": Quadrature()}
CHAINED = {"ais from the prior": _chains("prior"), "ais from the moments": _chains("moments")}
ELSEWHERE = {
    "DensityFit": "test_a_density_fitted_to_chains_is_right_within_its_error",
    "BidirectionalMonteCarlo": "test_an_exact_guide_leaves_no_gap_between_the_bounds",
    "sandwich": "test_one_temperature_bounds_by_what_it_starts_from",
}
NO_ESTIMATOR = {"Direction", "Estimator", "Evidence", "Observed", "Provenance", "Sandwich", "khat_threshold"}
NO_ESTIMATOR |= {"log_evidence"}


_SHORT = {"num_leapfrog": 3, "num_tuning": 5, "progress": False}
SHARED = {
    "elbo": lambda: ELBO(60),
    "importance": lambda: ImportanceSampling(200),
    "psis": lambda: ParetoSmoothedImportanceSampling(200),
    "ais": lambda: AnnealedImportanceSampling(20, 8, **_SHORT),
    "bdmc": lambda: BidirectionalMonteCarlo(10, 4, **_SHORT),
    "density-fit": lambda: DensityFit(warmup=50, thin=2),
    "exact": Exact,
    "quadrature": Quadrature,
}


def test_every_named_estimator_holds_what_every_estimator_holds_somewhere():
    assert set(SHARED) == registry.own("evidence")


@pytest.mark.parametrize("name", SHARED)
def test_estimator_holds_what_every_estimator_holds(name):
    check_estimator(SHARED[name])


def test_every_estimator_has_a_case():
    cases = [*(made for made, _ in WEIGHING.values()), *INTEGRATING.values(), *CHAINED.values()]
    assert {type(case).__name__ for case in cases} | set(ELSEWHERE) == set(evidence.__all__) - NO_ESTIMATOR
    assert all(name in globals() for name in ELSEWHERE.values())


def _applies(name, world):
    if name.startswith("ais"):
        return "discrete" not in world.features and "chains" not in world.because
    return True


_EXACT = [name for name in worlds.NAMES if worlds.once(name).exact]


@pytest.mark.parametrize("name", _EXACT)
def test_an_exact_guide_gives_log_px_of_every_row_without_error(name):
    world = worlds.make(name)
    scale = 1e-7 if name == "angle" else 1e-9 * (1 + float(world.log_px.abs().max()))
    order = torch.randperm(len(world.log_px))
    for key, (estimator, direction) in WEIGHING.items():
        if not _applies(key, world):
            continue
        found = log_evidence(world.model, world.guide, world.x, estimator)
        torch.testing.assert_close(found.log_px.double(), world.log_px, rtol=0, atol=scale, msg=f"{name} {key}")
        assert direction in (None, found.direction)
        assert abs(found.mean - float(world.log_px.mean())) < scale
        if found.errors is not None and found.errors.isfinite().all():
            assert float(found.errors.max()) < 1e-4, (name, key, found.errors)
        shuffled = log_evidence(world.model, world.guide, world.rows(order), estimator)
        torch.testing.assert_close(shuffled.log_px, found.log_px[order], rtol=0, atol=2 * scale)
        alone = log_evidence(world.model, world.guide, world.rows([-1]), estimator)
        torch.testing.assert_close(alone.log_px, found.log_px[-1:], rtol=0, atol=2 * scale)


def _integrable(world):
    return "discrete" in world.features or "gaussian" in world.features or world.dim <= 3


@pytest.mark.parametrize("name", [name for name in worlds.NAMES if _integrable(worlds.once(name))])
def test_exact_is_exact_or_refused(name):
    """In a batch and row by row."""
    world = worlds.make(name)
    if {"exact", "chains"} & set(world.because):
        with pytest.raises(ValueError, match=r"exact|bijection|continuous"):
            log_evidence(world.model, world.guide, world.x, Exact())
        return
    found = log_evidence(world.model, world.guide, world.x, Exact())
    alone = torch.cat([log_evidence(world.model, world.guide, world.rows([k]), Exact()).log_px for k in (0, -1)])
    scale = 1e-9 * float(world.log_px.abs().max())
    for got, right in ((found.log_px, world.log_px), (alone, world.log_px[[0, -1]])):
        off = float((got - right).abs().max())
        stated = 0.0 if found.errors is None else 5 * float(found.errors.max())
        assert off < max(2e-3, stated) + scale, (name, got, right)
        assert found.direction != "exact" or off < 2e-3 + scale, (name, got, right)


@pytest.mark.parametrize("name", worlds.having("continuous", without="sphere circle high"))
def test_quadrature_is_right_or_says_that_it_is_rough(name):
    world = worlds.make(name)
    if world.dim > 3:
        with pytest.raises(ValueError, match="dimensions"):
            log_evidence(world.model, None, world.x, Quadrature())
        return
    found = log_evidence(world.model, world.guide, world.x, Quadrature())
    off = (found.log_px - world.log_px).abs()
    stated = torch.zeros_like(off) if found.errors is None else 5 * found.errors.double()
    right = off < 2e-3 + 1e-9 * world.log_px.abs() + stated
    assert bool(right.all()) or found.direction != "exact" or found.notes, (name, found, world.log_px)


_POOR = [(name, other) for name in worlds.NAMES for other in worlds.once(name).others]
_POOR += [(name, None) for name in worlds.NAMES if not worlds.once(name).exact]


@pytest.mark.parametrize(("name", "other"), _POOR)
def test_an_inexact_guide_is_right_within_the_stated_errors(name, other):
    """The bound is log p(x) less the gap; importance weights are right where their k-hat is not doubtful."""
    world = worlds.make(name)
    guide, gap = (world.guide, world.gap) if other is None else (world.others[other].program, world.others[other].gap)
    bound = log_evidence(world.model, guide, world.x, ELBO(400))
    noise = 5 * bound.errors + 1e-7 + 1e-9 * world.log_px.abs()
    assert bool((bound.log_px < world.log_px + noise).all()), (bound.log_px, world.log_px)
    if gap is not None:
        assert bool(((bound.log_px - world.log_px + torch.as_tensor(gap)).abs() < noise).all()), (
            bound,
            world.log_px,
            gap,
        )
    if other in ("one-mode", "narrow"):  # what no draw reaches, no weight can tell of: too low, and nothing says so
        return
    for estimator in (ImportanceSampling(2000), ParetoSmoothedImportanceSampling(2000)):
        found = log_evidence(world.model, guide, world.x, estimator)
        trusted = torch.ones(len(world.log_px), dtype=torch.bool)
        trusted[found.doubtful] = False
        off = (found.log_px - world.log_px)[trusted]
        assert bool((off.abs() < 5 * found.errors[trusted] + 1e-7).all()), (off, found.errors, found.khat)
        assert bool((found.log_px < world.log_px + 5 * found.errors.nan_to_num(0.5) + 0.1).all())


_WALKED = ["normal", "against_the_order", "gamma_poisson", "log_normal", "precision", "holes", "labelled"]


@pytest.mark.parametrize("name", _WALKED)
@pytest.mark.parametrize("start", ["prior", "moments"])
def test_chains_arrive_at_log_px_within_their_error(name, start):
    world = worlds.make(name)
    annealing = AnnealedImportanceSampling(
        60, num_chains=32, start=start, num_leapfrog=3, num_tuning=15, progress=False
    )
    found = log_evidence(world.model, world.guide, world.x, annealing)
    off = (found.log_px - world.log_px).abs()
    assert found.direction == "lower bound"
    assert bool((off < 4.5 * found.errors + 0.05).all()), (name, off, found.errors)
    assert float(found.errors.max()) < 0.5


def test_chains_from_a_poor_guide_arrive_as_well():
    """Their first step is already beside the guide, so that its density on the real line has to be right."""
    world = worlds.make("log_normal")
    annealing = AnnealedImportanceSampling(12, num_chains=200, num_leapfrog=3, num_tuning=10, progress=False)
    found = log_evidence(world.model, world.others["shifted"].program, world.x, annealing)
    assert bool(((found.log_px - world.log_px).abs() < 4.5 * found.errors + 0.01).all()), (found.log_px, found.errors)


def test_a_density_fitted_to_chains_is_right_within_its_error():
    for name in ("linear_vector", "log_normal"):
        world = worlds.make(name)
        found = log_evidence(world.model, world.guide, world.x, DensityFit(num_samples=100, thin=4, warmup=100))
        assert bool(((found.log_px - world.log_px).abs() < 5 * found.errors + 0.02).all()), (found, world.log_px)


# ------------------------------------------------------------------------------------------------------- the sandwich


def _many(world, count):
    return world.data[0].repeat(count)


def test_an_exact_guide_leaves_no_gap_between_the_bounds():
    world = worlds.make("normal")
    found = sandwich(world.model, world.guide, world.x, _chains("guide"))
    (x,) = found.data
    right = -0.5 * (x - 0.3) ** 2 / 2.5 - 0.5 * math.log(2 * math.pi * 2.5)
    torch.testing.assert_close(found.lower.log_px, right, rtol=0, atol=1e-9)
    torch.testing.assert_close(found.upper.log_px, right, rtol=0, atol=1e-9)
    told = log_evidence(world.model, world.guide, world.x, BidirectionalMonteCarlo(3, 2, num_tuning=2, progress=False))
    assert told.direction == "lower bound" and str(round(told.mean, 3)) in told.notes[0]


def test_one_temperature_bounds_by_what_it_starts_from():
    """Of one temperature and one chain the bounds are E_prior and E_posterior of log p(x|z), which are known."""
    world = worlds.make("normal")
    one = AnnealedImportanceSampling(1, num_chains=1, start="prior", num_leapfrog=2, num_tuning=2, progress=False)
    found = sandwich(world.model, None, _many(world, 1000), one)
    log_noise = -0.5 * math.log(2 * math.pi * 0.25)
    upper, lower = log_noise - 0.5, log_noise - 0.5 * (2 * 1.5**2 + 0.25) / 0.25
    for side, right in ((found.upper, upper), (found.lower, lower)):
        assert abs(side.mean - right) < 4.5 * side.standard_error, (side.mean, right)
    assert (found.lower.direction, found.upper.direction) == ("lower bound", "upper bound")
    assert found.gap == pytest.approx(found.upper.mean - found.lower.mean)
    assert found.gap_error == pytest.approx(float(np.std(found.gaps.numpy(), ddof=1)) / len(found.gaps) ** 0.5, rel=0.1)
    said = str(found)
    assert f"{found.lower.mean:.3f}" in said and f"{found.upper.mean:.3f}" in said
    assert f"{found.gap:.3f} +- {found.gap_error:.3f}" in said and f"on {len(found.gaps)} datapoints" in said


def test_several_chains_tighten_both_bounds():
    world = worlds.make("normal")
    x = _many(world, 100)
    widths = []
    for chains in (1, 8):
        annealing = AnnealedImportanceSampling(4, chains, start="prior", num_leapfrog=3, num_tuning=5, progress=False)
        found = sandwich(world.model, None, x, annealing)
        assert found.gap > 2 * found.gap_error
        widths.append(found.gap)
    assert widths[1] < 0.7 * widths[0]
