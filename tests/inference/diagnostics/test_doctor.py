"""The doctor finds every planted fault, names the mend, and leaves sound pairs alone."""

import warnings
from copy import deepcopy
from importlib import import_module
from pathlib import Path

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import nn

from aevb import guides
from aevb.__main__ import main
from aevb.commands import demo_command
from aevb.data import load
from aevb.findings import examine
from aevb.inference import Pair, fit
from aevb.inference.diagnostics.doctor import doctor
from aevb.models import LatentVariableModel, ProbabilisticPCA, likelihoods, networks, priors

torch.manual_seed(0)
X = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
BINARY = (torch.rand(20, 4) < 0.5).float()
GREY = torch.rand(20, 4)


def names(model, guide, x=X):
    return [finding.name for finding in doctor(model, guide, x)]


def model(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(4), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


def guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x / 2, 0.7).to_event(1))


# ------------------------------------------------------------------ sound pairs


def plain_with_modules():
    encoder, decoder = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 4)), nn.Linear(2, 4)

    def model(x):
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(decoder(z), 1.0).to_event(1), obs=x)

    def guide(x):
        pyro.module("encoder", encoder)
        loc, log_scale = encoder(x).chunk(2, -1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, nn.functional.softplus(log_scale) + 1e-3).to_event(1))

    return model, guide, X


def two_latents():
    def model(x):
        scale = pyro.param("scale", torch.tensor(1.0), constraint=dist.constraints.positive)
        with pyro.plate("data", len(x)):
            rate = pyro.sample("rate", dist.Gamma(2.0, 2.0))
            z = pyro.sample("z", dist.Normal(torch.zeros(4), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z * rate.unsqueeze(-1), scale).to_event(1), obs=x)

    def guide(x):
        slope = pyro.param("slope", torch.tensor(0.3))
        with pyro.plate("data", len(x)):
            pyro.sample("rate", dist.LogNormal(0.1 * slope + 0.0 * x[:, 0], 0.5))
            pyro.sample("z", dist.Normal(slope * x, 0.8).to_event(1))

    return model, guide, X


def house():
    model = LatentVariableModel(priors.StandardNormal(2), networks.MLP(2, 4, hidden=[8]), likelihoods.Bernoulli())
    return model, guides.Normal(latent_dim=2, encoder=networks.MLP(4, hidden=[8])), BINARY


def principal_components():
    return ProbabilisticPCA(4, 2), guides.Normal(latent_dim=2, encoder=networks.MLP(4, hidden=[5])), X


@pytest.mark.parametrize(
    "build", [lambda: (model, guide, X), plain_with_modules, two_latents, house, principal_components]
)
def test_a_sound_pair_has_no_findings(build):
    assert doctor(*build()) == []


# ------------------------------------------------------------------ planted faults


def no_plate():
    def bad(x):
        z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 4), 1.0).to_event(2))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def bad_guide(x):
        pyro.sample("z", dist.Normal(x / 2, 0.7).to_event(2))

    return bad, bad_guide, X


def divided_by_the_batch():
    def bad(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(4), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, len(x) ** 0.5).to_event(1), obs=x)

    return bad, guide, X


def swapped_sites():
    def good(x):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Normal(torch.zeros(4), 1.0).to_event(1))
            b = pyro.sample("b", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(a + b.unsqueeze(-1), 1.0).to_event(1), obs=x)

    def swapped(x):
        with pyro.plate("data", len(x)):
            pyro.sample("b", dist.Normal(x / 2, 1.0).to_event(1))
            pyro.sample("a", dist.Normal(x.mean(-1), 1.0))

    return good, swapped, X


def bernoulli_on_bytes():
    _, good_guide, _ = house()
    return house()[0], good_guide, (255 * GREY).round()


def grey_under_bernoulli():
    return (*house()[:2], GREY)


