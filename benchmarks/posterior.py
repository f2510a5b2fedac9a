"""Contenders for what is done with a pair: importance sampling, Hamiltonian Monte Carlo, annealing."""

from __future__ import annotations

import contextlib
import io
import math
from functools import partial
from typing import Any

import numpy as np
from training import blocks, modules, multiplier, numpyro_pair
from workloads import Advance, Net

LEAPFROG, STEP_SIZE, POINTS_AT_ONCE = 10, 0.05, 1000


def _world(net: Net) -> tuple[Any, Any, Any]:
    import torch

    torch.manual_seed(0)
    return (*blocks(net), torch.from_numpy(net.data()))


# ---------------------------------------------------------------- importance sampling; a step is a thousand pairs


def importance(net: Net, precision: str = "float32", compile: bool = False) -> Advance:
    """This library's weights, as ``log_evidence`` draws them; the graph is made before the clock starts."""
    import torch

    from aevb.inference import Pair
    from aevb.inference.graphs.precision import products_in
    from aevb.inference.graphs.traced_function import captured

    model, guide, x = _world(net)
    pair = Pair(model, guide).check(x)
    parts = x.split(len(x) // 10)  # ten points at a time, a hundred draws each

    def log_weight(x: torch.Tensor) -> tuple[torch.Tensor]:
        with products_in(precision):
            return (pair.cloud(x, POINTS_AT_ONCE // len(x)).log_weight,)

    with pair.evaluation():
        weigh = captured(log_weight, parts[0], compile=compile)

    def advance(steps: int) -> None:
        with pair.evaluation():
            torch.cat([weigh(parts[step % 10])[0].double() for step in range(steps)]).logsumexp(0)

    return advance


def importance_whole(net: Net) -> Advance:
    """``log_evidence`` with all it does: checks, graph, weights, k-hat."""
    from aevb.inference import log_evidence
    from aevb.inference.evidence import ImportanceSampling

    model, guide, x = _world(net)

    def advance(steps: int) -> None:
        log_evidence(model, guide, x, ImportanceSampling(max(1, steps * 1000 // len(x))))

    return advance


importance_compiled = partial(importance, compile=True)
importance_bfloat16 = partial(importance, precision="bfloat16", compile=True)


def importance_pyro(net: Net) -> Advance:
    """Pyro's handlers with an outer plate over samples, ten at a time, the weights summed as they come."""
    import pyro
    import torch
    from pyro import poutine

    model, guide, x = _world(net)

    def vectorised(program: Any) -> Any:
        def run(x: torch.Tensor) -> None:
            with pyro.plate("samples", 10, dim=-2):
                program(x)

        return run

    def advance(steps: int) -> None:
        total = torch.full((len(x),), -math.inf)
        with torch.no_grad(), pyro.validation_enabled(False):
            for _ in range(steps):
                q = poutine.trace(vectorised(guide)).get_trace(x)
                p = poutine.trace(poutine.replay(vectorised(model), trace=q)).get_trace(x)
                log_weight = p.nodes["z"]["fn"].log_prob(p.nodes["z"]["value"])
                log_weight = log_weight + p.nodes["x"]["fn"].log_prob(x)
                log_weight = log_weight - q.nodes["z"]["fn"].log_prob(q.nodes["z"]["value"])
                total = torch.logaddexp(total, log_weight.logsumexp(0))

    return advance


def importance_by_hand(net: Net) -> Advance:
    """The weights written out, a hundred points by ten samples at a time."""
    import torch
    from torch import nn
    from torch.nn import functional

    encoder, decoder = modules(net)
    heads = nn.Linear(encoder.out_features, 2 * net.latent_dim)
    x = torch.from_numpy(net.data())

    def advance(steps: int) -> None:
        total = torch.full((len(x),), -math.inf)
        with torch.no_grad():
            loc, log_scale = heads(encoder(x)).chunk(2, -1)
            for _ in range(steps):
                eps = torch.randn(POINTS_AT_ONCE // len(x), *loc.shape)
                z = loc + log_scale.exp() * eps
                logits = decoder(z)
                log_lik = -functional.binary_cross_entropy_with_logits(
                    logits, x.expand_as(logits), reduction="none"
                ).sum(-1)
                log_weight = log_lik + (-0.5 * z.square() + 0.5 * eps.square() + log_scale).sum(-1)
                total = torch.logaddexp(total, log_weight.logsumexp(0))

    return advance


def importance_numpyro(net: Net) -> Advance:
    """NumPyro's densities, vmapped over samples and mapped over points, compiled."""
    import jax
    import jax.numpy as jnp
    from numpyro import handlers
    from numpyro.infer.util import log_density

    model, guide = numpyro_pair(net)
    x = jnp.asarray(net.data())
    first = handlers.trace(handlers.seed(guide, 0)).get_trace(x[:1])
    second = handlers.trace(handlers.seed(model, 0)).get_trace(x[:1])
    params = {name: site["value"] for name, site in (first | second).items() if site["type"] == "param"}

    def log_weight(key: jnp.ndarray, row: jnp.ndarray) -> jnp.ndarray:
        drawn = handlers.trace(handlers.substitute(handlers.seed(guide, key), params)).get_trace(row)
        z = {"z": drawn["z"]["value"]}
        return log_density(model, (row,), {}, params | z)[0] - log_density(guide, (row,), {}, params | z)[0]

    @partial(jax.jit, static_argnums=0)
    def evidence(samples: int, key: jnp.ndarray) -> jnp.ndarray:
        def one(arguments: tuple) -> jnp.ndarray:
            row, own = arguments
            weights = jax.vmap(lambda k: log_weight(k, row[None]))(jax.random.split(own, samples))
            return jax.scipy.special.logsumexp(weights) - jnp.log(samples)

        return jax.lax.map(one, (x, jax.random.split(key, len(x))))

    def advance(steps: int) -> None:
        # A thousand samples of a point are vmapped at once: more of them only cost memory.
        samples = max(1, steps * 1000 // len(x))
        for start in range(0, samples, 1000):
            evidence(min(1000, samples - start), jax.random.PRNGKey(start)).block_until_ready()

    return advance


def decoder_pass(net: Net) -> Advance:
    """The decoder alone on a thousand rows."""
    import torch

    _, decoder = modules(net)
    z = torch.randn(POINTS_AT_ONCE, net.latent_dim)

    def advance(steps: int) -> None:
        with torch.no_grad():
            for _ in range(steps):
                decoder(z)

    return advance


def importance_products(net: Net, onednn: bool = False) -> Advance:
    """The floor: the decoder's products on a thousand rows."""
    import torch

    decoder = net.layers[len(net.hidden) + 1 :]
    pairs = [(torch.randn(POINTS_AT_ONCE, i), torch.randn(i, o)) for _, i, o in decoder]
    multiply = multiplier(onednn)

    def advance(steps: int) -> None:
        for _ in range(steps):
            for a, b in pairs:
                multiply(a, b)

    return advance


importance_onednn_products = partial(importance_products, onednn=True)


# ---------------------------------------------------------------- Hamiltonian Monte Carlo; a step moves every chain


def hmc(net: Net, compile: bool = False) -> Advance:
    """This library's transition on the pair's posterior, one chain per datapoint; the graph is made before timing."""
    import torch

    from aevb.inference import Pair
    from aevb.inference.pairs.unconstrained import log_density
    from aevb.inference.posterior import hmc as chains

    model, guide, x = _world(net)
    pair = Pair(model, guide).check(x)
    density = log_density(pair, x)
    start = torch.randn(1, len(x), net.latent_dim)
    step_size = torch.full((1, len(x)), STEP_SIZE)
    with pair.evaluation():
        terms = chains.with_gradients(lambda u: (density(u),), start, compile=compile)

    def advance(steps: int) -> None:
        place = terms(start)
        for _ in range(steps):
            place, _ = chains.advance(terms, place, (1.0,), chains.jittered(step_size).unsqueeze(-1), LEAPFROG)

    return advance


hmc_compiled = partial(hmc, compile=True)


def hmc_pyro(net: Net) -> Advance:
    """Pyro's HMC kernel on one datapoint, the time multiplied by the number of datapoints."""
    import pyro
    import torch
    from pyro.infer.mcmc import HMC, MCMC

    model, _, x = _world(net)
    kernel = partial(
        HMC, model, step_size=STEP_SIZE, num_steps=LEAPFROG, adapt_step_size=False, adapt_mass_matrix=False
    )

    def advance(steps: int) -> None:
        pyro.clear_param_store()
        with contextlib.redirect_stderr(io.StringIO()):
            start = {"z": torch.randn(1, net.latent_dim)}
            MCMC(kernel(), steps, warmup_steps=0, initial_params=start, disable_progbar=True).run(x[:1])

    advance.share = 1.0 / len(x)  # type: ignore[attr-defined]
    return advance


def hmc_blackjax(net: Net) -> Advance:
    """Blackjax's HMC, vmapped over datapoints, all proposals in one compiled loop."""
    import blackjax
    import jax
    import jax.numpy as jnp

    x = jnp.asarray(net.data())
    rng = np.random.default_rng(0)
    decoder = net.layers[len(net.hidden) + 1 :]
    weights = [jnp.asarray(rng.standard_normal((i, o)) / i**0.5, jnp.float32) for _, i, o in decoder]

    def log_joint(z: jnp.ndarray, row: jnp.ndarray) -> jnp.ndarray:
        h = z
        for weight in weights[:-1]:
            h = jnp.tanh(h @ weight)
        logits = h @ weights[-1]
        return -0.5 * (z**2).sum() + (row * logits - jax.nn.softplus(logits)).sum()

    mass = jnp.ones(net.latent_dim)

    def kernel_of(row: jnp.ndarray) -> Any:
        return blackjax.hmc(lambda z: log_joint(z, row), STEP_SIZE, mass, LEAPFROG)

    @partial(jax.jit, static_argnums=1)
    def many(states: Any, steps: int, key: jnp.ndarray) -> Any:
        def one(states: Any, key: jnp.ndarray) -> Any:
            keys = jax.random.split(key, len(x))
            return jax.vmap(lambda k, s, row: kernel_of(row).step(k, s)[0])(keys, states, x), None

        return jax.lax.scan(one, states, jax.random.split(key, steps))[0]

    start = jnp.asarray(rng.standard_normal((len(x), net.latent_dim)), jnp.float32)
    states = jax.vmap(lambda z, row: kernel_of(row).init(z))(start, x)

    def advance(steps: int) -> None:
        nonlocal states
        states = many(states, steps, jax.random.PRNGKey(0))
        jax.block_until_ready(states)

    return advance


def decoder_gradient(net: Net) -> Advance:
    """The bare work of ten leapfrog steps: the decoder, its likelihood and the gradient in z, ten times."""
    import torch
    from torch.nn import functional

    _, decoder = modules(net)
    decoder.requires_grad_(False)
    x = torch.from_numpy(net.data())
    z = torch.randn(len(x), net.latent_dim, requires_grad=True)

    def advance(steps: int) -> None:
        for _ in range(LEAPFROG * steps):
            loss = functional.binary_cross_entropy_with_logits(decoder(z), x, reduction="none").sum()
            torch.autograd.grad(loss, z)

    return advance


def hmc_products(net: Net, onednn: bool = False) -> Advance:
    """The floor: the decoder's products, forward and back to z, ten times."""
    import torch

    decoder = net.layers[len(net.hidden) + 1 :]
    pairs = []
    for _, i, o in decoder:
        weight = torch.randn(i, o)
        pairs += [(torch.randn(net.batch, i), weight), (torch.randn(net.batch, o), weight.T)]
    multiply = multiplier(onednn)

    def advance(steps: int) -> None:
        for _ in range(LEAPFROG * steps):
            for a, b in pairs:
                multiply(a, b)

    return advance


hmc_onednn_products = partial(hmc_products, onednn=True)


# ---------------------------------------------------------------- annealing; a step is a temperature of every chain


def _ais(net: Net, start: str) -> Advance:
    """``log_evidence`` by annealing, one chain per datapoint, tuning and capture included."""
    from aevb.inference import log_evidence
    from aevb.inference.evidence import AnnealedImportanceSampling

    model, guide, x = _world(net)

    def advance(steps: int) -> None:
        tuning = max(1, steps // 40)  # it makes three moves a temperature
        annealing = AnnealedImportanceSampling(
            max(1, steps - 3 * tuning), 1, start=start, num_leapfrog=LEAPFROG, num_tuning=tuning, progress=False
        )
        log_evidence(model, guide, x, annealing)

    return advance


ais_prior = partial(_ais, start="prior")
ais_guide = partial(_ais, start="guide")
