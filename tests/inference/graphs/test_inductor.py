"""Graphs compiled by torch's Inductor: its own functions, and draws from torch's random stream."""

from __future__ import annotations

import shutil

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from aevb.inference.graphs import inductor
from aevb.inference.graphs.graph import Flat

NEEDS_COMPILER = pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")


@NEEDS_COMPILER
def test_what_the_compilers_own_functions_are_not_for_is_compiled_as_well():
    x, target, weight = torch.randn(5, 3).double(), torch.rand(5, 3).double(), torch.rand(5, 3).double()

    def several(x, target, weight):
        losses = [
            torch.nn.functional.binary_cross_entropy_with_logits(*given, reduction=reduction, **more)
            for given, reduction, more in (
                ((x, target), "none", {}),
                ((x, target.float()), "sum", {"pos_weight": weight}),
                ((x.float(), target.float()), "mean", {"weight": weight, "pos_weight": weight}),
            )
        ]
        norms = [
            torch._foreach_norm([x, weight], order, **more)[0]
            for order, more in ((1, {}), (torch.inf, {}), (2, {"dtype": torch.float64}))
        ]
        return *losses, *norms, x.tanh(), x.sigmoid(), x @ x.t(), torch.addmm(x[0], x, x[:3], beta=0.5)

    graph = make_fx(several)(x, target, weight)
    run = inductor.compiled(Flat(graph, ()), [x, target, weight])
    for found, expected in zip(run(x, target, weight), several(x, target, weight), strict=True):
        torch.testing.assert_close(found, expected)


@NEEDS_COMPILER
def test_every_draw_comes_from_torchs_own_stream():
    p = torch.linspace(0.1, 0.9, 30)

    def draws(p):
        functional = torch.nn.functional
        yield from (torch.rand_like(p), torch.randn_like(p), torch.rand(4, dtype=p.dtype), torch.randn(4))
        yield from (torch.bernoulli(p), torch.bernoulli(p, 0.3), torch.empty_like(p).bernoulli_(p))
        yield from (torch.normal(p, p), torch.normal(p, 2.0), torch.normal(0.0, p), torch.empty_like(p).normal_(1, 2))
        yield from (torch.poisson(5 * p), torch.binomial(10 + 0 * p, p), torch._standard_gamma(p))
        yield from (torch._sample_dirichlet(p), torch.multinomial(p, 4), torch.multinomial(p, 4, True))
        yield from (torch.empty_like(p).exponential_(2.0), torch.empty_like(p).cauchy_(), torch.randperm(9))
        yield from (torch.empty_like(p).log_normal_(), torch.empty_like(p).geometric_(0.3), torch.randint(9, (4,)))
        yield from (functional.dropout(p, 0.3), functional.alpha_dropout(p, 0.3), functional.rrelu(-p, training=True))

    def both(p):
        return *draws(p), *draws(p.double())

    run = inductor.compiled(Flat(make_fx(both)(p), ()), [p])
    torch.manual_seed(0)
    found = run(p)
    torch.manual_seed(0)
    for position, (mine, torchs) in enumerate(zip(found, both(p), strict=True)):
        torch.testing.assert_close(mine, torchs, msg=str(position))
