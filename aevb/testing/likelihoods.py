"""What every likelihood holds."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import constraints

from aevb import guides
from aevb.models import LatentVariableModel, networks, priors
from aevb.testing.holds import agree, every_parameter_learns, insist, seeded, smooth_sum
from aevb.testing.pairs import check_pair

__all__ = ["check_likelihood"]

_WIDTH, _DRAWS, _ROWS = 3, 5, 4
_COUNTS = 4000  # of the numbers 0, 1, 2, ... the first so many carry the mass
_LARGE = 30.0  # outputs of a decoder that has gone far

Domain = tuple[float, float] | Sequence[float]


def check_likelihood(make: Callable[[], nn.Module], *, domain: Domain | Tensor | None = None) -> None:
    """Hold a likelihood to what every likelihood holds.

    It makes of a decoder's ``num_params`` outputs a data dimension a law that draws in its support, integrates to one
    with the mean it says, and broadcasts; its gradients are finite and reach every output and parameter; in a pair,
    rows stand alone, a captured step is the eager one, a run comes back.

    Args:
        make: What makes the likelihood.
        domain: The interval ``(low, high)`` of one data dimension, or a tensor of the points that carry its mass; as a
            default what the law's support is.

    Raises:
        AssertionError: Something does not hold; the message says what.

    Example:
        >>> from aevb.models import likelihoods
        >>> check_likelihood(lambda: likelihoods.Normal(scale="learned"))
    """
    with seeded():
        likelihood = make().double()
        count = getattr(likelihood, "num_params", None)
        if not isinstance(count, int) or count < 1:
            raise AssertionError(f"num_params must be a number of decoder outputs a data dimension, but is {count!r}")
        x = _draws_and_scores(likelihood, count)
        _integrates(likelihood, count, domain)
        _learns(likelihood, count, x)
        model = LatentVariableModel(priors.StandardNormal(2), networks.MLP(2, count * _WIDTH, hidden=[5]), likelihood)
        guide = guides.Normal(2, networks.MLP(_WIDTH, hidden=[5]))
        check_pair(model.double(), guide.double(), (x,))


def _outputs(count: int, *batch: int) -> Tensor:
    return torch.randn(*batch, count * _WIDTH, dtype=torch.float64)


def _draws_and_scores(likelihood: nn.Module, count: int) -> Tensor:
    h = _outputs(count, _DRAWS, _ROWS)
    law: Any = likelihood(h)
    insist(
        tuple(law.batch_shape) == (_DRAWS, _ROWS) and tuple(law.event_shape) == (_WIDTH,),
        f"of outputs [{_DRAWS}, {_ROWS}, num_params * {_WIDTH}] its batch shape must be ({_DRAWS}, {_ROWS}) and its "
        f"event shape ({_WIDTH},), but they are {tuple(law.batch_shape)} and {tuple(law.event_shape)}",
    )
    insist(bool(law.support.check(law.sample((50,))).all()), "its draws leave its support")
    x: Tensor = law.sample()[0]
    insist(x.dtype == torch.float64, f"in float64 its draws are {x.dtype}")
    together = law.log_prob(x)
    insist(bool(together.isfinite().all()), "its log-density at its own draws is not finite")
    alone = torch.stack([torch.stack([likelihood(row).log_prob(x[n]) for n, row in enumerate(draw)]) for draw in h])
    agree(together, alone, "its log-density does not broadcast over [samples, batch]")
    one: Any = likelihood(h[0])
    agree(one.expand((2, _ROWS)).log_prob(x), one.log_prob(x).expand(2, _ROWS), "expanded, its log-density is another")
    return x


def _integrates(likelihood: nn.Module, count: int, domain: Domain | Tensor | None) -> None:
    for _ in range(3):
        with torch.no_grad():
            law = likelihood(torch.randn(count, dtype=torch.float64))
            total, mean = (_moment(law, _domain(law) if domain is None else domain, power) for power in (0, 1))
        insist(abs(total - 1.0) < _mass_left_out(law), f"its probabilities add up to {total:.6g}, not to one")
        said = float(law.mean)
        insist(abs(mean - said) < 1e-4 * (1 + abs(said)), f"it says that its mean is {said:.6g}, but it is {mean:.6g}")


def _mass_left_out(law: Any) -> float:
    """What rounding may hide: below the upper end of an interval numbers lie too far apart for a spike there."""
    return 1e-4 if isinstance(_plain_support(law), constraints.interval) else 1e-6


def _plain_support(law: Any) -> Any:
    support = law.support
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    return support


def _moment(law: Any, domain: Domain | Tensor, power: int) -> float:
    if isinstance(domain, Tensor):
        points = domain.double()
        return float((law.log_prob(points.unsqueeze(-1)).exp() * points**power).sum())
    low, high = domain
    return smooth_sum(lambda x: law.log_prob(x.unsqueeze(-1)), (low, high), power)


def _domain(law: Any) -> Domain | Tensor:
    support = _plain_support(law)
    if getattr(support, "is_discrete", False):
        low, high = getattr(support, "lower_bound", 0), getattr(support, "upper_bound", None)
        return torch.arange(low, _COUNTS if high is None else high + 1)
    return float(getattr(support, "lower_bound", -math.inf)), float(getattr(support, "upper_bound", math.inf))


def _learns(likelihood: nn.Module, count: int, x: Tensor) -> None:
    h = nn.Parameter(_outputs(count, _ROWS))
    both = nn.Module()
    both.likelihood, both.outputs = likelihood, h
    every_parameter_learns(both, lambda: -likelihood(h).log_prob(x).sum())
    for size in (-_LARGE, 0.0, _LARGE):
        far = torch.full_like(h, size, requires_grad=True)
        log_prob = likelihood(far).log_prob(x)
        (slope,) = torch.autograd.grad(log_prob.sum(), far)
        finite = bool(log_prob.isfinite().all() & slope.isfinite().all())
        insist(finite, f"at decoder outputs of {size:g} its log-density or its gradient is not finite")
