"""Draws in ArviZ: named groups and dimensions, on disk and back, summaries and plots."""

import matplotlib

matplotlib.use("agg")

import numpy as np  # noqa: E402
import pyro  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402

from aevb.inference import Pair, Run, hmc_draws, loo, plot_khat, plot_ppc  # noqa: E402
from aevb.inference.arviz_compat import arviz, convergence, open_inference_data, pareto_khat, smoothed_weights  # noqa: E402
from aevb.inference.evidence import Evidence  # noqa: E402
from aevb.inference.posterior import arviz_export  # noqa: E402
from aevb.inference.posterior.hmc import Chains  # noqa: E402
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


@pytest.mark.filterwarnings("ignore")
def test_replications_follow_the_draws_and_the_prior(known):
    model, pair, _ = known
    torch.manual_seed(1)
    x = model.simulate(400).detach()
    data = Run(pair, None).to_arviz(x, num_samples=60, num_predictive=50)
    assert data["posterior_predictive"]["x"].shape == data["prior_predictive"]["x"].shape == (1, 50, 400, 5)
    z = torch.as_tensor(data["posterior"]["z"].values)[0, :50]
    expected = z @ model.weight.detach().mT + model.mean.detach()
    residual = torch.as_tensor(data["posterior_predictive"]["x"].values)[0] - expected  # the very draws z, plus noise
    assert float(residual.std()) == pytest.approx(float(model.log_scale.exp()), rel=0.01)
    again = torch.as_tensor(data["prior_predictive"]["x"].values).flatten(0, 2).double()
    covariance = (model.weight @ model.weight.mT + model.log_scale.exp() ** 2 * torch.eye(5)).detach().double()
    torch.testing.assert_close(torch.cov(again.mT), covariance, rtol=0.1, atol=0.1)
    assert "posterior_predictive" not in Run(pair, None).to_arviz(x[:2], num_samples=3, num_predictive=0)
    chains = hmc_draws(pair, x[:2], num_chains=2, num_samples=6, warmup=2, num_predictive=4)
    assert chains["posterior_predictive"]["x"].shape == (2, 4, 2, 5)


def test_replications_under_a_plate_lie_as_their_data_do():
    def model(x, y):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", pyro.distributions.Normal(0.0, 1.0))
            with pyro.plate("features", 4, dim=-2):
                pyro.sample("x", pyro.distributions.Normal(100.0 * x.T, 1.0), obs=x.T)
            pyro.sample("y", pyro.distributions.Poisson(z.exp()), obs=y)

    def guide(x, y):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", pyro.distributions.Normal(0.0, 1.0))

    x, y = torch.randn(6, 4), torch.ones(6)
    data = Run(Pair(model, guide).check((x, y)), None).to_arviz((x, y), num_samples=20, num_predictive=5)
    for group in ("posterior_predictive", "prior_predictive"):
        assert data[group]["y"].shape == (1, 5, 6)
        np.testing.assert_allclose(data[group]["x"].values, np.tile(100 * x.numpy(), (1, 5, 1, 1)), atol=6.0)


def shown(figure, tmp_path):
    figure.savefig(tmp_path / "figure.png")
    return [line for axes in figure.axes for line in axes.get_lines() if len(line.get_xdata()) > 1]


def total(values):
    return values.sum(-1)


def held(line):
    """The values that an ECDF's line goes through."""
    return np.unique(np.asarray(line.get_xdata(), dtype=float))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("group", ["posterior", "prior"])
def test_predictive_checks_draw_the_data_over_replications(known, tmp_path, group):
    _, pair, x = known
    data = Run(pair, None).to_arviz(x, num_samples=30, num_predictive=20)
    lines = shown(plot_ppc(data, group=group, num_draws=10), tmp_path)
    assert 11 <= len(lines) <= 12  # ten replications, the data, and in the older major their mean
    assert any(np.allclose(held(line)[[0, -1]], [x.min(), x.max()], atol=1e-5) for line in lines)
    figure = plot_ppc(data, group=group, statistic=total)
    summed = shown(figure, tmp_path)
    assert "total of x" in {axes.get_xlabel() for axes in figure.axes} | {axes.get_title() for axes in figure.axes}
    sums = x.sum(-1)
    assert any(np.allclose(held(line)[[0, -1]], [sums.min(), sums.max()], atol=1e-5) for line in summed)


def test_predictive_checks_need_replications_and_a_site(known):
    _, pair, x = known
    with pytest.raises(ValueError, match="no posterior_predictive group"):
        plot_ppc(Run(pair, None).to_arviz(x, num_samples=3, num_predictive=0))
    with pytest.raises(ValueError, match=r"one of the observed sites \['x'\], got 'y'"):
        plot_ppc(Run(pair, None).to_arviz(x, num_samples=3), var_name="y")


