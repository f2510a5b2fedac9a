"""A pair's densities against Pyro's distributions, for every way of writing the pair."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule, PyroParam
from torch import nn

from aevb.inference import Pair
from aevb.inference.pairs.unconstrained import flatten, unflatten

X = torch.tensor([[0.5, -1.0, 2.0], [1.5, 0.0, -0.5]])


def _two_sites(x):
    """Two latents of different shapes and supports, a parameter, an observed site with a plate of its own."""
    noise = pyro.param("noise", torch.tensor(0.5), constraint=dist.constraints.positive)
    with pyro.plate("data", len(x), dim=-1):
        rate = pyro.sample("rate", dist.Gamma(x.new_tensor(2.0), 1.5))
        shift = pyro.sample("shift", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
        with pyro.plate("pixels", 3, dim=-2):
            loc = rate + shift[..., 0] - shift[..., 1]
            pyro.sample("x", dist.Normal(loc, noise), obs=x.T)


def _two_guides(x):
    with pyro.plate("data", len(x), dim=-1):
        pyro.sample("rate", dist.LogNormal(x[:, 0], 0.3))
        pyro.sample("shift", dist.Normal(x[:, :2], 0.7).to_event(1))


def test_densities_of_several_sites_and_plates_by_hand():
    pair = Pair(_two_sites, _two_guides).check(X)
    cloud = pair.cloud(X, 5)
    rate, shift = cloud.z["rate"], cloud.z["shift"]
    assert rate.shape == (5, 2) and shift.shape == (5, 2, 2)
    log_prior = dist.Gamma(2.0, 1.5).log_prob(rate) + dist.Normal(0.0, 1.0).log_prob(shift).sum(-1)
    loc = rate + shift[..., 0] - shift[..., 1]
    log_lik = dist.Normal(loc.unsqueeze(-1), 0.5).log_prob(X).sum(-1)
    log_q = dist.LogNormal(X[:, 0], 0.3).log_prob(rate) + dist.Normal(X[:, :2], 0.7).log_prob(shift).sum(-1)
    torch.testing.assert_close(cloud.log_prior, log_prior)
    torch.testing.assert_close(cloud.log_lik, log_lik)
    torch.testing.assert_close(cloud.log_q, log_q)
    torch.testing.assert_close(pair.log_joint(cloud.z, X), log_prior + log_lik)
    torch.testing.assert_close(pair.log_guide(cloud.z, X), log_q)


def test_coordinates_are_a_bijection_with_its_jacobian():
    pair = Pair(_two_sites, _two_guides).check(X)
    z = pair.sample_guide(X, 4)
    u = flatten(pair, z)
    assert u.shape == (4, 2, 3)
    back, log_det = unflatten(pair, u)
    torch.testing.assert_close(back, z)
    jacobian = torch.autograd.functional.jacobian(
        lambda row: torch.cat([part.flatten() for part in unflatten(pair, row.expand(1, 2, 3))[0].values()]), u[0, :1]
    )
    columns = jacobian.reshape(-1, 3)
    expected = torch.linalg.svdvals(columns).log().sum() - 1.5 * torch.tensor(2.0).log()  # two equal rows each
    torch.testing.assert_close(log_det[0, 0], expected, rtol=1e-4, atol=1e-4)


def test_a_distributions_mask_is_kept():
    seen = torch.tensor([[True, True, False], [True, False, False]])

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z.unsqueeze(-1), 1.0).expand([*z.shape, 3]).mask(seen).to_event(1), obs=x)

    pair = Pair(model).check(X)
    z = torch.zeros(1, 2)
    log_prior, log_lik = pair.log_densities({"z": z}, X)
    torch.testing.assert_close(log_prior, dist.Normal(0.0, 1.0).log_prob(z))
    expected = (dist.Normal(0.0, 1.0).log_prob(X) * seen).sum(-1)
    torch.testing.assert_close(log_lik[0], expected)


def test_rows_do_not_touch_each_other():
    pair = Pair(_two_sites, _two_guides).check(X)
    z = pair.sample_guide(X, 3)
    double = pair.log_joint({k: torch.cat([v, v], 1) for k, v in z.items()}, torch.cat([X, X]))
    swapped = pair.log_joint({k: v.flip(1) for k, v in z.items()}, X.flip(0))
    once = pair.log_joint(z, X)
    torch.testing.assert_close(double, torch.cat([once, once], 1))
    torch.testing.assert_close(swapped, once.flip(1))


def test_dreams_follow_the_model_and_replace_the_data():
    pair = Pair(_two_sites, _two_guides).check(X)
    z, observed = pair.dream(pair.blank(4000))
    assert observed["x"].shape[-1] == 4000
    mean = float(z["rate"].mean())
    assert mean == pytest.approx(2.0 / 1.5, abs=5 * (2.0**0.5 / 1.5) / 4000**0.5)

    def simple(x, y):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(y.float(), 1.0))
            pyro.sample("x", dist.Normal(z.unsqueeze(-1), 1.0).expand([*z.shape, 3]).to_event(1), obs=x)

    y = torch.tensor([0, 100])
    pair = Pair(simple).check((X, y))
    _, observed = pair.dream((X, y))
    dreamt, labels = pair.dreamt_data((X, y), observed)
    assert labels is y and dreamt.shape == X.shape
    assert (dreamt[1] > 50).all() and (dreamt[0] < 50).all()


class WithBuffers(nn.Module):
    """A program whose module carries running statistics."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))

    def guide(self, x):
        pyro.module("net", self.net)
        with pyro.plate("data", len(x)):
            loc, log_scale = self.net(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc.squeeze(-1), log_scale.squeeze(-1).exp()))


