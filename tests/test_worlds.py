"""The worlds themselves, by a route that shares nothing with how their answers were found: Pyro's traces alone."""

import itertools
import math

import numpy as np
import pytest
import torch
import worlds
from pyro import poutine

_GRIDS = {  # a box that holds all of the mass, and points that see its narrowest bend
    "two_modes": (-4.0, 4.0, 20_001),
    "outlying": (-32.0, 62.0, 60_001),
    "heavy_noise": (-9.0, 12.0, 8_001),
    "beta_binomial": (1e-9, 1 - 1e-9, 20_001),
    "gamma_poisson": (1e-9, 30.0, 40_001),
    "log_normal": (1e-9, 60.0, 400_001),
    "uniform_interval": (0.0, 2.0, 20_001),
    "angle": (-math.pi, math.pi, 4_001),
    "minus_a_million": (-3.0, 3.0, 4_001),
}


def _scored(program, data, z, plates=False):
    """log p(x, z) (of a model) or log q(z|x) (of a guide) at ``z`` ``{site: [G, N, ...]}``: ``[G, N]``."""
    shape = next(iter(z.values())).shape[:2]
    given = {name: value.unsqueeze(1) if plates else value for name, value in z.items()}
    trace = poutine.trace(poutine.condition(program, data=given)).get_trace(*data)
    trace.compute_log_prob()
    sites = [s for s in trace.nodes.values() if s["type"] == "sample" and "log_prob" in s and s["log_prob"].dim() > 0]
    sites = [s for s in sites if type(s["fn"]).__name__ != "_Subsample"]
    total = torch.zeros(shape, dtype=torch.float64)
    for site in sites:
        log_prob = site["log_prob"]
        total = total + (log_prob.sum(-2) if log_prob.dim() > 2 else log_prob)
    return total


def _draws(program, data):
    trace = poutine.trace(program).get_trace(*data)
    return {
        name: site["value"].unsqueeze(0)
        for name, site in trace.nodes.items()
        if site["type"] == "sample" and type(site["fn"]).__name__ != "_Subsample"
    }


_EXACT = [name for name in worlds.NAMES if worlds.once(name).exact]
_ONE = [name for name in worlds.having("continuous") if worlds.once(name).dim == 1]
_every = pytest.mark.parametrize("name", worlds.NAMES)


@pytest.fixture
def world(name):
    with torch.no_grad():
        made = worlds.make(name)
        for program in (made.model, made.guide):
            if isinstance(program, torch.nn.Module):
                program.eval()
        yield made


def test_there_are_worlds_of_every_awkward_kind():
    assert len(worlds.NAMES) >= 25
    wanted = "reversed structured modes heavy constrained single high huge masked discrete function batch-norm plates"
    for feature in wanted.split():
        assert worlds.having(feature), feature


@_every
def test_a_worlds_numbers_are_in_double_precision_and_one_a_row(world):
    rows = {len(part) for part in world.data} | {len(world.log_px)}
    assert len(rows) == 1 and world.log_px.dtype == torch.float64
    for gap in (world.gap, *(guide.gap for guide in world.others.values())):
        assert gap is None or (gap.shape == world.log_px.shape and np.all(gap > -1e-12))


@pytest.mark.parametrize("name", _EXACT)
def test_the_weights_of_an_exact_guide_are_p_of_x(world):
    exact = [world.guide, *(g.program for g in world.others.values() if g.gap is not None and not np.any(g.gap))]
    for guide in exact:
        for _ in range(3):
            z = _draws(guide, world.data)
            plates = "plates" in world.features
            weight = _scored(world.model, world.data, z, plates)[0] - _scored(guide, world.data, z)[0]
            torch.testing.assert_close(
                weight, world.log_px, rtol=1e-10, atol=1e-7
            )  # torch's Bessel functions are polynomials