@pytest.mark.filterwarnings("ignore")
def test_khat_plot_has_a_point_a_datapoint_and_the_threshold(tmp_path):
    khat = torch.tensor([0.1, 0.4, 0.65, 0.9, 1.3, float("inf"), float("-inf")])
    figure = plot_khat(khat, num_samples=500)
    points = np.concatenate(
        [c.get_offsets() for axes in figure.axes for c in axes.collections if len(c.get_offsets()) > 1]
    )
    np.testing.assert_allclose(points[:, 1], [0.1, 0.4, 0.65, 0.9, 1.3, 1.3, 0.0], atol=1e-6)
    figure.savefig(tmp_path / "khat.png")
    texts = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert {"42.9%", "28.6%"} <= set(texts)  # three of seven below 0.63, two up to one, two beyond
    with pytest.raises(ValueError, match="'elbo' has no importance weights"):
        plot_khat(Evidence("elbo", "lower bound", torch.zeros(3), 10))
    with pytest.raises(ValueError, match="num_samples: expected"):
        plot_khat(khat)


def located(x):
    """x = theta + z + noise: with a normal prior on theta everything is known."""
    theta = pyro.param("theta", torch.zeros(()))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", pyro.distributions.Normal(0.0, 1.0))
        pyro.sample("x", pyro.distributions.Normal(theta + z, 1.0), obs=x)


def exact_latent(x):
    theta = pyro.param("theta")
    with pyro.plate("data", len(x)):
        pyro.sample("z", pyro.distributions.Normal((x - theta) / 2, 0.5**0.5))


def each_left_out(found):
    """Log p(x_n | x_-n) of every row, by the name of ArviZ's major."""
    return np.asarray(found.loo_i if hasattr(found, "loo_i") else found.elpd_i)


@pytest.mark.filterwarnings("ignore")
def test_leave_one_out_is_the_exact_one_of_a_conjugate_model():
    torch.manual_seed(0)
    x = 0.7 + 2**0.5 * torch.randn(20)
    pair = Pair(located, exact_latent).check(x)

    def posterior(rows):  # of theta, whose prior is N(0, 1)
        precision = 1.0 + len(rows) / 2
        return torch.distributions.Normal(rows.sum() / 2 / precision, precision**-0.5)

    left_out = [posterior(torch.cat([x[:n], x[n + 1 :]])) for n in range(len(x))]
    exact = [torch.distributions.Normal(q.loc, (q.variance + 2).sqrt()).log_prob(x[n]) for n, q in enumerate(left_out)]
    found = loo(pair, x, {"theta": posterior(x)}, num_weights=4000, num_samples=2)
    pointwise = each_left_out(found)
    np.testing.assert_allclose(pointwise, torch.stack(exact).numpy(), atol=0.02)
    assert (np.asarray(found.pareto_k) < 0.5).all()


def rough_latent(x):
    theta = pyro.param("theta")
    with pyro.plate("data", len(x)):
        pyro.sample("z", pyro.distributions.Normal((x - theta) / 2, 0.9))


@pytest.mark.filterwarnings("ignore")
def test_the_noise_of_inner_averages_is_taken_out_of_leave_one_out_or_refused():
    torch.manual_seed(0)
    x = 0.7 + 2**0.5 * torch.randn(30)
    theta = {"theta": torch.distributions.Normal(x.mean(), (2 / 30) ** 0.5)}
    exact = each_left_out(loo(Pair(located, exact_latent).check(x), x, theta, num_weights=500, num_samples=2)).sum()
    pair = Pair(located, rough_latent).check(x)
    found = each_left_out(loo(pair, x, theta, num_weights=500, num_samples=4)).sum()
    assert float(found) == pytest.approx(float(exact), abs=0.25)
    far = Pair(located, lambda x: rough_latent(x + 3.0)).check(x)
    with pytest.raises(ValueError, match=r"num_samples=4 draws leave .*on 30 of 30 .*lowers elpd_loo.*num_s"):
        loo(far, x, theta, num_weights=100, num_samples=4)


def test_leave_one_out_refuses_parameters_that_the_model_has_not():
    x = torch.randn(20)
    pair, q = Pair(located, exact_latent).check(x), torch.distributions.Normal(0.0, 1.0)
    with pytest.raises(ValueError, match=r"no parameters \['mu'\]; it has \['theta'\]"):
        loo(pair, x, {"theta": q, "mu": q})
    with pytest.raises(ValueError, match=r"weights\['theta'\] draws values of shape \(3,\), expected \(\)"):
        loo(pair, x, {"theta": q.expand([3])})
    with pytest.raises(ValueError, match="num_samples=1 must be at least 2"):
        loo(pair, x, {"theta": q}, num_samples=1)


def test_leave_one_out_without_a_posterior_is_refused_with_the_mend(known):
    _, pair, x = known
    with pytest.raises(ValueError, match=r"theta has seen x_n.*compare\(.*held_out"):
        loo(pair, x)
