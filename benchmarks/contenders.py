"""What is timed: each contender returns a function that makes a given number of steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

Advance = Callable[[int], None]


@dataclass(frozen=True)
class Size:
    """A net and a batch: data_dim-hidden-latent_dim and back, tanh, Bernoulli logits."""

    name: str
    data_dim: int
    hidden: int
    latent_dim: int
    batch: int
    rows: int

    def data(self) -> np.ndarray:
        """Binary pictures ``[rows, data_dim]``; their content does not matter to the clock."""
        return (np.random.default_rng(0).random((self.rows, self.data_dim)) < 0.3).astype(np.float32)


SIZES = {
    "paper-100": Size("paper's pair, B=100", 784, 500, 20, 100, 20_000),
    "paper-512": Size("paper's pair, B=512", 784, 500, 20, 512, 20_480),
    "paper-4096": Size("paper's pair, B=4096", 784, 500, 20, 4096, 20_480),
    "digits": Size("digits pair, B=100", 64, 100, 5, 100, 1_700),
}


def ours(size: Size, level: str) -> Advance:
    """This library: ``fit`` on a pair of blocks, history on, the graph made before the clock starts."""
    import torch

    from aevb import guides
    from aevb.inference import SGVB, Fit
    from aevb.models import LatentVariableModel, likelihoods, networks, priors

    torch.manual_seed(0)
    decoder = networks.MLP(size.latent_dim, size.data_dim, hidden=[size.hidden])
    model = LatentVariableModel(priors.StandardNormal(size.latent_dim), decoder, likelihoods.Bernoulli())
    guide = guides.Normal(latent_dim=size.latent_dim, encoder=networks.MLP(size.data_dim, hidden=[size.hidden]))
    data = torch.from_numpy(size.data())
    loop = Fit(
        model, guide, data, objective=SGVB(estimator="A"), steps=10**9, batch_size=size.batch, compile=level,
        device="cpu",
    )  # fmt: skip

    def advance(steps: int) -> None:
        loop.length = replace(loop.length, steps=loop.step + steps)  # a run that goes on for so many steps more
        loop.drain()

    return advance


def pyro_example(size: Size) -> Advance:
    """Pyro as its own example has it: Trace_ELBO, pyro.optim.Adam, a DataLoader, validation on."""
    import pyro
    import pyro.distributions as dist
    import torch
    from pyro.infer import SVI, Trace_ELBO
    from torch import nn

    pyro.clear_param_store()
    pyro.enable_validation(True)
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Linear(size.data_dim, size.hidden), nn.Tanh())
    loc, log_scale = nn.Linear(size.hidden, size.latent_dim), nn.Linear(size.hidden, size.latent_dim)
    encode = nn.ModuleList([encoder, loc, log_scale])
    decode = nn.Sequential(nn.Linear(size.latent_dim, size.hidden), nn.Tanh(), nn.Linear(size.hidden, size.data_dim))

    def model(x: torch.Tensor) -> None:
        pyro.module("decoder", decode)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), size.latent_dim), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=decode(z)).to_event(1), obs=x)

    def guide(x: torch.Tensor) -> None:
        pyro.module("encoder", encode)
        with pyro.plate("data", len(x)):
            h = encoder(x)
            pyro.sample("z", dist.Normal(loc(h), log_scale(h).exp()).to_event(1))

    svi = SVI(model, guide, pyro.optim.Adam({"lr": 1e-3}), Trace_ELBO())
    batches = _loader(size)

    def advance(steps: int) -> None:
        for _ in range(steps):
            svi.step(next(batches))

    return advance


def bare_torch(size: Size, compiled: bool) -> Advance:
    """A training loop written by hand: index batches, one fused Adam; the loss compiled or not."""
    import torch
    from torch import nn
    from torch.nn import functional

    torch.manual_seed(0)
    encoder = nn.Sequential(
        nn.Linear(size.data_dim, size.hidden), nn.Tanh(), nn.Linear(size.hidden, 2 * size.latent_dim)
    )
    decoder = nn.Sequential(nn.Linear(size.latent_dim, size.hidden), nn.Tanh(), nn.Linear(size.hidden, size.data_dim))
    parameters = [*encoder.parameters(), *decoder.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=1e-3, fused=True)
    data = torch.from_numpy(size.data())

    def loss_of(x: torch.Tensor) -> torch.Tensor:
        loc, log_scale = encoder(x).chunk(2, -1)
        eps = torch.randn_like(loc)
        z = loc + log_scale.exp() * eps
        log_joint = -0.5 * z.square().sum(-1) - functional.binary_cross_entropy_with_logits(
            decoder(z), x, reduction="none"
        ).sum(-1)
        log_q = (-0.5 * eps.square() - log_scale).sum(-1)
        return -(log_joint - log_q).mean()

    loss = torch.compile(loss_of) if compiled else loss_of

    def advance(steps: int) -> None:
        for _ in range(steps):
            x = data[torch.randint(len(data), (size.batch,))]
            optimizer.zero_grad(set_to_none=True)
            loss(x).backward()
            optimizer.step()

    return advance


def numpyro_scan(size: Size) -> Advance:
    """NumPyro's SVI, fifty steps in one compiled loop."""
    import jax
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as dist
    from numpyro.infer import SVI, Trace_ELBO

    shapes = {
        "w1": (size.data_dim, size.hidden), "b1": (size.hidden,), "w2": (size.hidden, 2 * size.latent_dim),
        "b2": (2 * size.latent_dim,), "v1": (size.latent_dim, size.hidden), "c1": (size.hidden,),
        "v2": (size.hidden, size.data_dim), "c2": (size.data_dim,),
    }  # fmt: skip
    rng = np.random.default_rng(0)
    start = {name: jnp.asarray(0.05 * rng.standard_normal(shape), jnp.float32) for name, shape in shapes.items()}

    def model(x: jnp.ndarray) -> None:
        v1, c1, v2, c2 = (numpyro.param(name, start[name]) for name in ("v1", "c1", "v2", "c2"))
        with numpyro.plate("data", len(x)):
            z = numpyro.sample("z", dist.Normal(jnp.zeros(size.latent_dim), 1.0).to_event(1))
            logits = jnp.tanh(z @ v1 + c1) @ v2 + c2
            numpyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)

    def guide(x: jnp.ndarray) -> None:
        w1, b1, w2, b2 = (numpyro.param(name, start[name]) for name in ("w1", "b1", "w2", "b2"))
        loc, log_scale = jnp.split(jnp.tanh(x @ w1 + b1) @ w2 + b2, 2, -1)
        with numpyro.plate("data", len(x)):
            numpyro.sample("z", dist.Normal(loc, jnp.exp(log_scale)).to_event(1))

    svi = SVI(model, guide, numpyro.optim.Adam(1e-3), Trace_ELBO())
    data = jnp.asarray(size.data())
    state = svi.init(jax.random.PRNGKey(0), data[: size.batch])

    @partial(jax.jit, static_argnums=1)
    def many(state: tuple, steps: int) -> tuple:
        def one(carry: tuple, key: jnp.ndarray) -> tuple:
            rows = jax.random.randint(key, (size.batch,), 0, len(data))
            return svi.update(carry, data[rows])

        return jax.lax.scan(one, state, jax.random.split(jax.random.PRNGKey(1), steps))

    def advance(steps: int) -> None:
        nonlocal state
        state, losses = many(state, steps)
        losses.block_until_ready()

    return advance