def guide_outside_the_support():
    def positive(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Gamma(2.0, 1.0).expand([4]).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    return positive, guide, X


def whole_data_in_the_plate():
    def bad(x):
        with pyro.plate("data", 60_000, subsample_size=len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(4), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    return bad, guide, X


def scaled_loss():
    return poutine.scale(model, 1 / 20), guide, X


def unbounded_scale():
    class Guide(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Linear(4, 8)

        def forward(self, x):
            loc, log_scale = self.net(x).chunk(2, -1)
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))

    return model, Guide(), X


def not_reparameterised():
    def discrete(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Bernoulli(0.5))
            pyro.sample("x", dist.Normal(z.unsqueeze(-1), torch.ones(4)).to_event(1), obs=x)

    def discrete_guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Bernoulli(torch.sigmoid(x.mean(-1))))

    return discrete, discrete_guide, X


def shared_parameter():
    def a(x):
        scale = pyro.param("scale", torch.tensor(1.0), constraint=dist.constraints.positive)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(4), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, scale).to_event(1), obs=x)

    def b(x):
        scale = pyro.param("scale", torch.tensor(1.0), constraint=dist.constraints.positive)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2, scale).to_event(1))

    return a, b, X


def clashing_modules(decoder=None, encoder=None):
    decoder, encoder = decoder or nn.Linear(4, 4), encoder or nn.Linear(4, 4)

    def a(x):
        pyro.module("net", decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(4), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(decoder(z), 1.0).to_event(1), obs=x)

    def b(x):
        pyro.module("net", encoder)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(encoder(x), 1.0).to_event(1))

    return a, b, X


def idle_parameter():
    class Idle(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.forgotten = nn.Parameter(torch.ones(4)), nn.Parameter(torch.ones(3))

        def forward(self, x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(x * self.used, 1.0).to_event(1))

    return model, Idle(), X


def unregistered_module():
    decoder = nn.Linear(4, 4)

    def bad(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(4), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(decoder(z), 1.0).to_event(1), obs=x)

    return bad, guide, X


def mixed_types():
    return (*plain_module_pair(), X.double())


def plain_module_pair():
    return ProbabilisticPCA(4, 2), guides.Normal(latent_dim=2, encoder=networks.MLP(4, hidden=[5]))


def batch_norm():
    class Guide(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))

        def forward(self, x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(self.net(x), 1.0).to_event(1))

    return model, Guide(), X


def broadcast_observation():
    return model, lambda x: guide(x.expand(-1, 4)), X[:, :1]


def coupled_rows():
    def bad(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x - x.mean(0), 1.0).to_event(1))

    return model, bad, X


def ordered_rows():
    def bad(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x.cumsum(0), 1.0).to_event(1))

    return model, bad, X


def fixed_batch_size():
    bias = torch.zeros(16, 4)

    def bad(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x + bias, 1.0).to_event(1))

    return model, bad, X


def hidden_noise():
    def bad(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(4), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z + torch.randn_like(z), 1.0).to_event(1), obs=x)

    return bad, guide, X


def missing_values():
    x = X.clone()
    x[0, 0] = torch.nan
    return model, guide, x


def wrong_names():
    def bad(x):
        with pyro.plate("data", len(x)):
            pyro.sample("latent", dist.Normal(x / 2, 0.7).to_event(1))

    return model, bad, X


