"""The density-fit estimator: fresh draws matter, its chains are honest, and it knows its limits."""

import pytest
import torch
import worlds

from aevb.inference import log_evidence
from aevb.inference.evidence import DensityFit, density_fit
from aevb.inference.posterior import hmc
from aevb.models import ProbabilisticPCA


def _world(latent_dim, points):
    torch.manual_seed(0)
    model = ProbabilisticPCA(8, latent_dim)
    with torch.no_grad():
        model.weight.copy_(torch.randn(8, latent_dim))
    x = model.simulate(points)
    return model, x, model.log_evidence(x).detach().double()


def _away(kind, **options):
    model, x, exact = _world(2, points=60)
    evidence = log_evidence(model, None, x, DensityFit(kind, **options))
    away = evidence.log_px - exact  # by their own spread: what is wrong must not widen the error it is measured in
    return abs(float(away.mean())) / float(away.std() / len(away) ** 0.5)


@pytest.mark.parametrize("kind", ["gaussian", "kde", "mixture"])
def test_draws_that_are_used_twice_are_caught(kind, monkeypatch):
    assert _away(kind) < 3
    monkeypatch.setattr(density_fit, "split_chains", lambda u: (u[:, : u.shape[1] // 2],) * 2)
    assert not _away(kind) < 3


def test_chains_that_accept_everything_are_caught(monkeypatch):
    monkeypatch.setattr(hmc, "_choose", lambda accepted, new, old: new)  # every proposal passes
    monkeypatch.setattr(density_fit, "sample", _long_steps(density_fit.sample))
    assert not _away("gaussian") < 3


def _long_steps(sample):
    def run(density, u, **options):
        return sample(density, u, **(options | {"step_size": 0.35, "warmup": 0}))

    return run


def test_four_dimensions_are_taken_and_five_refused_with_a_reason():
    model, x, exact = _world(4, points=30)
    evidence = log_evidence(model, None, x, DensityFit("gaussian", num_samples=300))
    assert abs(evidence.mean - float(exact.mean())) < 3 * evidence.monte_carlo_error
    assert evidence.direction == "estimate" and evidence.num_samples == 300
    model, x, _ = _world(5, points=2)
    with pytest.raises(ValueError, match=r"up to 4 latent dimensions.*has 5.*annealed importance"):
        log_evidence(model, None, x, DensityFit())


def test_its_error_is_the_spread_of_repeats():
    model, x, _ = _world(2, points=1)
    evidence = log_evidence(model, None, x.expand(150, -1).clone(), DensityFit("kde"))
    spread = float(evidence.log_px.std())
    assert float(evidence.scatter.mean()) == pytest.approx(spread, rel=0.25)
    assert (evidence.errors >= evidence.scatter).all()  # ten chains do not quite know their spread
    assert float(evidence.errors.mean()) < 1.5 * spread


def test_the_mass_that_no_draw_covers_is_left_out():
    """One normal over two modes lies in the valley for the most part: what is missed is counted, or not known."""
    world = worlds.make("two_modes")
    found = [log_evidence(world.model, world.guide, world.x, DensityFit(), seed=seed) for seed in range(12)]
    away = torch.stack([(one.log_px - world.log_px).abs() for one in found])
    errors = torch.stack([one.errors for one in found])
    known = ~errors.isnan()
    assert float((away[known] <= 2 * errors[known]).double().mean()) >= 0.9
    assert 0.1 < float(known.double().mean()) < 0.9  # sharp modes leave nothing of the normal to go by
    assert "is left out" in found[0].notes[0]


def test_memory_is_bounded_by_rows():
    seen = []

    class Spy(ProbabilisticPCA):
        def _likelihood(self, z):
            seen.append(z[..., 0].numel())
            return super()._likelihood(z)

    model = Spy(8, 2)
    log_evidence(model, None, model.simulate(9), DensityFit(num_samples=10, num_chains=5, warmup=5, thin=1, rows=40))
    assert max(seen[1:]) <= 4 * 16  # the check draws four samples of its sixteen rows


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"kind": "odd"}, "odd"),
        ({"thin": 0}, "thin=0"),
        ({"num_chains": 1}, "num_chains=1"),
        ({"num_samples": 3}, "=3"),
    ],
)
def test_bad_arguments_are_named(options, expected):
    with pytest.raises(ValueError, match=expected):
        DensityFit(**options)
