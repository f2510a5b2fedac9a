"""What every guide holds."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from aevb.inference import Pair
from aevb.models import LatentVariableModel, ProbabilisticPCA, likelihoods, networks, priors
from aevb.testing.holds import agree, every_parameter_learns, insist, seeded
from aevb.testing.pairs import check_pair

__all__ = ["check_guide"]

_DRAWS = 4
_PRIORS: dict[str, Any] = {
    "real": priors.StandardNormal,
    "sphere": priors.UniformSphere,
    "simplex": priors.Dirichlet,
}


def check_guide(make: Callable[[], nn.Module], *data: Tensor, model: nn.Module | None = None) -> None:
    """Hold a guide to what every guide holds.

    It draws the latents of its model, on the space it names, and scores its own draws as it drew them; every parameter
    learns; its bound lies below a known log p(x); in a pair, rows stand alone, a captured step is the eager one, a run
    comes back.

    Args:
        make: What makes the guide.
        data: Its arguments: the data ``[N, P]``, and what it needs beside them (labels, row numbers).
        model: A model that it goes with, whose arguments these are as well; as a default one of a prior on its space.

    Raises:
        AssertionError: Something does not hold; the message says what.

    Example:
        >>> from aevb import guides
        >>> check_guide(lambda: guides.Normal(2, networks.MLP(5, hidden=[4])), torch.rand(3, 5))
    """
    with seeded():
        guide = make().double()
        space = getattr(guide, "support", None)
        if space not in _PRIORS:
            raise AssertionError(f"support must be one of {', '.join(_PRIORS)}, but is {space!r}")
        doubled = tuple(part.double() if part.is_floating_point() else part for part in data)
        plain = model is None
        if model is None:
            dim, width = _dim(guide), doubled[0].shape[-1]
            decoder = networks.MLP(dim, width, hidden=[5])
            holes = bool(doubled[0].isnan().any())
            model = LatentVariableModel(_PRIORS[space](dim), decoder, likelihoods.Normal(), missing=holes)
        model = model.double()
        pair = Pair(model, guide).check(doubled)
        _draws_and_scores(pair, guide, space, doubled)
        every_parameter_learns(guide, lambda: _loss(pair, doubled))
        if plain and space == "real" and pair.has_density:
            _lies_below(guide, doubled)
        check_pair(model, make().double() if plain else guide, doubled)


def _dim(guide: Any) -> int:
    return int(guide.latent_dim)


def _draws_and_scores(pair: Pair, guide: nn.Module, space: str, data: tuple[Tensor, ...]) -> None:
    with pair.evaluation(), torch.no_grad():
        z = pair.sample_guide(data, _DRAWS)
        for site in pair.latents:
            shape = (_DRAWS, len(data[0]), *site.event_shape)
            insist(
                z[site.name].shape == shape, f"its draws of {site.name!r} are {list(z[site.name].shape)}, not {shape}"
            )
            insist(z[site.name].dtype == torch.float64, f"in float64 its draws are {z[site.name].dtype}")
        if "z" in z and space == "sphere":
            agree(z["z"].norm(dim=-1), torch.ones(_DRAWS, len(data[0])).double(), "its draws leave the sphere")
        if "z" in z and space == "simplex":
            agree(z["z"].sum(-1), torch.ones(_DRAWS, len(data[0])).double(), "its draws leave the simplex")
        if pair.has_density:
            cloud = pair.cloud(data, _DRAWS)
            insist(bool(cloud.log_weight.isfinite().all()), "log-weights at its own draws are not finite")
            again = pair.log_guide({name: value.clone() for name, value in cloud.z.items()}, data)
            agree(again, cloud.log_q, "its draws are scored otherwise than they were drawn", 1e-5)
            moved = {name: value.roll(1, 0) for name, value in cloud.z.items()}
            insist(bool(pair.log_guide(moved, data).isfinite().all()), "others' draws have no finite log-density")


def _loss(pair: Pair, data: tuple[Tensor, ...]) -> Tensor:
    """Something that every parameter of a guide matters to: entropy, and where the draws lie."""
    z = pair.sample_guide(data, 20)
    spread = sum(((value - 0.3) ** 2 * torch.arange(1.0, value.shape[-1] + 1)).mean() for value in z.values())
    loss: Tensor = torch.as_tensor(spread)
    return loss + pair.log_guide(z, data).mean() if pair.has_density else loss


def _lies_below(guide: nn.Module, data: tuple[Tensor, ...]) -> None:
    """The bound is below log p(x) of a linear-Gaussian model, which is known."""
    x = data[0].nan_to_num(0.5)
    dim = _dim(guide)
    if len(data) > 1 or data[0].isnan().any() or dim >= x.shape[-1]:
        return
    model = ProbabilisticPCA(x.shape[-1], dim).double()
    pair = Pair(model, guide).check(x)
    with pair.evaluation(), torch.no_grad():
        weights = pair.cloud(x, 400).log_weight
    above = weights.mean(0) - model.log_evidence(x).detach()
    error = weights.std(0) / math.sqrt(len(weights))
    insist(bool((above < 4.5 * error + 1e-6).all()), f"its bound lies {float(above.max()):.3g} nats above log p(x)")