def _plain_model(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
        pyro.sample("x", dist.Normal(z.unsqueeze(-1), 1.0).expand([*z.shape, 3]).to_event(1), obs=x)


def test_parameters_and_buffers_belong_to_the_program():
    pair = Pair(_plain_model, WithBuffers().guide).check(X)
    assert len(pair.players()["guide"]) == 6 and pair.players()["model"] == []
    assert any("running_mean" in name for name in pair.state_dict())
    assert len(pyro.get_param_store()) == 0 or "net$$$0.weight" not in pair.state_dict()
    mean = pair.guide.get_buffer("net.1.running_mean").clone()
    with pair.evaluation():
        pair.cloud(X, 2)
    torch.testing.assert_close(pair.guide.get_buffer("net.1.running_mean"), mean, rtol=0, atol=0)


def test_constrained_parameters_are_reported_constrained():
    pair = Pair(_two_sites, _two_guides).check(X)
    assert pair.model.values()["noise"] == pytest.approx(0.5)
    (free,) = pair.players()["model"]
    with torch.no_grad():
        free.sub_(3.0)
    assert 0.0 < pair.model.values()["noise"] < 0.5


def test_pyro_modules_keep_their_constraints():
    class Model(PyroModule):
        def __init__(self):
            super().__init__()
            self.scale = PyroParam(torch.tensor(0.25), constraint=dist.constraints.positive)

        def forward(self, x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
                law = dist.Normal(z.unsqueeze(-1), self.scale).expand([*z.shape, 3]).to_event(1)
                pyro.sample("x", law, obs=x)

    pair = Pair(Model()).check(X)
    assert float(pair.model.values()["scale"]) == pytest.approx(0.25)
    _, log_lik = pair.log_densities({"z": torch.zeros(1, 2)}, X)
    torch.testing.assert_close(log_lik[0].detach(), dist.Normal(0.0, 0.25).log_prob(X).sum(-1))


def test_two_pairs_of_one_function_share_nothing():
    a, b = Pair(_two_sites).check(X), Pair(_two_sites).check(X)
    with torch.no_grad():
        a.players()["model"][0].add_(1.0)
    assert float(b.model.values()["noise"]) == pytest.approx(0.5)


def test_a_pyro_module_inside_a_function_is_adopted():
    class Scale(PyroModule):
        def __init__(self):
            super().__init__()
            self.value = PyroParam(torch.tensor(0.25), constraint=dist.constraints.positive)

        def forward(self):
            return self.value

    scale = Scale()

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z.unsqueeze(-1), scale()).expand([*z.shape, 3]).to_event(1), obs=x)

    pair = Pair(model).check(X)
    assert pair.players()["model"][0] is scale.value_unconstrained
    assert float(next(iter(pair.model.values().values()))) == pytest.approx(0.25)
    assert len(pyro.get_param_store()) == 0


