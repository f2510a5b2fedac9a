"""Training contenders: each function takes a net and returns a function that makes a number of steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from workloads import Advance, Net


def modules(net: Net) -> tuple[Any, Any]:
    """The encoder (features out) and the decoder (logits out) that all torch contenders share."""
    import torch

    from aevb.models import networks

    torch.manual_seed(0)
    if net.channels:
        encoder = networks.ConvEncoder((1, 28, 28), channels=net.channels)
        return encoder, networks.ConvDecoder(net.latent_dim, (1, 28, 28), channels=net.channels, num_params=1)
    encoder = networks.MLP(net.data_dim, hidden=list(net.hidden), activation="tanh")
    return encoder, networks.MLP(net.latent_dim, net.data_dim, hidden=list(reversed(net.hidden)), activation="tanh")


def blocks(net: Net) -> tuple[Any, Any]:
    """The pair of this library's blocks."""
    from aevb import guides
    from aevb.models import LatentVariableModel, likelihoods, priors

    encoder, decoder = modules(net)
    model = LatentVariableModel(priors.StandardNormal(net.latent_dim), decoder, likelihoods.Bernoulli())
    return model, guides.Normal(latent_dim=net.latent_dim, encoder=encoder)


def plain_functions(net: Net) -> tuple[Callable[..., None], Callable[..., None]]:
    """The same pair as two functions, every weight a bare ``pyro.param``."""
    import pyro
    import pyro.distributions as dist
    import torch

    def layer(name: str, fan_in: int, fan_out: int) -> Callable[[torch.Tensor], torch.Tensor]:
        start = torch.empty(fan_in, fan_out).uniform_(-1, 1) / fan_in**0.5

        def apply(x: torch.Tensor) -> torch.Tensor:
            return x @ pyro.param(f"{name}_weight", start) + pyro.param(f"{name}_bias", torch.zeros(fan_out))

        return apply

    (hidden,) = net.hidden
    first, heads = layer("e1", net.data_dim, hidden), layer("e2", hidden, 2 * net.latent_dim)
    second, logits = layer("d1", net.latent_dim, hidden), layer("d2", hidden, net.data_dim)

    def model(x: torch.Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(net.latent_dim), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=logits(second(z).tanh())).to_event(1), obs=x)

    def guide(x: torch.Tensor) -> None:
        with pyro.plate("data", len(x)):
            loc, log_scale = heads(first(x).tanh()).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))

    return model, guide


def _fit(net: Net, pair: Callable[[Net], tuple[Any, Any]] = blocks, **options: Any) -> Advance:
    """``fit`` as a user calls it, history on; the graph is made before the clock starts."""
    import torch

    from aevb.inference import SGVB, Fit
    from aevb.inference.objectives import IWAE

    objective: Any = SGVB(estimator="A") if net.num_samples == 1 else IWAE(num_samples=net.num_samples)
    data = torch.from_numpy(net.data())
    loop = Fit(*pair(net), data, objective=objective, steps=10**9, batch_size=net.batch, device="cpu", **options)

    def advance(steps: int) -> None:
        loop.length = replace(loop.length, steps=loop.step + steps)  # a run that goes on for so many steps more
        loop.drain()

    return advance


fit_graph = partial(_fit, compile="graph")
fit_compiled = partial(_fit, compile="full")
fit_bfloat16 = partial(_fit, compile="full", precision="bfloat16")
fit_plain = partial(_fit, pair=plain_functions, compile="full")
fit_uncaptured = partial(_fit, compile="never")


def pyro_example(net: Net) -> Advance:
    """Pyro as its own example has it: Trace_ELBO, pyro.optim.Adam, a DataLoader, validation on."""
    import pyro
    import pyro.distributions as dist
    import torch
    from pyro.infer import SVI, RenyiELBO, Trace_ELBO
    from torch import nn

    pyro.clear_param_store()
    pyro.enable_validation(True)
    encoder, decoder = modules(net)
    features = encoder.out_features
    loc, log_scale = nn.Linear(features, net.latent_dim), nn.Linear(features, net.latent_dim)
    encode = nn.ModuleList([encoder, loc, log_scale])

    def model(x: torch.Tensor) -> None:
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), net.latent_dim), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=decoder(z)).to_event(1), obs=x)

    def guide(x: torch.Tensor) -> None:
        pyro.module("encoder", encode)
        with pyro.plate("data", len(x)):
            h = encoder(x)
            pyro.sample("z", dist.Normal(loc(h), log_scale(h).exp()).to_event(1))

    weighted = partial(RenyiELBO, alpha=0.0, num_particles=net.num_samples, vectorize_particles=True)
    elbo = Trace_ELBO() if net.num_samples == 1 else weighted(max_plate_nesting=1)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 1e-3}), elbo)
    batches = _loader(net)

    def advance(steps: int) -> None:
        for _ in range(steps):
            svi.step(next(batches))

    return advance


