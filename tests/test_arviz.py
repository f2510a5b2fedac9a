"""Draws in ArviZ: named groups and dimensions, on disk and back, summaries and plots."""

import matplotlib

matplotlib.use("agg")

import numpy as np  # noqa: E402
import pyro  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402

from aevb.inference import Pair, Run, arviz_export, hmc_draws  # noqa: E402
from aevb.inference.arviz_seam import arviz, convergence, open_inference_data, pareto_khat, smoothed_weights  # noqa: E402
from aevb.inference.hmc import Chains  # noqa: E402
from aevb.models import ProbabilisticPCA  # noqa: E402


@pytest.fixture(scope="module")
def known():
    torch.manual_seed(0)
    model = ProbabilisticPCA(5, 2)
    with torch.no_grad():
        model.weight.copy_(torch.randn(5, 2))
    x = model.simulate(3).detach()

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", model.posterior(x))

    return model, Pair(model, guide).check(x), x


@pytest.mark.filterwarnings("ignore")
def test_guide_draws_have_groups_and_dims_and_survive_the_disk(known, tmp_path):
    _, pair, x = known
    data = Run(pair, None).to_arviz(x, num_samples=40)
    data.to_netcdf(str(tmp_path / "p.nc"))
    for tree in (data, open_inference_data(tmp_path / "p.nc")):
        assert tree["posterior"]["z"].dims == ("chain", "draw", "datum", "z_dim_0")
        assert tree["posterior"]["z"].shape == (1, 40, 3, 2)
        assert tree["log_likelihood"]["x_log_lik"].shape == (1, 40, 3)
        assert {"lp", "log_q", "log_weight"} <= set(tree["sample_stats"].data_vars)
        np.testing.assert_allclose(tree["observed_data"]["x"].values, x.numpy(), rtol=1e-6)
    weights = data["sample_stats"]["log_weight"].values
    assert np.ptp(weights, axis=1).max() < 1e-3  # the exact posterior: every weight is p(x)


@pytest.mark.filterwarnings("ignore")
def test_summary_and_pair_plot(known, tmp_path):
    _, pair, x = known
    data = Run(pair, None).to_arviz(x[:1], num_samples=60)
    assert len(arviz().summary(data, kind="stats")) == 2
    plot = arviz().plot_pair(data, var_names=["z"])
    figure = plot if hasattr(plot, "savefig") else np.ravel(plot)[0].figure
    figure.savefig(str(tmp_path / "pair.png"))
    assert (tmp_path / "pair.png").stat().st_size > 0


@pytest.mark.filterwarnings("ignore")
def test_chains_mix_and_find_the_exact_posterior(known):
    model, pair, x = known
    data = hmc_draws(pair, x, num_chains=4, num_samples=400, warmup=200)
    table = arviz().summary(data, kind="diagnostics", round_to="none")
    assert (table["r_hat"].astype(float) < 1.05).all() and (table["ess_bulk"].astype(float) > 100).all()
    draws = torch.as_tensor(data["posterior"]["z"].values)
    exact = model.posterior(x).mean.detach()
    error = draws.std((0, 1)) / torch.as_tensor(table["ess_bulk"].astype(float).to_numpy()).reshape(3, 2).sqrt()
    assert ((draws.mean((0, 1)) - exact).abs() < 4.5 * error).all()
    rates = data["sample_stats"]["acceptance_rate"]
    assert rates.shape == (4, 400, 3) and 0.5 < float(rates.mean()) < 1.0


def test_khat_is_that_of_the_tail():
    generator = np.random.default_rng(0)
    # Weights with a Pareto tail of known shape k: w = u^-k has exactly that tail.
    shapes = np.array([0.2, 0.5, 1.0])
    log_weights = -shapes[:, None] * np.log(generator.uniform(size=(3, 20_000)))
    ours = pareto_khat(torch.as_tensor(log_weights))
    np.testing.assert_allclose(ours.numpy(), shapes, atol=0.15)
    assert float(pareto_khat(torch.zeros(1, 100))) == -np.inf


def test_smoothed_weights_sum_to_one_and_keep_the_order():
    torch.manual_seed(0)
    log_weights = torch.randn(4, 1000, dtype=torch.float64)
    smoothed, _ = smoothed_weights(log_weights)
    torch.testing.assert_close(smoothed.logsumexp(-1), torch.zeros(4, dtype=torch.float64), rtol=0, atol=1e-8)
    body = log_weights < log_weights.quantile(0.8, dim=-1, keepdim=True)  # all but the tail is only normalised
    shift = (smoothed - log_weights)[body]
    assert float(shift.std()) < 0.05


@pytest.mark.filterwarnings("ignore")
def test_a_chain_stays_together(known, monkeypatch):
    _, pair, x = known
    draws, chains = torch.meshgrid(torch.arange(6.0), torch.arange(2.0), indexing="ij")  # [draw, chain]
    u = (10 * chains + draws)[..., None, None].expand(6, 2, 3, 2)
    known_chains = Chains(u, (chains + 0.5).unsqueeze(-1).expand(6, 2, 3), torch.ones(2, 3))
    monkeypatch.setattr(arviz_export, "sample", lambda *args, **kwargs: known_chains)
    data = hmc_draws(pair, x, num_chains=2, num_samples=6)
    np.testing.assert_array_equal(
        data["posterior"]["z"].values[:, :, 1, 0], 10.0 * np.arange(2)[:, None] + np.arange(6)
    )
    np.testing.assert_array_equal(data["sample_stats"]["acceptance_rate"].values[:, 0, 0], [0.5, 1.5])
    z = torch.as_tensor(data["posterior"]["z"].values).flatten(0, 1)
    lp = pair.log_joint({"z": z}, x).detach().unflatten(0, (2, 6))
    np.testing.assert_allclose(data["sample_stats"]["lp"].values, lp.numpy(), rtol=1e-5)


def test_convergence_tells_chains_that_agree_from_chains_that_do_not():
    torch.manual_seed(0)
    draws = torch.randn(4, 500, 2)
    draws[:2, :, 1] += 3.0  # half of the chains sit in another mode
    rhat, ess = convergence(draws)
    assert rhat[0] < 1.01 < 1.5 < rhat[1]
    assert ess[0] > 1500 > 50 > ess[1]