def _grid(name, world):
    """Points of the latent space ``{site: [G, N, ...]}`` and the logarithm of a cell, or ``None``."""
    low, high, count = _GRIDS.get(name, (-9.0, 9.0, 4_001))
    edges = torch.linspace(low, high, count, dtype=torch.float64)
    points = 0.5 * (edges[1:] + edges[:-1])  # no mass is lost or counted twice at an edge
    (site,) = _draws(world.guide, world.data)
    return {site: points.unsqueeze(-1).expand(-1, len(world.log_px))}, math.log(points[1] - points[0])


@pytest.mark.parametrize("name", _ONE)
def test_one_latent_integrates_to_log_px(world):
    z, log_cell = _grid(world.name, world)
    joint = _scored(world.model, world.data, z, "plates" in world.features)
    torch.testing.assert_close(joint.logsumexp(0) + log_cell, world.log_px, rtol=1e-12, atol=2e-5)


@pytest.mark.parametrize("name", ["against_the_order", "in_the_order", "collider", "auxiliary", "funnel"])
def test_two_sites_integrate_to_log_px(name):
    world = worlds.make(name)
    low, high = (-11.0, 11.0) if name != "funnel" else (-14.0, 14.0)
    points = torch.linspace(low, high, 501, dtype=torch.float64)
    grid = torch.cartesian_prod(points, points)
    sites = ("v", "z") if name == "funnel" else sorted(_draws(world.guide, world.data))
    z = {site: grid[:, k : k + 1].expand(-1, len(world.log_px)) for k, site in enumerate(sites)}
    with torch.no_grad():
        joint = _scored(world.model, world.data, z)
    found = joint.logsumexp(0) + 2 * math.log(points[1] - points[0])
    torch.testing.assert_close(found, world.log_px, rtol=0, atol=2e-2 if name == "funnel" else 1e-5)


@pytest.mark.parametrize("name", ["linear_vector", "gaps_of_many_sizes", "four_modes", "batch_norm"])
def test_two_dimensions_of_a_site_integrate_to_log_px(name):
    world = worlds.make(name)
    points = torch.linspace(-6.0, 6.0, 601, dtype=torch.float64)
    grid = torch.cartesian_prod(points, points).unsqueeze(1).expand(-1, len(world.log_px), 2)
    with torch.no_grad():
        joint = _scored(world.model, world.data, {"z": grid})
    found = joint.logsumexp(0) + 2 * math.log(points[1] - points[0])
    torch.testing.assert_close(found, world.log_px, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "sizes"), [("coin", {"z": 2}), ("clusters", {"z": 3}), ("two_switches", {"a": 2, "b": 3})]
)
def test_discrete_latents_sum_to_log_px(name, sizes):
    world = worlds.make(name)
    states = torch.tensor(list(itertools.product(*(range(size) for size in sizes.values()))))
    kinds = {"a": torch.float64, "z": torch.float64 if name == "coin" else torch.long, "b": torch.long}
    z = {s: states[:, k : k + 1].expand(-1, len(world.log_px)).to(kinds[s]) for k, s in enumerate(sizes)}
    with torch.no_grad():
        joint = _scored(world.model, world.data, z)
    torch.testing.assert_close(joint.logsumexp(0), world.log_px, rtol=0, atol=1e-10)


@_every
def test_a_guides_gap_is_what_its_draws_lose(world):
    guides = {"good": (world.guide, world.gap)} | {n: (g.program, g.gap) for n, g in world.others.items()}
    torch.manual_seed(1)
    for name, (guide, gap) in guides.items():
        if gap is None or not np.any(gap):
            continue
        count = 4000
        many = tuple(part.repeat(count, *[1] * (part.dim() - 1)) for part in world.data)
        z = _draws(guide, many)
        lost = (
            torch.as_tensor(world.log_px).repeat(count) - (_scored(world.model, many, z) - _scored(guide, many, z))[0]
        )
        lost = lost.reshape(count, -1)
        error = (lost.std(0) / count**0.5).numpy() + 1e-9
        assert np.all(np.abs(lost.mean(0).numpy() - gap) < 4.5 * error), (name, lost.mean(0), gap, error)