def bare_torch(net: Net, compiled: bool = False) -> Advance:
    """A training loop written by hand: index batches, one fused Adam; the loss compiled or not."""
    import torch
    from torch import nn
    from torch.nn import functional

    encoder, decoder = modules(net)
    heads = nn.Linear(encoder.out_features, 2 * net.latent_dim)
    parameters = [*encoder.parameters(), *heads.parameters(), *decoder.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=1e-3, fused=True)
    data = torch.from_numpy(net.data())

    def loss_of(x: torch.Tensor) -> torch.Tensor:
        loc, log_scale = heads(encoder(x)).chunk(2, -1)
        eps = torch.randn(net.num_samples, *loc.shape)
        z = loc + log_scale.exp() * eps
        logits = decoder(z)
        log_lik = -functional.binary_cross_entropy_with_logits(logits, x.expand_as(logits), reduction="none").sum(-1)
        log_weight = log_lik + (-0.5 * z.square() + 0.5 * eps.square() + log_scale).sum(-1)
        return -log_weight.logsumexp(0).mean()

    loss = torch.compile(loss_of) if compiled else loss_of

    def advance(steps: int) -> None:
        for _ in range(steps):
            x = data[torch.randint(len(data), (net.batch,))]
            optimizer.zero_grad(set_to_none=True)
            loss(x).backward()
            optimizer.step()

    return advance


bare_torch_compiled = partial(bare_torch, compiled=True)


def numpyro_scan(net: Net) -> Advance:
    """NumPyro's SVI, all steps of a turn in one compiled loop."""
    import jax
    import jax.numpy as jnp
    import numpyro
    from numpyro.infer import SVI, RenyiELBO, Trace_ELBO

    model, guide = numpyro_pair(net)
    several = net.num_samples > 1
    elbo = RenyiELBO(alpha=0.0, num_particles=net.num_samples) if several else Trace_ELBO()
    svi = SVI(model, guide, numpyro.optim.Adam(1e-3), elbo)
    data = jnp.asarray(net.data())
    state = svi.init(jax.random.PRNGKey(0), data[: net.batch])

    @partial(jax.jit, static_argnums=1)
    def many(state: tuple, steps: int) -> tuple:
        def one(carry: tuple, key: jnp.ndarray) -> tuple:
            rows = jax.random.randint(key, (net.batch,), 0, len(data))
            return svi.update(carry, data[rows])

        return jax.lax.scan(one, state, jax.random.split(jax.random.PRNGKey(1), steps))

    def advance(steps: int) -> None:
        nonlocal state
        state, losses = many(state, steps)
        losses.block_until_ready()

    return advance


def numpyro_pair(net: Net) -> tuple[Callable[..., None], Callable[..., None]]:
    """The pair in NumPyro, every weight a ``numpyro.param``."""
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as dist

    rng = np.random.default_rng(0)
    shapes = [(i, o) for _, i, o in net.layers]
    start = [jnp.asarray(rng.standard_normal(shape) / shape[0] ** 0.5, jnp.float32) for shape in shapes]
    depth = len(net.hidden) + 1

    def network(x: jnp.ndarray, layers: range) -> jnp.ndarray:
        for i in layers:
            weight = numpyro.param(f"w{i}", start[i])
            x = x @ weight + numpyro.param(f"b{i}", jnp.zeros(shapes[i][1]))
            x = x if i == layers[-1] else jnp.tanh(x)
        return x

    def model(x: jnp.ndarray) -> None:
        with numpyro.plate("data", len(x)):
            z = numpyro.sample("z", dist.Normal(jnp.zeros(net.latent_dim), 1.0).to_event(1))
            logits = network(z, range(depth, 2 * depth))
            numpyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)

    def guide(x: jnp.ndarray) -> None:
        loc, log_scale = jnp.split(network(x, range(depth)), 2, -1)
        with numpyro.plate("data", len(x)):
            numpyro.sample("z", dist.Normal(loc, jnp.exp(log_scale)).to_event(1))

    return model, guide


