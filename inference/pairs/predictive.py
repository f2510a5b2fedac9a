r"""What a fitted pair is for: generate, reconstruct, infer, impute, interpolate, traverse, probe.

Every function takes a checked pair, runs without gradients and in evaluation mode, and draws from its own seed.
Observations are shown as the mean of p(x|z), as the papers' figures do.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from pyro.distributions.torch_distribution import MaskedDistribution
from torch import Tensor
from torch.distributions import Independent

from ..random_state import RandomState
from .data import as_rows, chunks
from .finished import Finished, checked
from .pair import Pair
from .sites import ContractError, Data, as_data
from .unconstrained import flatten, unflatten

__all__ = [
    "Imputation",
    "decode",
    "draws",
    "generate",
    "imputations",
    "impute",
    "infer",
    "interpolate",
    "linear_probe",
    "nearest_neighbours",
    "reconstruct",
    "traverse",
]

_ROWS = 1000


def decode(pair: Finished, z: Tensor) -> Tensor:
    """The mean of p(x|z) at latents of the pair's one latent site.

    Args:
        pair: A run, or a checked pair.
        z: Latents ``[n, *event]``.

    Returns:
        Means ``[n, P]`` of the first observed site.
    """
    pair = checked(pair)
    if len(pair.latents) != 1:
        names = [site.name for site in pair.latents]
        raise ContractError(f"decode takes the latents of one site, but the model has {names}.")
    with pair.evaluation():
        return _means(pair, {pair.latents[0].name: z.unsqueeze(0)}, pair.blank(len(z)))


def generate(pair: Finished, num_points: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Draw datapoints from the model.

    Returns:
        Draws of p(x) ``[n, P]``, and the means of p(x|z) at the same latents ``[n, P]``.
    """
    pair = checked(pair)
    if num_points < 1:
        raise ValueError(f"num_points={num_points} must be at least 1.")
    blank = pair.blank(num_points)
    with RandomState(seed, blank[0].device), pair.evaluation():
        z, observed = pair.dream(blank)
        return observed[_shown(pair)][0], _means(pair, z, blank)