def products(size: Size, adam: bool) -> Advance:
    """The floor: the matrix products of a step alone, or with the optimiser's traffic."""
    import torch

    p, h, d, b = size.data_dim, size.hidden, size.latent_dim, size.batch
    shapes = [(b, p, h), (b, h, 2 * d), (b, d, h), (b, h, p)]
    pairs = []
    for rows, fan_in, fan_out in shapes:
        x, w, g = torch.randn(rows, fan_in), torch.randn(fan_in, fan_out), torch.randn(rows, fan_out)
        pairs += [(x, w, torch.empty(rows, fan_out)), (x.T, g, torch.empty(fan_in, fan_out))]
        if fan_in != p:  # the data need no gradient
            pairs.append((g, w.T, torch.empty(rows, fan_in)))
    weights = [torch.randn(i, o, requires_grad=True) for _, i, o in shapes]
    for weight in weights:
        weight.grad = torch.randn_like(weight)
    optimizer = torch.optim.Adam(weights, lr=1e-3, fused=True)

    def advance(steps: int) -> None:
        with torch.no_grad():
            for _ in range(steps):
                for a, w, out in pairs:
                    torch.mm(a, w, out=out)
                if adam:
                    optimizer.step()

    return advance


CONTENDERS: dict[str, Callable[[Size], Advance]] = {
    "this pair, fit, graph": partial(ours, level="graph"),
    "this pair, fit, compiled": partial(ours, level="full"),
    "this pair, fit, uncaptured": partial(ours, level="never"),
    "Pyro's example": pyro_example,
    "bare PyTorch, fused Adam": partial(bare_torch, compiled=False),
    "bare PyTorch, compiled loss, fused Adam": partial(bare_torch, compiled=True),
    "NumPyro SVI, scan": numpyro_scan,
    "floor: products + fused Adam": partial(products, adam=True),
    "floor: products": partial(products, adam=False),
}
PEERS = {"NumPyro SVI, scan"}  # run in the peers' environment


def _loader(size: Size) -> object:
    import torch

    loader = torch.utils.data.DataLoader(
        torch.from_numpy(size.data()), batch_size=size.batch, shuffle=True, drop_last=True
    )
    while True:
        yield from loader
