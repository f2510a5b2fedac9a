"""What a fitted pair is used for, on a model whose posterior is known."""

import pyro
import pytest
import torch

from aevb.inference import ContractError, Pair
from aevb.inference.pairs.predictive import (
    decode,
    draws,
    generate,
    imputations,
    impute,
    infer,
    interpolate,
    linear_probe,
    nearest_neighbours,
    reconstruct,
    traverse,
)
from aevb.models import ProbabilisticPCA


@pytest.fixture(scope="module")
def known():
    """Probabilistic PCA with its exact posterior as the guide, and data from it."""
    torch.manual_seed(0)
    model = ProbabilisticPCA(data_dim=5, latent_dim=2)
    with torch.no_grad():
        model.weight.copy_(torch.randn(5, 2))
        model.mean.copy_(torch.arange(5.0))
        model.log_scale.fill_(-1.0)
    x = model.simulate(400).detach()

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", model.posterior(x))

    return model, Pair(model, guide).check(x), x


def test_generate_matches_the_marginal(known):
    model, pair, _ = known
    draws, means = generate(pair, 20_000, seed=1)
    assert draws.shape == means.shape == (20_000, 5)
    covariance = model.weight @ model.weight.T + (2 * model.log_scale).exp() * torch.eye(5)
    error = (covariance.diagonal() / 20_000).sqrt()
    assert ((draws.mean(0) - model.mean).abs() < 4 * error).all()
    torch.testing.assert_close(draws.T.cov(), covariance.detach(), rtol=0.1, atol=0.05)


def test_infer_is_the_posterior_mean(known):
    model, pair, x = known
    exact = model.posterior(x[:20]).mean.detach()
    scale = model.posterior(x[:20]).stddev.detach()
    ours = infer(pair, x[:20], num_samples=2000)
    assert ((ours - exact).abs() < 5 * scale / 2000**0.5).all()


def test_decode_interpolate_and_traverse_follow_the_linear_map(known):
    model, pair, x = known

    def mean(z):
        return (model.mean + z @ model.weight.T).detach()

    z = torch.tensor([[1.0, -2.0], [0.0, 0.5]])
    torch.testing.assert_close(decode(pair, z), mean(z))
    line = interpolate(pair, x[0], x[1], num_steps=5)
    torch.testing.assert_close(line[2], line[[0, 4]].mean(0))
    ends = infer(pair, x[:2], num_samples=500)
    torch.testing.assert_close(line[[0, 4]], mean(ends))
    grid = traverse(pair, x[0], torch.tensor([-1.0, 1.0]))
    assert grid.shape == (2, 2, 5)
    torch.testing.assert_close(grid[0, 1] - grid[0, 0], 2 * model.weight[:, 0].detach())


def test_reconstruct_lies_near_the_data(known):
    model, pair, x = known
    noise = float(model.log_scale.detach().exp())
    assert float((reconstruct(pair, x) - x).square().mean().sqrt()) < 2 * noise


def test_impute_draws_from_the_conditional(known):
    model, pair, x = known
    row = x[:1].expand(4000, 5).clone()
    row[:, 3:] = torch.nan
    filled = impute(pair, row, num_rounds=60, seed=2)
    torch.testing.assert_close(filled[:, :3], row[:, :3])
    covariance = (model.weight @ model.weight.T + (2 * model.log_scale).exp() * torch.eye(5)).detach()
    seen, hidden = covariance[:3, :3], covariance[3:, :3]
    gain = hidden @ torch.linalg.inv(seen)
    mean = model.mean[3:].detach() + gain @ (x[0, :3] - model.mean[:3].detach())
    spread = (covariance[3:, 3:] - gain @ hidden.T).diagonal().sqrt()
    assert ((filled[:, 3:].mean(0) - mean).abs() < 4 * spread / 4000**0.5).all()
    torch.testing.assert_close(filled[:, 3:].std(0), spread, rtol=0.06, atol=0.0)


def test_imputations_give_the_conditional_mean_and_spread_of_every_datapoint(known):
    model, pair, x = known
    rows = torch.cat([x[:1], x[:3]])  # the first two are one and the same
    holes = torch.zeros(4, 5, dtype=torch.bool)
    holes[:2, 3:] = holes[2, 0] = holes[3, :2] = True
    found = imputations(pair, rows.masked_fill(holes, torch.nan), num_draws=500, num_rounds=30, seed=4)
    covariance = (model.weight @ model.weight.T + (2 * model.log_scale).exp() * torch.eye(5)).detach()
    for i, hole in enumerate(holes):
        gain = torch.linalg.solve(covariance[~hole][:, ~hole], covariance[~hole][:, hole]).T
        mean = model.mean[hole].detach() + gain @ (rows[i, ~hole] - model.mean[~hole].detach())
        spread = (covariance[hole][:, hole] - gain @ covariance[~hole][:, hole]).diagonal().sqrt()
        assert ((found.mean[i, hole] - mean).abs() < 4 * spread / 500**0.5).all()
        torch.testing.assert_close(found.spread[i, hole], spread, rtol=0.15, atol=0.0)
        assert torch.equal(found.mean[i, ~hole], rows[i, ~hole]) and (found.spread[i, ~hole] == 0).all()
    apart = (found.draws[:, 0] - found.draws[:, 1])[:, 3]
    assert float(apart.std()) > found.spread[0, 3]  # equal datapoints have draws of their own
    # The mean is of E[x|z] over draws, which scatters less than the draws of x do.
    assert (found.mean - rows)[holes].square().mean() < (found.draws[0] - rows)[holes].square().mean()