def products(net: Net, adam: bool = False, onednn: bool = False) -> Advance:
    """The floor: the matrix products of a step alone, or with the optimiser's traffic."""
    import torch

    triples = []
    for position, (rows, fan_in, fan_out) in enumerate(net.layers):
        x, w, g = torch.randn(rows, fan_in), torch.randn(fan_in, fan_out), torch.randn(rows, fan_out)
        triples += [(x, w), (x.T, g)]
        if position:  # the data need no gradient
            triples.append((g, w.T))
    weights = [torch.randn(i, o, requires_grad=True) for _, i, o in net.layers]
    for weight in weights:
        weight.grad = torch.randn_like(weight)
    optimizer = torch.optim.Adam(weights, lr=1e-3, fused=True)
    multiply = multiplier(onednn)

    def advance(steps: int) -> None:
        with torch.no_grad():
            for _ in range(steps):
                for a, b in triples:
                    multiply(a, b)
                if adam:
                    optimizer.step()

    return advance


def multiplier(onednn: bool) -> Callable[[Any, Any], Any]:
    """Torch's product, or the one of oneDNN, the other library that torch carries."""
    import torch

    def by_onednn(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return torch.ops.mkldnn._linear_pointwise.default(a, b.t(), None, "none", [], "")

    return by_onednn if onednn else torch.mm


products_and_adam = partial(products, adam=True)
onednn_products = partial(products, onednn=True)
onednn_products_and_adam = partial(products, adam=True, onednn=True)


SEEDS = 5


def seeds_in_turn(net: Net, fitted: Callable[[Net], Advance] = fit_compiled) -> Advance:
    """Five fits of this library, one after another: what a process of a sweep does."""
    loops = [fitted(net) for _ in range(SEEDS)]

    def advance(steps: int) -> None:
        for loop in loops:
            loop(steps)

    return advance


seeds_in_turn_by_hand = partial(seeds_in_turn, fitted=bare_torch)


def seeds_stacked(net: Net, compiled: bool = True) -> Advance:
    """Five hand-written nets stacked: one batched gradient (``vmap``) and one optimiser for all."""
    import torch
    from torch import nn
    from torch.func import functional_call, grad, stack_module_state, vmap
    from torch.nn import functional

    def make() -> nn.ModuleList:
        encoder, decoder = modules(net)
        return nn.ModuleList([encoder, nn.Linear(encoder.out_features, 2 * net.latent_dim), decoder])

    class Loss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.nets = make()

        def forward(self, x: torch.Tensor, eps: torch.Tensor) -> torch.Tensor:
            encoder, heads, decoder = self.nets
            loc, log_scale = heads(encoder(x)).chunk(2, -1)
            z = loc + log_scale.exp() * eps
            log_lik = -functional.binary_cross_entropy_with_logits(decoder(z), x, reduction="none").sum(-1)
            return -(log_lik + (-0.5 * z.square() + 0.5 * eps.square() + log_scale).sum(-1)).mean()

    base = Loss()
    parameters, _ = stack_module_state([Loss() for _ in range(SEEDS)])
    optimizer = torch.optim.Adam(list(parameters.values()), lr=1e-3, fused=True)
    data = torch.from_numpy(net.data())
    gradients = vmap(grad(lambda p, x, eps: functional_call(base, p, (x, eps))))
    gradients = torch.compile(gradients) if compiled else gradients

    def advance(steps: int) -> None:
        for _ in range(steps):
            x = data[torch.randint(len(data), (SEEDS, net.batch))]
            found = gradients(
                {k: v.detach() for k, v in parameters.items()}, x, torch.randn(*x.shape[:2], net.latent_dim)
            )
            for name, gradient in found.items():
                parameters[name].grad = gradient
            optimizer.step()

    return advance


seeds_stacked_eager = partial(seeds_stacked, compiled=False)


def _loader(net: Net) -> Iterator[Any]:
    import torch

    loader = torch.utils.data.DataLoader(
        torch.from_numpy(net.data()), batch_size=net.batch, shuffle=True, drop_last=True
    )
    while True:
        yield from loader
