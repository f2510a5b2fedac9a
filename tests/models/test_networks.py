"""Every network: shapes, leading dimensions, gradients, initial values, and its stored arguments."""

import inspect
import json
import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from aevb.models import networks
from aevb.models.networks.activations import ACTIVATIONS
from aevb.models.networks.gated_mlp import GatedLinear


@dataclass(frozen=True)
class Case:
    """One network: how to make it, and the sizes it must have."""

    make: Callable[..., nn.Module]
    in_features: int
    out_features: int


CASES = {
    "mlp": Case(lambda **k: networks.MLP(6, 5, hidden=[16, 8], **k), 6, 5),
    "mlp-features": Case(lambda **k: networks.MLP(6, hidden=[16, 8], **k), 6, 8),
    "mlp-linear": Case(lambda **k: networks.MLP(6, 5, hidden=[], **k), 6, 5),
    "residual-mlp": Case(lambda **k: networks.ResidualMLP(6, 5, hidden=[16] * 2, **k), 6, 5),
    "residual-mlp-features": Case(lambda **k: networks.ResidualMLP(6, hidden=[16], **k), 6, 16),
    "gated-mlp": Case(lambda **k: networks.GatedMLP(6, 5, hidden=[16], **k), 6, 5),
    "gated-mlp-features": Case(lambda **k: networks.GatedMLP(6, hidden=[16, 8], **k), 6, 8),
    "conv-encoder": Case(lambda **k: networks.ConvEncoder((2, 12, 8), [4, 8], out_features=7, **k), 192, 7),
    "conv-encoder-odd": Case(lambda **k: networks.ConvEncoder((1, 7, 13), [4, 8], out_features=7, **k), 91, 7),
    "conv-decoder": Case(lambda **k: networks.ConvDecoder(5, (2, 12, 8), [4, 8], num_params=3, **k), 5, 576),
    "conv-decoder-odd": Case(lambda **k: networks.ConvDecoder(5, (1, 7, 13), [4, 8], **k), 5, 91),
}

every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


def test_every_network_is_in_the_table():
    wrapper = {"Standardized"}  # around any of them; with the tables it is for
    assert {type(case.make()).__name__ for case in CASES.values()} | wrapper == set(networks.__all__)


@every_case
@pytest.mark.parametrize("batch", [(), (4,), (3, 4), (2, 3, 4), (0,)])
def test_shapes_with_any_leading_dimensions(case, batch):
    network = case.make()
    assert (network.in_features, network.out_features) == (case.in_features, case.out_features)
    assert network(torch.randn(*batch, case.in_features)).shape == (*batch, case.out_features)


@every_case
def test_leading_dimensions_equal_the_loop(case):
    network = case.make().double()
    x = torch.randn(3, 4, case.in_features, dtype=torch.float64)
    alone = torch.stack([torch.stack([network(x[k, n]) for n in range(4)]) for k in range(3)])
    torch.testing.assert_close(network(x), alone)


@every_case
def test_gradient_reaches_every_parameter(case):
    torch.manual_seed(0)
    network = case.make()
    network(torch.randn(32, case.in_features)).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert (parameter.grad != 0).any(), name


@every_case
def test_paper_initial_values_are_normal_with_deviation_one_hundredth(case):
    torch.manual_seed(0)
    default, paper = case.make(), case.make(init="paper")
    assert (default.init, paper.init) == ("default", "paper")
    values = torch.cat([p.detach().flatten() for p in paper.parameters()])
    biases = torch.cat([p.detach() for n, p in paper.named_parameters() if n.endswith("bias")])
    n = len(values)
    assert abs(values.mean()) < 4.5 * 0.01 / math.sqrt(n)
    assert abs(values.std() - 0.01) < 4.5 * 0.01 / math.sqrt(2 * n)
    assert (biases != 0).all()
    assert max(p.abs().max() for p in default.parameters()) > 0.1


@every_case
def test_stored_arguments_rebuild_the_network(case):
    network = case.make(init="paper")
    names = list(inspect.signature(type(network)).parameters)
    arguments = json.loads(json.dumps({name: getattr(network, name) for name in names}))
    again = type(network)(**arguments)
    again.load_state_dict(network.state_dict())
    x = torch.randn(4, case.in_features)
    torch.testing.assert_close(again(x), network(x))
    assert again.out_features == network.out_features


@every_case
def test_input_of_the_wrong_size_is_named(case):
    network = case.make()
    message = rf"expected input of shape \[\.\.\., {case.in_features}\], got \[4, 3\]"
    with pytest.raises(ValueError, match=message):
        network(torch.zeros(4, 3))