def test_imputing_starts_every_column_at_values_of_its_own():
    """A column of thousands beside one of units: started at each other's values, one round could not mend it."""
    import pyro.distributions as dist

    started = []

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            loc = torch.stack([z + 1000.0, z], -1)
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

    def guide(x):
        started.append(x)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x[:, 1], 1.0))

    x = torch.stack([1000.0 + torch.randn(40), torch.randn(40)], 1)
    pair = Pair(model, guide).check(x)
    started.clear()
    impute(pair, torch.where(torch.rand(40, 2) < 0.4, torch.nan, x), num_rounds=1, seed=0)
    assert (started[-1][:, 0] > 900).all() and (started[-1][:, 1] < 100).all()


def test_one_draw_has_no_spread(known):
    _, pair, x = known
    with pytest.raises(ValueError, match="num_draws=1 must be at least 2"):
        imputations(pair, x[:2], num_draws=1)


def test_everything_missing_is_refused(known):
    _, pair, x = known
    with pytest.raises(ValueError, match="every entry is missing"):
        impute(pair, torch.full_like(x[:2], torch.nan))


def test_neighbours_and_probe():
    torch.manual_seed(0)
    centres = torch.tensor([[5.0, 0.0], [-5.0, 0.0]])
    labels = torch.arange(100) % 2
    latents = centres[labels] + torch.randn(100, 2)
    assert nearest_neighbours(latents, latents[:3], 1).flatten().tolist() == [0, 1, 2]
    assert linear_probe(latents[:60], labels[:60], latents[60:], labels[60:]) == 1.0


def test_decode_of_several_sites_is_refused():
    import pyro.distributions as dist

    def model(x):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Normal(x.new_zeros(()), 1.0))
            b = pyro.sample("b", dist.Normal(x.new_zeros(()), 1.0))
            pyro.sample("x", dist.Normal(a + b, 1.0), obs=x)

    pair = Pair(model).check(torch.zeros(3))
    with pytest.raises(ContractError, match=r"\['a', 'b'\]"):
        decode(pair, torch.zeros(2, 1))


def test_a_model_that_masks_imputes_from_what_is_seen(known):
    """Asked once, since q(z | x_observed) is there: with the exact one, a draw is of the conditional."""
    import pyro.distributions as dist

    model, _, x = known
    missing = torch.zeros(5, dtype=torch.bool)
    missing[3:] = True
    weight, mean, noise = model.weight.detach(), model.mean.detach(), model.log_scale.detach().exp()

    def masked(x):
        hole = x.isnan()
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            p_x = dist.Normal(mean + z @ weight.T, noise).mask(~hole).to_event(1)
            pyro.sample("x", p_x, obs=torch.where(hole, 0.0, x))

    def guide(x):
        seen = weight[~missing]
        precision = torch.eye(2) + seen.T @ seen / noise**2
        loc = torch.linalg.solve(precision, seen.T @ (x[:, ~missing] - mean[~missing]).T / noise**2).T
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.MultivariateNormal(loc, precision_matrix=precision))

    row = x[:1].expand(4000, 5).clone()
    row[:, missing] = torch.nan
    filled = impute(Pair(masked, guide).check(row), row, seed=3)
    torch.testing.assert_close(filled[:, :3], row[:, :3])
    covariance = weight @ weight.T + noise**2 * torch.eye(5)
    gain = covariance[3:, :3] @ torch.linalg.inv(covariance[:3, :3])
    expected = mean[3:] + gain @ (x[0, :3] - mean[:3])
    spread = (covariance[3:, 3:] - gain @ covariance[3:, :3].T).diagonal().sqrt()
    assert ((filled[:, 3:].mean(0) - expected).abs() < 4 * spread / 4000**0.5).all()
    torch.testing.assert_close(filled[:, 3:].std(0), spread, rtol=0.06, atol=0.0)


def test_draws_are_of_the_posterior(known):
    model, pair, x = known
    z = draws(pair, x[:30], num_samples=500)["z"]
    exact = model.posterior(x[:30])
    assert z.shape == (500, 30, 2)
    assert ((z.mean(0) - exact.mean).abs() < 5 * exact.stddev / 500**0.5).all()
