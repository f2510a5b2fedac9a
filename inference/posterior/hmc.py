r"""Hamiltonian Monte Carlo over many datapoints at once: one chain, one accept decision, a datapoint.

A transition draws a momentum p ~ N(0, I), follows the leapfrog integrator for n steps of size e,

    p <- p + e/2 grad log f(u),   u <- u + e p,   p <- p + e/2 grad log f(u),

and accepts the end point with probability min(1, exp(H_start - H_end)) *in each chain by itself*, where
H = -log f(u) + |p|^2 / 2. All chains advance through the same tensor operations and no branch depends on data,
so a transition can be captured in one graph.

A density may be a weighted sum of terms, log f = sum_i w_i g_i, each kept with its gradient: a chain that is annealed
moves from one set of weights to the next without evaluating anything again.

References:
    MCMC Using Hamiltonian Dynamics (Neal, 2011), https://arxiv.org/abs/1206.1901
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import pyro
import torch
from torch import Tensor

from ..graphs.traced_function import captured, worth_compiling

__all__ = [
    "WORTH_CAPTURING",
    "Chains",
    "Place",
    "Terms",
    "Transition",
    "advance",
    "jittered",
    "sample",
    "transition",
    "with_gradients",
]

LogDensity = Callable[[Tensor], Tensor]

WORTH_CAPTURING = 2000  # evaluations of a density: a graph gains a quarter or more of each and costs some hundreds


class Place(NamedTuple):
    """The chains' positions ``u`` ``[*chains, D]``, and of each term the value ``[*chains]`` and the gradient there."""

    u: Tensor
    values: tuple[Tensor, ...]
    gradients: tuple[Tensor, ...]


Terms = Callable[[Tensor], Place]


class Transition(NamedTuple):
    """The chains after one transition.

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
    terms = with_gradients(lambda u: (log_density(u),))
    place, accept_prob = advance(terms, terms(u), (1.0,), step_size.unsqueeze(-1), num_leapfrog)
    return Transition(place.u, accept_prob, place.values[0])


def advance(
    terms: Terms, place: Place, weights: Sequence[float], step_size: Tensor, num_leapfrog: int
) -> tuple[Place, Tensor]:
    """Make one HMC transition of the density whose terms have the given weights.

    Args:
        terms: From positions to a place.
        place: Where the chains stand.
        weights: One number a term; a term without a weight is carried along.
        step_size: Leapfrog steps, ``[*chains, 1]``, or ``[*chains, D]`` where dimensions differ in scale.
        num_leapfrog: Number of leapfrog steps.

    Returns:
        The new place and each chain's acceptance probability.
    """
    momentum = torch.randn_like(place.u)
    energy = 0.5 * momentum.square().sum(-1) - _weighted(weights, place.values)
    position, new = place.u, place
    gradient = _weighted(weights, place.gradients)
    for _ in range(num_leapfrog):
        momentum = momentum + 0.5 * step_size * gradient
        position = position + step_size * momentum
        new = terms(position)
        gradient = _weighted(weights, new.gradients)
        momentum = momentum + 0.5 * step_size * gradient
    energy_end = 0.5 * momentum.square().sum(-1) - _weighted(weights, new.values)

    # A trajectory that left the numbers has infinite energy: it is rejected, never followed.
    log_accept = torch.nan_to_num(energy - energy_end, nan=-torch.inf).clamp(max=0.0)
    accept_prob = log_accept.exp()
    return _choose(torch.rand_like(accept_prob) < accept_prob, new, place), accept_prob


def _weighted(weights: Sequence[float], terms: tuple[Tensor, ...]) -> Tensor:
    parts = [term if weight == 1.0 else weight * term for weight, term in zip(weights, terms, strict=False)]
    return sum(parts[1:], parts[0])


def _choose(accepted: Tensor, new: Place, old: Place) -> Place:
    wide = accepted.unsqueeze(-1)
    return Place(
        torch.where(wide, new.u, old.u),
        tuple(torch.where(accepted, a, b) for a, b in zip(new.values, old.values, strict=True)),
        tuple(torch.where(wide, a, b) for a, b in zip(new.gradients, old.gradients, strict=True)),
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
        example = u if evaluations >= WORTH_CAPTURING else None
        compile = worth_compiling(evaluations, u.shape[:-1].numel())
        terms = with_gradients(lambda u: (log_density(u),), example, compile=compile)
        place = terms(u)
        log_step = torch.as_tensor(step_size, dtype=u.dtype, device=u.device).log().expand(u.shape[:-1]).clone()

        def move() -> tuple[Place, Tensor]:
            return advance(terms, place, (1.0,), jittered(log_step.exp()).unsqueeze(-1), num_leapfrog)

        for i in range(warmup):
            place, accept = move()
            # Robbins-Monro with a gain that falls slowly enough to cross orders of magnitude first.
            log_step = log_step + (accept - target_accept) * (1.0 + 0.05 * i) ** -0.6
        draws, accepts = [], []
        for _ in range(num_samples):
            for _ in range(thin):
                place, accept = move()
            draws.append(place.u)
            accepts.append(accept)
        return Chains(torch.stack(draws), torch.stack(accepts), log_step.exp())


def jittered(step_size: Tensor) -> Tensor:
    """A step size between a half and the whole of the tuned one, drawn afresh for every chain and transition.

    A trajectory of fixed length can be a whole period of a near-normal posterior, and then a chain returns to where
    it was; the draw does not look at the state, so the density stays invariant.
    """
    return step_size * (0.5 + 0.5 * torch.rand(step_size.shape, dtype=step_size.dtype, device=step_size.device))


def with_gradients(
    densities: Callable[[Tensor], tuple[Tensor, ...]], example: Tensor | None = None, *, compile: bool = False
) -> Terms:
    """The terms of a density with their gradients, captured as one graph (compiled) where an example is given."""

    def evaluate(u: Tensor) -> tuple[Tensor, ...]:
        with torch.enable_grad():
            u = u.detach().requires_grad_(True)
            values = densities(u)
            # A term that is constant in u has no gradient to ask for.
            gradients = [_gradient(value, u, last=value is values[-1]) for value in values]
        return (*(value.detach() for value in values), *gradients)

    run = evaluate if example is None else captured(evaluate, example, compile=compile)

    def terms(u: Tensor) -> Place:
        found = run(u)
        half = len(found) // 2
        return Place(u.detach(), tuple(found[:half]), tuple(found[half:]))

    return terms


def _gradient(value: Tensor, u: Tensor, *, last: bool) -> Tensor:
    if not value.requires_grad:
        return torch.zeros_like(u)
    (gradient,) = torch.autograd.grad(value.sum(), u, retain_graph=not last, allow_unused=True)
    return torch.zeros_like(u) if gradient is None else gradient