def infer(pair: Finished, data: Any, num_samples: int = 100, seed: int = 0) -> Tensor:
    """The guide's posterior mean of every datapoint, all latents side by side in unconstrained coordinates.

    Returns:
        Means ``[N, D]``.
    """
    pair = checked(pair)
    rows = as_rows(data, _device(pair))
    with RandomState(seed, _device(pair)), pair.evaluation():
        parts = chunks(rows, max(1, _ROWS // num_samples))
        return torch.cat([flatten(pair, pair.sample_guide(part, num_samples)).mean(0) for part in parts])


def draws(pair: Finished, data: Any, num_samples: int = 100, seed: int = 0) -> dict[str, Tensor]:
    """Draw from q(z|x) of every datapoint: latent site to ``[num_samples, N, *event]``."""
    pair = checked(pair)
    rows = as_rows(data, _device(pair))
    with RandomState(seed, _device(pair)), pair.evaluation():
        parts = [pair.sample_guide(part, num_samples) for part in chunks(rows, max(1, _ROWS // num_samples))]
        return {name: torch.cat([part[name] for part in parts], 1) for name in parts[0]}


def reconstruct(pair: Finished, data: Any, seed: int = 0) -> Tensor:
    """The mean of p(x|z) at one draw z ~ q(z|x) a datapoint, ``[N, P]``."""
    pair = checked(pair)
    rows = as_rows(data, _device(pair))
    with RandomState(seed, _device(pair)), pair.evaluation():
        return torch.cat([_means(pair, pair.sample_guide(part), part) for part in chunks(rows, _ROWS)])


def impute(pair: Finished, x: Tensor, num_rounds: int = 50, seed: int = 0) -> Tensor:
    r"""Fill the NaN entries of ``x`` with draws whose limit is p(x_missing | x_observed) when the guide is exact.

    A model that masks what is missing (``missing=True``) has q(z | x_observed) and is asked once. For any other the
    missing entries start at random observed values of their column; each round draws z ~ q(z|x) at the current x and
    then the missing entries from p(x|z).

    Args:
        pair: A run, or a checked pair whose first argument is ``x``.
        x: Data ``[N, P]``, NaN where missing.
        num_rounds: Rounds of the chain.
        seed: Of the draws.

    Returns:
        ``x`` with its observed entries untouched, ``[N, P]``; one draw, so its error is larger than that of the mean
        (:func:`imputations`).

    References:
        Stochastic Backpropagation and Approximate Inference in Deep Generative Models (Rezende, Mohamed & Wierstra,
        2014), sec. 6.2 and appendix F, https://arxiv.org/abs/1401.4082
    """
    pair = checked(pair)
    with RandomState(seed, x.device), pair.evaluation():
        return _filled(pair, x, num_rounds)[0]


class Imputation(NamedTuple):
    """Filled data: ``draws`` ``[num_draws, N, P]``, their ``mean`` and ``spread`` ``[N, P]``.

    ``mean`` estimates E[x_missing | x_observed] by the mean of p(x|z) at each draw's z, so that the noise of drawing x
    itself is not in it; ``spread`` is the standard deviation of the draws. Observed entries are as they are, with
    spread 0.
    """

    draws: Tensor
    mean: Tensor
    spread: Tensor


def imputations(pair: Finished, x: Tensor, num_draws: int = 100, num_rounds: int = 50, seed: int = 0) -> Imputation:
    """Fill the NaN entries of ``x`` many times over: independent chains of :func:`impute`, summed up.

    Args:
        pair: A run, or a checked pair whose first argument is ``x``.
        x: Data ``[N, P]``, NaN where missing.
        num_draws: Draws of the missing entries.
        num_rounds: Rounds of each chain.
        seed: Of the draws.

    Raises:
        ValueError: Everything is missing, or fewer than two draws are asked for, which have no spread.
    """
    pair = checked(pair)
    if num_draws < 2:
        raise ValueError(f"num_draws={num_draws} must be at least 2, or there is no spread.")
    drawn: list[Tensor] = []
    means: list[Tensor] = []
    with RandomState(seed, x.device), pair.evaluation():
        for part in x.split(max(1, _ROWS // num_draws)):
            for many, found in zip(_filled(pair, part.repeat(num_draws, 1), num_rounds), (drawn, means), strict=True):
                found.append(many.unflatten(0, (num_draws, len(part))))
    draws = torch.cat(drawn, 1)
    spread = torch.where(x.isnan(), draws.std(0), 0.0)
    return Imputation(draws, torch.cat(means, 1).mean(0).where(x.isnan(), x), spread)


def _filled(pair: Pair, x: Tensor, num_rounds: int) -> tuple[Tensor, Tensor]:
    """The data with a draw in place of each NaN, and with the mean of p(x|z) at the draw's z."""
    missing = x.isnan()
    if bool(missing.all()):
        raise ValueError("every entry is missing (NaN); nothing is left to condition on.")
    masks = _masks(pair)
    filled = x if masks else torch.where(missing, _observed_at_random(x), x)
    for _ in range(1 if masks else num_rounds):
        drawn, mean = _drawn(pair, filled)
        filled = torch.where(missing, drawn, x)
    return filled, torch.where(missing, torch.where(mean.isfinite(), mean, drawn), x)


def _observed_at_random(x: Tensor) -> Tensor:
    """For every entry an observed value of its column, or of any where its column has none."""
    seen = ~x.isnan()
    rows = torch.multinomial((seen | ~seen.any(0)).T.float(), len(x), replacement=True).T
    pool = x[seen]
    anywhere = pool[torch.randint(len(pool), x.shape, device=x.device)]
    return torch.where(seen.any(0), x.nan_to_num().gather(0, rows), anywhere)


def _masks(pair: Pair) -> bool:
    """Whether the model leaves missing entries out of its likelihood, so that the guide may be shown NaN."""
    shown: Any = pair.likelihoods(pair.sample_guide(pair.example), pair.example)[_shown(pair)]
    while hasattr(shown, "base_dist"):
        if isinstance(shown, MaskedDistribution):
            return True
        shown = shown.base_dist
    return False


def _drawn(pair: Pair, x: Tensor) -> tuple[Tensor, Tensor]:
    """One draw of p(x'|z) at one z ~ q(z|x) a datapoint, and the mean of p(x'|z) there."""
    shown: Any = pair.likelihoods(pair.sample_guide((x,)), (x,))[_shown(pair)]
    while isinstance(shown, Independent | MaskedDistribution):  # a mask says what was seen, not what can be drawn
        shown = shown.base_dist
    return shown.sample()[0].to(x.dtype), shown.mean[0].to(x.dtype)


def interpolate(pair: Finished, start: Tensor, end: Tensor, num_steps: int = 10, seed: int = 0) -> Tensor:
    """Means of p(x|z) along the straight line between two datapoints' posterior means.

    Args:
        pair: A run, or a checked pair.
        start: One datapoint ``[P]``.
        end: Another, ``[P]``.
        num_steps: Points on the line, both ends counted.
        seed: Of the draws that estimate the posterior means.

    Returns:
        Means ``[num_steps, P]``.
    """
    pair = checked(pair)
    ends = infer(pair, torch.stack([start, end]), num_samples=500, seed=seed)
    share = torch.linspace(0.0, 1.0, num_steps, device=ends.device).unsqueeze(-1)
    return _decode_free(pair, torch.lerp(ends[0], ends[1], share))


def traverse(pair: Finished, x: Tensor, values: Tensor, seed: int = 0) -> Tensor:
    """Means of p(x|z) as one latent dimension after the other is set to each of ``values``.

    Args:
        pair: A run, or a checked pair.
        x: The datapoint ``[P]`` whose posterior mean is where all other dimensions stay.
        values: Values of the moving dimension ``[V]``, in unconstrained coordinates.
        seed: Of the draws that estimate the posterior mean.

    Returns:
        Means ``[D, V, P]``.
    """
    pair = checked(pair)
    centre = infer(pair, x.unsqueeze(0), num_samples=500, seed=seed)[0]
    dim = len(centre)
    moved = centre.expand(dim, len(values), dim).clone()
    moved[torch.arange(dim), :, torch.arange(dim)] = values.to(centre)
    return _decode_free(pair, moved.reshape(-1, dim)).unflatten(0, (dim, len(values)))


def nearest_neighbours(latents: Tensor, queries: Tensor, num_neighbours: int = 5) -> Tensor:
    """The rows of ``latents`` ``[N, D]`` closest to each of ``queries`` ``[Q, D]``: indices ``[Q, k]``."""
    return torch.cdist(queries, latents).topk(num_neighbours, largest=False).indices


def linear_probe(train: Tensor, train_labels: Tensor, test: Tensor, test_labels: Tensor) -> float:
    """The test accuracy of a logistic regression on latents: how linearly the classes lie in latent space."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    probe.fit(train.cpu().numpy(), train_labels.cpu().numpy())
    return float(probe.score(test.cpu().numpy(), test_labels.cpu().numpy()))


def _decode_free(pair: Pair, u: Tensor) -> Tensor:
    with pair.evaluation():
        z, _ = unflatten(pair, u.unsqueeze(0))
        return _means(pair, z, pair.blank(len(u)))


def _means(pair: Pair, z: dict[str, Tensor], data: Data) -> Tensor:
    shown = pair.likelihoods(z, as_data(data))[_shown(pair)]
    mean: Tensor = shown.mean
    return mean.reshape(mean.shape[-1 - len(shown.event_shape)], -1)


def _shown(pair: Pair) -> str:
    return next(iter(pair.observed))


def _device(pair: Pair) -> torch.device:
    return pair.example[0].device
