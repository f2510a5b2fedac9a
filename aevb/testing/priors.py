"""What every prior holds."""

import inspect
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from aevb import guides
from aevb.models import ConditionalModel, LatentVariableModel, likelihoods, networks
from aevb.testing.holds import agree, every_parameter_learns, insist, seeded, smooth_sum
from aevb.testing.pairs import check_pair

__all__ = ["GUIDES", "check_prior"]

_DRAWS, _ROWS, _WIDTH, _CLASSES = 5, 4, 4, 3
_SMALLEST = {"real": 1, "sphere": 2, "simplex": 2}  # dimensions of the latent with one degree of freedom
GUIDES: dict[str, Any] = {"real": guides.Normal, "sphere": guides.PowerSpherical, "simplex": guides.Dirichlet}


def check_prior(make: Callable[[int], nn.Module], *, guide: Callable[[nn.Module], nn.Module] | None = None) -> None:
    """Hold a prior to what every prior holds.

    It names the space that it lives on, and draws there; its density integrates to one where that is a line, and
    broadcasts; every parameter learns; in a pair, rows stand alone, a captured step is the eager one, a run comes back.

    Args:
        make: From a number of latent dimensions to a prior, e.g. ``priors.Laplace``.
        guide: From a prior to the guide it is tried with; as a default a plain one on its space. A prior that is made
            of a guide's posterior is tried with that guide.

    Raises:
        AssertionError: Something does not hold; the message says what.

    Example:
        >>> from aevb.models import priors
        >>> check_prior(lambda latent_dim: priors.Laplace(latent_dim, scale=0.5))
    """
    with seeded():
        prior = _made(make, 3, guide)
        space = getattr(prior, "support", None)
        if space not in _SMALLEST:
            raise AssertionError(f"support must be one of {', '.join(_SMALLEST)}, but is {space!r}")
        _draws_and_scores(prior, space)
        every_parameter_learns(prior, lambda: _law(prior).log_prob(_law(prior).sample((50,))).square().mean())
        _integrates_to_one(make, guide, space)
        of_guide = "posterior" in inspect.signature(type(prior)).parameters
        insist(guide is not None or not of_guide, "a prior of a guide's posterior needs the argument guide")
        check_pair(*_pair(prior, space, guide))


def _made(make: Callable[[int], nn.Module], dim: int, guide: Callable[[nn.Module], nn.Module] | None) -> nn.Module:
    """A prior in float64, away from where it starts: there a wrong formula could hide."""
    prior = make(dim).double()
    if guide is not None:
        guide(prior).double()
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return prior


def _law(prior: nn.Module) -> Any:
    """p(z), or p(z|y) of the first class."""
    return prior(torch.tensor(0)) if _labelled(prior) else prior()


def _labelled(prior: nn.Module) -> bool:
    return "labels" in getattr(prior, "needs", ())


def _draws_and_scores(prior: nn.Module, space: str) -> None:
    law = _law(prior)
    insist(
        tuple(law.batch_shape) == () and tuple(law.event_shape) == (3,),
        f"of latent_dim=3 its batch shape must be () and its event shape (3,), but they are {tuple(law.batch_shape)} "
        f"and {tuple(law.event_shape)}",
    )
    z = law.sample((_DRAWS, _ROWS))
    insist(z.dtype == torch.float64, f"in float64 its draws are {z.dtype}: make constants of buffers or parameters")
    insist(bool(z.isfinite().all()), "its draws are not finite")
    insist(bool(_lies_on(space, z).all()), f"its draws leave the {space}")
    together = law.log_prob(z)
    insist(bool(together.isfinite().all()), "its log-density at its own draws is not finite")
    alone = torch.stack([torch.stack([law.log_prob(row) for row in draw]) for draw in z])
    agree(together, alone, "its log-density does not broadcast over [samples, batch]")
    expanded = law.expand((_ROWS,))
    insist(expanded.sample((_DRAWS,)).shape == z.shape, "expanded to a batch, its draws have another shape")
    agree(expanded.log_prob(z), together, "expanded to a batch, its log-density is another")


def _lies_on(space: str, z: Tensor) -> Tensor:
    if space == "sphere":
        return (z.norm(dim=-1) - 1).abs() < 1e-5
    return ((z >= 0).all(-1) & ((z.sum(-1) - 1).abs() < 1e-5)) if space == "simplex" else z.isfinite().all(-1)


def _integrates_to_one(
    make: Callable[[int], nn.Module], guide: Callable[[nn.Module], nn.Module] | None, space: str
) -> None:
    try:
        prior = _made(make, _SMALLEST[space], guide)
    except ValueError:  # a flow by halves has no single dimension, and says so
        return
    total = _total(prior, space)
    insist(abs(total - 1.0) < 1e-3, f"its density integrates to {total:.6g}, not to one")


def _total(prior: nn.Module, space: str) -> float:
    """The integral of the density over one degree of freedom: a line, a circle, an edge."""
    law = _law(prior)

    def log_prob(t: Tensor) -> Tensor:
        point = {"real": [t], "sphere": [t.cos(), t.sin()], "simplex": [t, 1 - t]}[space]
        return law.log_prob(torch.stack(point, -1)).detach()

    domain = {"real": (-math.inf, math.inf), "sphere": (0.0, 2 * math.pi), "simplex": (0.0, 1.0)}[space]
    return smooth_sum(log_prob, domain)


def _pair(
    prior: nn.Module, space: str, guide: Callable[[nn.Module], nn.Module] | None
) -> tuple[nn.Module, nn.Module, tuple[Tensor, ...]]:
    labelled = _labelled(prior)
    extra = _CLASSES if labelled else 0
    encoder = networks.MLP(_WIDTH + extra, hidden=[5])
    if guide is not None:
        found = guide(prior)
    elif labelled:
        found = guides.ConditionalNormal(3, encoder, num_classes=_CLASSES)
    else:
        found = GUIDES[space](3, encoder)
    decoder, likelihood = networks.MLP(3 + extra, _WIDTH, hidden=[5]), likelihoods.Normal()
    x = torch.rand(_ROWS, _WIDTH, dtype=torch.float64)
    if labelled:
        model: nn.Module = ConditionalModel(prior, decoder, likelihood, num_classes=_CLASSES)
        return model.double(), found.double(), (x, torch.arange(_ROWS) % _CLASSES)
    return LatentVariableModel(prior, decoder, likelihood).double(), found.double(), (x,)