@pytest.mark.parametrize(
    "make",
    [
        lambda name: networks.MLP(6, 5, activation=name),
        lambda name: networks.ResidualMLP(6, 5, activation=name),
        lambda name: networks.ConvEncoder((1, 8, 8), activation=name),
        lambda name: networks.ConvDecoder(5, (1, 8, 8), activation=name),
    ],
)
def test_activations_go_by_name(make):
    for name, kind in ACTIVATIONS.items():
        assert any(isinstance(module, kind) for module in make(name).modules())
    with pytest.raises(ValueError, match="activation: expected one of .*'tanh'.*, got 'sinus'"):
        make("sinus")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: networks.MLP(6, init="zero"), "'default' or 'paper', got 'zero'"),
        (lambda: networks.MLP(6, hidden=[]), "expected hidden widths or out_features, got neither"),
        (lambda: networks.MLP(6, readout=True), "expected out_features for its last linear layer"),
        (lambda: networks.MLP(6, 5, readout=False), "expected out_features None or 500"),
        (lambda: networks.ResidualMLP(6, hidden=[4, 5]), r"one width, once for each block, got \[4, 5\]"),
        (lambda: networks.ResidualMLP(6, hidden=[]), r"one width, once for each block, got \[\]"),
        (lambda: networks.ConvEncoder((28, 28)), r"\(channels, height, width\), got \(28, 28\)"),
        (lambda: networks.ConvEncoder((1, 3, 8)), r"halved 2 times, .* got image_shape \(1, 3, 8\)"),
        (lambda: networks.ConvDecoder(5, (1, 8, 3)), r"ConvDecoder: .* got image_shape \(1, 8, 3\)"),
        (
            lambda: networks.ConvDecoder(5, (1, 8, 8), num_params=2, out_features=64),
            r"out_features = num_params \* 64 .* num_params 2 and out_features 64",
        ),
        (lambda: networks.ConvDecoder(5, (1, 8, 8), out_features=63), "out_features 63"),
    ],
)
def test_wrong_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_mlp_is_the_papers_formula():
    network = networks.MLP(6, 5, hidden=[4])
    first, _, last = network.layers
    z = torch.randn(3, 6)
    want = torch.tanh(z @ first.weight.T + first.bias) @ last.weight.T + last.bias
    torch.testing.assert_close(network(z), want)


def test_gated_layer_is_linear_times_sigmoid():
    layer = GatedLinear(3, 2)
    x = torch.randn(5, 3)
    linear, gate = layer.both(x).chunk(2, -1)
    torch.testing.assert_close(layer(x), linear * torch.sigmoid(gate))


def test_residual_blocks_add_to_the_identity():
    network = networks.ResidualMLP(3, hidden=[4, 4, 4])
    x = torch.randn(5, 3)
    for block in network.blocks:
        nn.init.zeros_(block[-1].weight)
        nn.init.zeros_(block[-1].bias)
    torch.testing.assert_close(network(x), network.stem(x).relu())


def test_decoder_gives_parameters_in_chunks_that_are_images():
    network = networks.ConvDecoder(5, (2, 8, 8), num_params=3)
    with torch.no_grad():
        network.layers[-1].weight.zero_()
        network.layers[-1].bias.copy_(torch.arange(6.0))  # one number per parameter and channel
    chunks = network(torch.zeros(4, 5)).chunk(3, -1)
    for parameter, chunk in enumerate(chunks):
        first, second = chunk.reshape(4, 2, 8, 8).unbind(1)
        assert (first == 2 * parameter).all()
        assert (second == 2 * parameter + 1).all()


def test_decoder_counts_its_parameters_from_its_width():
    assert networks.ConvDecoder(5, (1, 28, 28), out_features=2 * 784).num_params == 2


def test_encoder_sees_pixels_where_they_are():
    network = networks.ConvEncoder((2, 8, 8), channels=[3])
    images = torch.randn(4, 2, 8, 8)
    torch.testing.assert_close(network(images.flatten(1)), network.layers(images))


@pytest.mark.parametrize("size", [(28, 28), (28, 20), (30, 30), (7, 9), (33, 5)])
def test_every_pixel_reaches_the_features_and_leaves_the_decoder(size):
    torch.manual_seed(0)
    shape = (1, *size)
    encoder, decoder = networks.ConvEncoder(shape), networks.ConvDecoder(3, shape)
    x = torch.rand(8, math.prod(shape), requires_grad=True)
    encoder(x).sum().backward()
    assert (x.grad != 0).any(0).all()
    y = decoder(torch.randn(8, 3))
    assert (y.std(0) > 0).all()
