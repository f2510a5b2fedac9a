"""Products in bfloat16: what is rounded, what is not, and how far off the result is."""

import pytest
import torch
from torch.nn import functional

from aevb import guides
from aevb.inference import fit, log_evidence
from aevb.inference.evidence import ImportanceSampling
from aevb.inference.graphs.precision import Bfloat16Products
from aevb.models import LatentVariableModel, likelihoods, networks, priors


@pytest.fixture(scope="module")
def data():
    torch.manual_seed(0)
    return torch.bernoulli(torch.rand(200, 40))


def pair():
    torch.manual_seed(1)
    model = LatentVariableModel(priors.StandardNormal(3), networks.MLP(3, 40, hidden=[64]), likelihoods.Bernoulli())
    return model, guides.Normal(latent_dim=3, encoder=networks.MLP(40, hidden=[64]))


def flat(run):
    return torch.cat([p.detach().flatten() for p in run.pair.parameters()])


def test_factors_are_rounded_and_the_result_is_float32():
    a, b = torch.tensor([[1.0 + 2.0**-8, 1.0]]), torch.tensor([[1.0], [1.0]])
    with Bfloat16Products():
        product = a @ b
    assert product.dtype == torch.float32
    assert float(product) == 2.0  # 2^-8 is lost in bfloat16, whose mantissa has 8 bits


def test_doubles_and_sums_are_left_alone():
    a = torch.full((1, 2), 1.0 + 2.0**-8)
    with Bfloat16Products():
        assert float(a.double() @ torch.ones(2, 1, dtype=torch.float64)) == float(a.double().sum())
        assert float(a.sum()) == 2.0 + 2.0**-7


def test_a_weight_that_moved_is_rounded_anew():
    weight, one = torch.ones(1, 1), torch.ones(1, 1)
    with Bfloat16Products():
        assert float(one @ weight.t()) == 1.0
        weight.add_(1.0)
        assert float(one @ weight.t()) == 2.0


def test_backward_products_are_rounded_too():
    weight = torch.ones(2, 1, requires_grad=True)
    x = torch.tensor([[1.0 + 2.0**-8, 1.0]])
    with Bfloat16Products():
        (gradient,) = torch.autograd.grad((x @ weight).sum(), weight)
    assert gradient.dtype == torch.float32
    assert torch.equal(gradient, torch.ones(2, 1))


def test_the_log_density_is_off_by_a_thousandth():
    """784 logits of a net 500 wide: each is rounded by itself, so the errors of their sum largely cancel."""
    torch.manual_seed(0)
    net = networks.MLP(20, 784, hidden=[500])
    z, x = torch.randn(200, 20), torch.bernoulli(torch.rand(200, 784))

    def log_density():
        return -functional.binary_cross_entropy_with_logits(net(z), x, reduction="none").sum(-1)

    with torch.no_grad():
        exact = log_density()
        with Bfloat16Products():
            rounded = log_density()
    off = (rounded - exact).abs()
    assert 0.0 < float(off.max()) < 0.5
    assert float(off.mean() / exact.abs().mean()) < 1e-3


@pytest.mark.parametrize("clip_norm", [None, 1.0])
def test_the_captured_step_rounds_as_the_eager_one_does(clip_norm, data):
    runs = {
        (level, precision): fit(
            *pair(), data, steps=30, batch_size=50, compile=level, precision=precision, clip_norm=clip_norm,
            progress=False,
        )
        for level in ("never", "graph")
        for precision in ("float32", "bfloat16")
    }  # fmt: skip
    short, full = flat(runs["never", "bfloat16"]), flat(runs["never", "float32"])
    assert torch.allclose(flat(runs["graph", "bfloat16"]), short, atol=1e-5)
    assert not torch.allclose(short, full, atol=1e-5)
    assert runs["graph", "bfloat16"].rows[-1]["bound"] == pytest.approx(
        runs["graph", "float32"].rows[-1]["bound"], abs=0.2
    )


def test_evidence_in_bfloat16_is_off_by_little(data):
    model, guide = pair()
    full, short = (
        log_evidence(model, guide, data, ImportanceSampling(200, precision=name)) for name in ("float32", "bfloat16")
    )
    off = (full.log_px - short.log_px).abs()
    assert 0.0 < float(off.max()) < 0.2  # the same draws, up to their rounding
    with pytest.raises(ValueError, match="precision='half'"):
        ImportanceSampling(precision="half")


def test_an_unknown_precision_is_refused(data):
    with pytest.raises(ValueError, match="precision='half'"):
        fit(*pair(), data, steps=2, precision="half", progress=False)
