r"""Hamiltonian Monte Carlo over many datapoints at once: one chain, one accept decision, a datapoint.

A transition draws a momentum p ~ N(0, I), follows the leapfrog integrator for n steps of size e,

    p <- p + e/2 grad log f(u),   u <- u + e p,   p <- p + e/2 grad log f(u),

and accepts the end point with probability min(1, exp(H_start - H_end)) *in each chain by itself*, where
H = -log f(u) + |p|^2 / 2. All chains advance through the same tensor operations and no branch depends on data,
so a transition can be captured in one graph.

References:
    MCMC Using Hamiltonian Dynamics (Neal, 2011), https://arxiv.org/abs/1206.1901
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pyro
import torch
from torch import Tensor

__all__ = ["Chains", "Transition", "sample", "transition"]

LogDensity = Callable[[Tensor], Tensor]
WithGradient = Callable[[Tensor], tuple[Tensor, Tensor]]

_WORTH_CAPTURING = 2000  # evaluations of the density: a graph gains a quarter of each and costs some hundreds


class Transition(NamedTuple):
    """Where the chains stand after one transition.

    ``u`` is ``[*chains, D]``; ``accept_prob`` and ``log_density`` are ``[*chains]``.
    """

    u: Tensor
    accept_prob: Tensor
    log_density: Tensor


class Chains(NamedTuple):
    """Draws of :func:`sample`: ``u`` is ``[num_samples, *chains, D]``, ``accept_prob`` ``[num_samples, *chains]``."""

    u: Tensor
    accept_prob: Tensor
    step_size: Tensor


def transition(log_density: LogDensity, u: Tensor, step_size: Tensor, num_leapfrog: int) -> Transition:
    """Make one HMC transition in every chain.

    Args:
        log_density: ``[*chains, D] -> [*chains]``, unnormalised, in nats.
        u: Current positions ``[*chains, D]``.
        step_size: Leapfrog step e, ``[]`` or ``[*chains]``.
        num_leapfrog: Number n of leapfrog steps.

    Returns:
        The new positions with each chain's acceptance probability.
    """
    return _transition(_eager(log_density), u, step_size, num_leapfrog)


def _transition(evaluate: WithGradient, u: Tensor, step_size: Tensor, num_leapfrog: int) -> Transition:
    step = step_size.unsqueeze(-1) if step_size.dim() else step_size
    start = u.detach()
    momentum = torch.randn_like(start)
    density_start, gradient = evaluate(start)
    energy_start = -density_start + 0.5 * momentum.square().sum(-1)

    position, density = start, density_start
    for _ in range(num_leapfrog):
        momentum = momentum + 0.5 * step * gradient
        position = position + step * momentum
        density, gradient = evaluate(position)
        momentum = momentum + 0.5 * step * gradient
    energy_end = -density + 0.5 * momentum.square().sum(-1)

    # A trajectory that left the numbers has infinite energy: it is rejected, never followed.
    log_accept = torch.nan_to_num(energy_start - energy_end, nan=-torch.inf).clamp(max=0.0)
    accept_prob = log_accept.exp()
    accepted = torch.rand_like(accept_prob) < accept_prob
    return Transition(
        torch.where(accepted.unsqueeze(-1), position, start),
        accept_prob,
        torch.where(accepted, density, density_start),
    )


def sample(
    log_density: LogDensity,
    u: Tensor,
    *,
    num_samples: int,
    num_leapfrog: int = 10,
    warmup: int = 200,
    thin: int = 1,
    step_size: float | Tensor = 0.1,
    target_accept: float = 0.8,
) -> Chains:
    """Run every chain: tune its step size during ``warmup``, then freeze it and collect draws.

    Args:
        log_density: ``[*chains, D] -> [*chains]``, unnormalised, in nats.
        u: Starting positions ``[*chains, D]``.
        num_samples: Draws kept a chain.
        num_leapfrog: Leapfrog steps a transition.
        warmup: Transitions whose draws are thrown away while each chain's step size is tuned.
        thin: Transitions a kept draw.
        step_size: Where the tuning starts.
        target_accept: The mean acceptance probability that is tuned for.

    Returns:
        The draws and the frozen step sizes ``[*chains]``.
    """
    # A trajectory may leave the numbers, and is then rejected: no distribution may refuse its values first.
    with pyro.validation_enabled(False):
        evaluations = (warmup + num_samples * thin) * num_leapfrog
        evaluate = _captured(log_density, u) if evaluations >= _WORTH_CAPTURING else _eager(log_density)
        log_step = torch.as_tensor(step_size, dtype=u.dtype, device=u.device).log().expand(u.shape[:-1]).clone()
        for i in range(warmup):
            u, accept, _ = _transition(evaluate, u, jittered(log_step.exp()), num_leapfrog)
            # Robbins-Monro with a gain that falls slowly enough to cross orders of magnitude first.
            log_step = log_step + (accept - target_accept) * (1.0 + 0.05 * i) ** -0.6
        draws, accepts = [], []
        for _ in range(num_samples):
            for _ in range(thin):
                u, accept, _ = _transition(evaluate, u, jittered(log_step.exp()), num_leapfrog)
            draws.append(u)
            accepts.append(accept)
        return Chains(torch.stack(draws), torch.stack(accepts), log_step.exp())


def jittered(step_size: Tensor) -> Tensor:
    """A step size between a half and the whole of the tuned one, drawn afresh for every chain and transition.

    A trajectory of fixed length can be a whole period of a near-normal posterior, and then a chain returns to where
    it was; the draw does not look at the state, so the density stays invariant.
    """
    return step_size * (0.5 + 0.5 * torch.rand(step_size.shape, dtype=step_size.dtype, device=step_size.device))


def _eager(log_density: LogDensity) -> WithGradient:
    def evaluate(u: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            u = u.detach().requires_grad_(True)
            density = log_density(u)
            (gradient,) = torch.autograd.grad(density.sum(), u)
        return density.detach(), gradient

    return evaluate


def _captured(log_density: LogDensity, u: Tensor) -> WithGradient:
    """The density with its gradient as one graph of tensor operations; as it is where it cannot be captured.

    The graph must give the same numbers at another place than the one it was captured at.
    """
    from torch.fx.experimental.proxy_tensor import make_fx  # costs seconds where nothing is captured

    evaluate, elsewhere = _eager(log_density), u.detach() * 0.5 + 0.1
    try:
        with torch.random.fork_rng(), pyro.validation_enabled(False):
            graph = make_fx(evaluate)(u.detach())
            state = torch.get_rng_state()
            expected = evaluate(elsewhere)
            torch.set_rng_state(state)
            got = _run(graph, elsewhere)
    except Exception:  # programs that branch on values: the handlers run at every evaluation, as they always may
        return evaluate
    same = all(torch.allclose(a, b, rtol=1e-4, atol=1e-5, equal_nan=True) for a, b in zip(got, expected, strict=True))
    return (lambda position: _run(graph, position)) if same else evaluate


def _run(graph: Callable[[Tensor], tuple[Tensor, Tensor]], u: Tensor) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        density, gradient = graph(u)
    return density, gradient