FAULTS = {
    no_plate: ("missing-plate", "pyro.plate"),
    divided_by_the_batch: ("batch-duplication", "own term"),
    swapped_sites: ("swapped-sites", "exchange"),
    bernoulli_on_bytes: ("data-support", "binarise"),
    grey_under_bernoulli: ("grey-bernoulli", "ContinuousBernoulli"),
    guide_outside_the_support: ("guide-support", "transform"),
    whole_data_in_the_plate: ("plate-size", "len(x)"),
    scaled_loss: ("scaled-site", "Leave the scale out"),
    unbounded_scale: ("unbounded-scale", "Bound it"),
    not_reparameterised: ("no-pathwise-gradient", "ReweightedWakeSleep"),
    shared_parameter: ("shared-parameter", "one and the same"),
    clashing_modules: ("name-clash", "different names"),
    idle_parameter: ("no-gradient", "forgotten"),
    unregistered_module: ("unregistered-parameters", "pyro.module"),
    mixed_types: ("dtype-mix", "x.float()"),
    batch_norm: ("batch-norm", "LayerNorm"),
    broadcast_observation: ("obs-broadcast", "equal"),
    coupled_rows: ("datapoints-coupled", "dimension 0"),
    ordered_rows: ("batch-permutation", "cumulative"),
    hidden_noise: ("hidden-draws", "sample site"),
    fixed_batch_size: ("batch-size", "len(x)"),
    missing_values: ("missing-values", "mask"),
    wrong_names: ("site-names", "same names"),
}


@pytest.mark.parametrize("build", FAULTS, ids=lambda build: build.__name__)
def test_a_planted_fault_is_found_and_the_mend_named(build):
    name, mend = FAULTS[build]
    found = {finding.name: finding for finding in doctor(*build())}
    assert name in found, found
    assert mend in found[name].sentence


def test_what_is_shared_is_told_as_it_is():
    """Two statements of one name are one parameter, as in Pyro; one module registered twice is one module."""
    model, guide, x = shared_parameter()
    pair = Pair(model, guide).check(x)
    assert len(list(pair.parameters())) == 1
    net = nn.Linear(4, 4)
    assert "name-clash" not in {finding.name for finding in doctor(*clashing_modules(net, net))}
    model, guide, x = clashing_modules()
    assert len(list(Pair(model, guide).check(x).parameters())) == 4


def test_parameters_buffers_and_the_random_state_are_left_alone():
    _, bad, x = batch_norm()
    before = {name: value.clone() for name, value in bad.state_dict().items()}
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    doctor(model, bad, x)
    assert torch.rand(1) == expected
    for name, value in bad.state_dict().items():
        torch.testing.assert_close(value, before[name])
    assert bad.training


def test_a_model_without_a_guide_is_examined_too():
    assert doctor(model, None, X) == []


# ------------------------------------------------------------------ told where numbers are


def _first_example(name):
    """The README's twenty lines up to the fit, which needs no training to be examined."""
    page = (Path(__file__).resolve().parents[3] / name).read_text(encoding="utf-8")
    lines = page.partition("```python\n")[2].partition("```")[0]
    names = {}
    exec(lines.partition("run = fit")[0], names)
    return names["model"], names["guide"], names["digits"].test


@pytest.mark.parametrize("page", ["README.md", "README.zh.md"])
def test_the_first_example_is_sound(page):
    assert doctor(*_first_example(page)) == []


def test_the_demo_is_sound(capsys):
    words = [word for word in demo_command._WORDS if word != "--objectives"]
    assert main(["doctor", *words[: words.index("sgvb")]]) == 0
    assert capsys.readouterr().out.strip() == "nothing found"


def test_a_doctor_that_fails_loses_no_number(monkeypatch):
    def broken(*arguments, **options):
        raise RuntimeError("no beds")

    monkeypatch.setattr(import_module("aevb.inference.diagnostics.doctor"), "doctor", broken)
    (finding,) = examine(Pair(model, guide).check(X), X)
    assert finding.severity == "warning" and "RuntimeError: no beds." in finding.sentence


def test_fit_warns_of_grey_values_and_of_nothing_else():
    model, guide, black_and_white = _first_example("README.md")
    grey = load("digits").test
    state = torch.get_rng_state()
    with pytest.warns(UserWarning, match="scores grey values with a Bernoulli.*binarise"):
        fit(model, guide, grey, steps=1, progress=False)
    assert torch.equal(torch.get_rng_state(), state)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        fit(deepcopy(model), deepcopy(guide), black_and_white, steps=1, progress=False)
