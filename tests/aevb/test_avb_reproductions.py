"""The experiments of adversarial variational Bayes run, write what they promise, and rest on exact references."""

from dataclasses import replace

import pyro.distributions as dist
import pytest
import torch

import aevb.data
from aevb.data import Dataset
from aevb.inference import log_evidence
from aevb.inference.arviz_compat import open_inference_data
from aevb.inference.evidence import Evidence
from aevb.inference.evidence.quadrature import Quadrature
from aevb.inference.pairs.pair import Pair
from aevb.models import eight_schools
from aevb.reproductions import avb_eight_schools, avb_mnist, avb_posterior, avb_toy

COLUMNS = ["quantity", "published", "ours", "error", "budget"]


def test_toy_prints_all_rows_of_the_published_table(tmp_path, monkeypatch):
    for name in ("QUICK_AVB", "QUICK_VAE"):
        short = replace(getattr(avb_toy, name), steps=5, batch_size=8, width=8)
        monkeypatch.setattr(avb_toy, name, short)
    table = avb_toy.run("quick", tmp_path)
    assert list(table.columns) == COLUMNS
    assert table["published"].tolist() == [-1.568, 0.0885, -1.697, 0.165, -1.403, 0.00577, -1.421, 0.026]
    assert (tmp_path / "table.csv").exists() and (tmp_path / "latents.png").exists()
    assert any("no bound" in quantity for quantity in table["quantity"])


def test_eight_schools_compares_four_approximations_on_both_data_sets(tmp_path, monkeypatch):
    monkeypatch.setattr(avb_eight_schools, "QUICK", replace(avb_eight_schools.QUICK, steps=3, num_samples=8, width=8))
    monkeypatch.setattr(avb_eight_schools, "reference", lambda data, draws, seed: torch.randn(4, draws // 4, 10))
    monkeypatch.setattr(
        avb_eight_schools, "fit_autoguide", lambda family, data: dist.Normal(torch.zeros(10), 1.0).to_event(1)
    )
    table = avb_eight_schools.run("quick", tmp_path)
    assert list(table.columns) == COLUMNS
    assert table["published"].isin([1.13, 0.89, 0.55, 0.21]).sum() == 4
    assert all((tmp_path / f"posteriors_{variant}.png").exists() for variant in ("avb", "textbook"))
    kept = open_inference_data(tmp_path / "nuts_avb.nc")
    assert kept["posterior"]["eta"].shape == (4, 1000, 8)
    assert table["quantity"].str.contains("r-hat").sum() == 2


def test_eight_schools_evidence_agrees_with_importance_sampling_from_the_prior():
    data = avb_eight_schools.load("textbook")
    pair = Pair(eight_schools).check(data)
    torch.manual_seed(0)
    log_lik = pair.log_densities(pair.sample_prior(data, 200_000), data)[1][:, 0].double()
    weights = (log_lik - log_lik.max()).exp()
    estimate = log_lik.max() + weights.mean().log()
    error = weights.std() / weights.mean() / len(weights) ** 0.5
    assert abs(estimate - avb_eight_schools.log_marginal(data)) < 4 * error
    normal = dist.Normal(torch.zeros(10), 1.0).to_event(1)
    divergence, error = avb_eight_schools.exact_divergence(normal, data)
    assert abs(divergence - float(avb_eight_schools.log_marginal(data) - log_lik.mean())) < 5 * error


def test_the_ring_posterior_on_its_grid_integrates_to_one_and_agrees_with_quadrature():
    grid = avb_posterior.exact_posterior(avb_posterior.TEST)
    torch.testing.assert_close(grid.log_posterior.exp().sum(0) * grid.cell, torch.ones(4))
    exact = log_evidence(avb_posterior.ring, None, avb_posterior.TEST, Quadrature())
    torch.testing.assert_close(exact.log_px.float(), grid.log_evidence, atol=1e-3, rtol=0.0)


def test_the_best_normal_is_found_where_the_posterior_is_normal_and_elsewhere_is_no_worse_than_others():
    grid = avb_posterior.exact_posterior(avb_posterior.TEST)
    scales = torch.tensor([0.5, 0.8])
    known = grid._replace(log_posterior=dist.Normal(torch.tensor([0.4, -0.3]), scales).log_prob(grid.z).sum(-1, True))
    assert avb_posterior.best_normal(known, 0) == pytest.approx(0.0, abs=1e-4)
    rival = dist.Normal(torch.tensor([0.9, 0.0]), torch.tensor([0.3, 0.6])).log_prob(grid.z).sum(-1)
    least = avb_posterior.best_normal(grid, 1)
    assert 0.0 < least <= float((rival.exp() * (rival - grid.log_posterior[:, 1])).sum() * grid.cell)


def test_posterior_check_writes_its_table(tmp_path, monkeypatch):
    monkeypatch.setitem(avb_posterior.STEPS, "quick", 3)
    table = avb_posterior.run("quick", tmp_path)
    assert list(table.columns) == COLUMNS
    assert (tmp_path / "posteriors.png").exists()


def test_mnist_trains_both_rows_on_one_encoder_and_decoder(tmp_path, monkeypatch):
    grey = torch.rand(40, 784).round()
    data = Dataset("mnist", "dynamic", grey, grey, grey, image_shape=(1, 28, 28))
    monkeypatch.setattr(aevb.data, "load", lambda *args, **options: data)
    monkeypatch.setattr(avb_mnist, "_estimator", lambda settings, checkpoint: _minus_thousand)
    short = replace(
        avb_mnist.QUICK[0], steps=2, batch_size=10, hidden=(8,), basis_width=4, critic_hidden=(8,), inner_dim=4
    )
    with pytest.warns(RuntimeWarning, match="above"):
        table = avb_mnist.run("quick", tmp_path, settings=(short,))
    assert table["published"].tolist() == pytest.approx([-90.9, -98.1, -89.6, -96.3, 1.3])
    assert table["ours"].iloc[-1] == 0.0
    (tmp_path / "table.csv").unlink()
    with pytest.warns(RuntimeWarning, match="above"):
        again = avb_mnist.run("quick", tmp_path, settings=(short,))  # the runs are found finished
    assert again["ours"].tolist() == pytest.approx(table["ours"].tolist(), nan_ok=True)
    vae, avb = (avb_mnist.make_pair(name, short) for name in ("VAE", "AVB + AC"))
    for ours, theirs in ((vae[0], avb[0]), (vae[1].encoder, avb[1].encoder)):
        for a, b in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True):
            assert torch.equal(a, b)


def test_the_paper_s_convolutional_pair_runs():
    for name in ("VAE", "AVB + AC"):
        model, guide = avb_mnist.make_pair(name, avb_mnist.PAPER[0])
        x = torch.rand(2, 784).round()
        assert guide(x).shape == model(x).shape == (2, 8)


def test_an_unknown_budget_is_named(tmp_path):
    with pytest.raises(ValueError, match="budget"):
        avb_toy.run("huge", tmp_path)


def _minus_thousand(pair, data):
    return Evidence("annealed", "lower bound", torch.full((len(data),), -1000.0), 1)