def test_a_dream_of_a_plated_site_keeps_its_rows_and_columns():
    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 0.01))
            with pyro.plate("pixels", 3, dim=-2):
                level = 100 * torch.arange(3.0).unsqueeze(-1)
                pyro.sample("x", dist.Normal(level + 0 * z, 0.1), obs=x.T)

    pair = Pair(model).check(X)
    _, observed = pair.dream((X,))
    (dreamt,) = pair.dreamt_data((X,), observed)
    torch.testing.assert_close(dreamt, torch.tensor([[0.0, 100.0, 200.0]]).expand(2, 3), rtol=0, atol=1.0)


def _halves(x, y):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
        pyro.sample("x", dist.Normal(z.unsqueeze(-1), 1.0).expand([*z.shape, 1]).to_event(1), obs=x)
        pyro.sample("y", dist.Normal(z.unsqueeze(-1), 1.0).expand([*z.shape, 2]).to_event(1), obs=y)


def test_arguments_that_are_views_of_one_table_are_told_apart():
    assert Pair(_halves).check((X[:, :1], X[:, 1:])).observed == {"x": 0, "y": 1}
    cast = Pair(lambda x, y: _halves(x.double().float(), y.double().float())).check((X[:, :1], X[:, 1:]))
    assert cast.observed == {"x": 0, "y": 1}  # a copy is known by its values


def test_a_dream_of_a_part_of_an_argument_is_refused_with_the_mend():
    pair = Pair(lambda x: _halves(x[:, :1], x[:, 1:])).check(X)
    with pytest.raises(ValueError, match=r"'x' holds 2 numbers of the 6.*argument of its own"):
        pair.dreamt_data((X,), pair.dream((X,))[1])


def test_what_is_computed_is_neither_drawn_nor_scored():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            twice = pyro.deterministic("twice", 2 * z)
            pyro.sample("x", dist.Normal(twice.unsqueeze(-1), 1.0).expand([*z.shape, 3]).to_event(1), obs=x)
            pyro.factor("pull", -z.square())

    pair = Pair(model).check(X)
    assert pair.observed == {"x": 0} and [site.name for site in pair.latents] == ["z"]
    z, observed = pair.dream(X, 4)
    assert observed.keys() == {"x"} and observed["x"].shape == (4, 2, 3)
    _, log_lik = pair.log_densities(z, X)
    expected = dist.Normal(2 * z["z"].unsqueeze(-1), 1.0).log_prob(X).sum(-1) - z["z"].square()
    torch.testing.assert_close(log_lik, expected)


def test_one_name_in_model_and_guide_is_one_parameter():
    def model(x):
        level = pyro.param("level", torch.tensor(0.5), constraint=dist.constraints.positive)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(level, 1.0))
            pyro.sample("x", dist.Normal(z.unsqueeze(-1), 1.0).expand([*z.shape, 3]).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(pyro.param("level"), 1.0).expand([len(x)]))

    pair, other = Pair(model, guide).check(X), Pair(model, guide).check(X)
    assert pair.players()["model"][0] is pair.players()["guide"][0]
    with torch.no_grad():
        pair.players()["model"][0].add_(1.0)
    assert float(pair.guide.values()["level"]) == pytest.approx(float(pair.model.values()["level"])) != 0.5
    assert float(other.guide.values()["level"]) == pytest.approx(0.5)


def test_a_handlers_mask_is_kept():
    from pyro import poutine

    seen = torch.tensor([True, False])

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            with poutine.mask(mask=seen):
                pyro.sample("x", dist.Normal(z.unsqueeze(-1), 1.0).expand([*z.shape, 3]).to_event(1), obs=x)

    z = torch.randn(4, 2)
    log_prior, log_lik = Pair(model).check(X).log_densities({"z": z}, X)
    torch.testing.assert_close(log_prior, dist.Normal(0.0, 1.0).log_prob(z))
    torch.testing.assert_close(log_lik, dist.Normal(z.unsqueeze(-1), 1.0).log_prob(X).sum(-1) * seen)
