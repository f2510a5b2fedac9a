"""Parameters and gradients that do not lie in memory row by row are moved like any others."""

from __future__ import annotations

from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from aevb.inference import fit

X = torch.randn(20, 3, generator=torch.Generator().manual_seed(0)).double()
WEIGHT = torch.linspace(-1.0, 2.0, 6).double()


class Transposed(nn.Module):
    """x ~ N(z W^T, 1), whose gradient with respect to W is a transposed tensor."""

    def __init__(self, weight):
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, x):
        pyro.module("transposed", self)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 2).to(x), 1.0).to_event(1))
            loc = (z.unsqueeze(-1) * self.weight.t()).sum(-2)
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)


def guide(x):
    shift = pyro.param("shift", torch.zeros(2).double())
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(shift.expand(len(x), 2), 1.0).to_event(1))


def trained(weight, optimizer, level="never"):
    optimizer = partial(optimizer, lr=0.01)
    return fit(
        Transposed(weight), guide, X, steps=4, batch_size=10, optimizer=optimizer, compile=level, progress=False
    ).model.fn.weight.detach()


@pytest.mark.parametrize("level", ["never", "graph"])
@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.Adagrad, torch.optim.SGD])
@pytest.mark.parametrize(
    "weight", [WEIGHT.view(3, 2), WEIGHT.view(2, 3).t()], ids=["gradient-transposed", "parameter-transposed"]
)
def test_fused_kernels_move_entry_by_entry(weight, optimizer, level, recwarn):
    plain = trained(weight.clone(), partial(optimizer, foreach=False))
    assert not torch.equal(plain, weight)
    torch.testing.assert_close(trained(weight.clone(), partial(optimizer, fused=True), level), plain)
    assert [str(w.message) for w in recwarn if "uncaptured" in str(w.message)] == []


def test_a_parameter_with_gaps_is_refused_or_moved_alone():
    def sliced():
        table = torch.stack([WEIGHT, WEIGHT], -1)
        return table, table[:, 0].view(3, 2)

    with pytest.raises(ValueError, match=r"shape \(3, 2\) is a slice of a larger tensor.*nn.Parameter\(slice.clone"):
        trained(sliced()[1], partial(torch.optim.Adam, fused=True))
    copied = trained(sliced()[1].clone(), partial(torch.optim.Adam, fused=True))
    table, part = sliced()
    torch.testing.assert_close(trained(part, partial(torch.optim.Adam, fused=False), "graph"), copied)
    assert torch.equal(table[:, 1], WEIGHT)
