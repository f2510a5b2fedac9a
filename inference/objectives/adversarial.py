r"""Adversarial variational Bayes: a guide without a density, its log-ratio learned by a critic T.

    critic (eq. 3.3):   max  E_q log s(T(x, z)) + E_p(z) log(1 - s(T(x, z)))        =>  T* = log q(z|x) - log p(z)
    model and guide:    max  E_q[ log p(x|z) - T(x, z) ]

With adaptive contrast the critic compares the standardised draw z^ = (z - mu(x)) / s(x) with N(0, I), a smaller gap:

    model and guide:    max  E_q[ log p(x, z) - T(x, z^) - log N(z; mu(x), s(x)^2) ].

No gradient flows through the critic's parameters in the second line (at T* its expectation is zero), nor through mu, s.
All latents are taken on the real line, side by side, where log-ratios are the same; several sites and constrained
supports need nothing of their own.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.distributions import constraints
from torch.nn import functional

from ..pairs.data import Rows, Tensors
from ..pairs.pair import Pair
from ..pairs.sites import Data
from ..pairs.unconstrained import flatten, log_density
from .critic_watch import CriticWatch
from .critics import CriticFactory, ResidualCritic
from .objective import Batch, Phase

if TYPE_CHECKING:
    import pandas as pd

    from ..evidence import Evidence

__all__ = ["AdversarialVB", "warn_if_above"]

_VARIANCE_FLOOR = 1e-4


class _Memory(nn.Module):
    """The critic, a player of its own, and whether the prior has parameters."""

    def __init__(self, critic: nn.Module, learned_prior: bool) -> None:
        super().__init__()
        self.critic = critic
        self.learned_prior = learned_prior


class _Contrast(NamedTuple):
    """The Gaussian r(z|x) with the guide's mean and variance, ``[batch, D]`` each, no gradients."""

    mean: Tensor
    scale: Tensor

    def standardise(self, u: Tensor) -> Tensor:
        return (u - self.mean) / self.scale

    def log_prob(self, u: Tensor) -> Tensor:
        squares = self.standardise(u).square() + 2.0 * self.scale.log() + math.log(2.0 * math.pi)
        return -0.5 * squares.sum(-1)


@dataclass(frozen=True, kw_only=True)
class AdversarialVB:
    """Train a pair whose guide can only be drawn from, against a critic that learns the log-ratio it lacks.

    The history's ``estimate`` stands where other objectives have a bound. It rests on the trained critic and **is no
    bound**: a weak critic puts it above log p(x). Hold it against annealed importance sampling (:func:`warn_if_above`).

    Args:
        adaptive_contrast: Compare with a Gaussian of the guide's own mean and variance (Algorithm 2) instead of the
            prior (Algorithm 1): for guides much narrower than the prior.
        critic_steps: Critic updates a step.
        critic: What learns T: a function from the number of data and of latent dimensions to a module, or a module (a
            copy of it is trained), called as ``critic(*data, z)``.
        quadratic: The fixed term ``quadratic * |z|^2`` in T; 1/2 leaves log q(z|x) to the network where the reference
            is a standard normal.
        num_samples: Draws a datapoint.
        moment_samples: Draws a datapoint for the contrast's moments, where the guide does not know them.
        patience: Steps a critic may stay saturated or diverged before the run is stopped; ``None``: for ever.

    Example:
        >>> AdversarialVB(adaptive_contrast=True, critic_steps=2).trains == {"model", "guide", "critic"}
        True

    References:
        Adversarial Variational Bayes: Unifying Variational Autoencoders and Generative Adversarial Networks (Mescheder,
        Nowozin & Geiger, 2017), eqs. (3.3), (3.7), Algorithms 1 and 2, https://arxiv.org/abs/1701.04722
    """

    name = "avb"
    adaptive_contrast: bool = False
    critic_steps: int = 1
    critic: nn.Module | CriticFactory = ResidualCritic
    quadratic: float = 0.5
    num_samples: int = 1
    moment_samples: int = 32
    patience: int | None = 5000

    def __post_init__(self) -> None:
        if min(self.critic_steps, self.num_samples) < 1 or self.moment_samples < 2:
            raise ValueError(
                f"critic_steps={self.critic_steps} and num_samples={self.num_samples} must be at least 1, "
                f"moment_samples={self.moment_samples} at least 2."
            )
        if self.quadratic < 0.0:
            raise ValueError(f"quadratic={self.quadratic} must not be negative.")

    @property
    def trains(self) -> frozenset[str]:
        """Model, guide and critic."""
        return frozenset({"model", "guide", "critic"})

    @property
    def evaluations_per_visit(self) -> int:
        """One an update of the critic, and one of model and guide."""
        return self.critic_steps + 1

    @property
    def observers(self) -> tuple[CriticWatch, ...]:
        """The observer that ends a run whose critic has failed."""
        return () if self.patience is None else (CriticWatch(self.patience),)

    def start(self, pair: Pair, data: Rows) -> nn.Module:
        """Make the critic, sized for the data and the latents.

        Raises:
            ValueError: The guide's draws carry no gradient, or the data hold NaN that the critic does not bear.
        """
        stuck = [site.name for site in pair.latents if not site.has_rsample]
        if stuck:
            raise ValueError(f"AdversarialVB needs reparameterised latents, but the guide's {stuck} have no rsample.")
        example = pair.blank(2)
        with pair.evaluation():
            z = pair.sample_guide(example)
            with torch.enable_grad():
                learned_prior = pair.log_densities(z, example)[0].requires_grad
        if isinstance(self.critic, nn.Module):
            memory = _Memory(copy.deepcopy(self.critic), learned_prior)
        else:
            data_dim = sum(part[0].numel() for part in example)
            memory = _Memory(self.critic(data_dim, flatten(pair, z).shape[-1]), learned_prior)
            memory.to(flatten(pair, z).dtype)
        self._insist_on_ratios(pair, data, memory.to(example[0].device))
        return memory

    def _insist_on_ratios(self, pair: Pair, data: Rows, memory: nn.Module) -> None:
        """Refuse missing entries that a model may mask and a critic, which is shown the data, does not."""
        rows = _rows_with_holes(pair, data)
        if not len(rows[0]):
            return
        with torch.no_grad():
            ratio = self.log_ratio(memory, rows, flatten(pair, pair.sample_guide(rows)))
        if bool(ratio.isnan().any()):
            raise ValueError(
                "AdversarialVB shows its critic the data, which hold NaN (missing entries), and this critic makes "
                "NaN of them. Pass critic=..., a module that fills them in (x.nan_to_num()), or train a guide with "
                "a density by SGVB."
            )

    def __call__(self, pair: Pair, batch: Batch, memory: nn.Module) -> Iterator[Phase]:
        """Yield ``critic_steps`` phases of the critic, then one for model and guide."""
        mine = cast(_Memory, memory)
        contrast = self._contrast(pair, batch.data) if self.adaptive_contrast else None
        for _ in range(self.critic_steps):
            yield self._critic_phase(pair, batch.data, mine, contrast)
        yield self._guide_phase(pair, batch.data, mine, contrast)

    def log_ratio(self, memory: nn.Module, data: Data, u: Tensor) -> Tensor:
        """The critic's T at latents on the real line ``[num_samples, batch, D]`` (standardised, under contrast)."""
        critic = cast(Any, memory).critic
        value: Tensor = critic(*data, u) + self.quadratic * u.square().sum(-1)
        return value

    def _critic_phase(self, pair: Pair, data: Data, memory: _Memory, contrast: _Contrast | None) -> Phase:
        with torch.no_grad():
            u = flatten(pair, pair.sample_guide(data, self.num_samples))
            if contrast is None:
                reference = flatten(pair, pair.sample_prior(data, self.num_samples))
            else:
                u, reference = contrast.standardise(u), torch.randn_like(u)
        drawn, referred = self.log_ratio(memory, data, torch.cat([u, reference])).split(self.num_samples)
        loss = functional.softplus(-drawn).mean() + functional.softplus(referred).mean()
        told_apart = 0.5 * ((drawn > 0).to(loss).mean() + (referred < 0).to(loss).mean())
        return Phase({"critic": loss}, {"critic_loss": loss.detach(), "critic_accuracy": told_apart})

    def _guide_phase(self, pair: Pair, data: Data, memory: _Memory, contrast: _Contrast | None) -> Phase:
        z = pair.sample_guide(data, self.num_samples)
        u = flatten(pair, z)
        if contrast is None:
            log_ratio = self.log_ratio(memory, data, u)
            estimate = pair.log_densities(z, data)[1] - log_ratio
            if memory.learned_prior:  # T stands for log q - log p(z) at the prior's present value: add its gradient
                log_prior = pair.log_densities({name: value.detach() for name, value in z.items()}, data)[0]
                estimate = estimate + log_prior - log_prior.detach()
        else:
            log_ratio = self.log_ratio(memory, data, contrast.standardise(u))
            estimate = log_density(pair, data)(u) - log_ratio - contrast.log_prob(u)
        loss = -estimate.mean()
        report = {"estimate": -loss.detach(), "log_ratio": log_ratio.detach().mean()}
        return Phase({"model": loss, "guide": loss}, report)

    def _contrast(self, pair: Pair, data: Data) -> _Contrast:
        with torch.no_grad():
            mean, variance = _known_moments(pair, data) or _drawn_moments(pair, data, self.moment_samples)
        return _Contrast(mean, (variance + _VARIANCE_FLOOR).sqrt())


def warn_if_above(history: pd.DataFrame, evidence: Evidence, epochs: int = 10) -> float:
    """Compare an adversarial run's estimate with an evidence of the same data, and warn where it stands above.

    Args:
        history: The run's history.
        evidence: log p(x) by a method that needs no guide density, e.g. annealed importance sampling.
        epochs: Last epochs whose estimates are averaged.

    Returns:
        Estimate minus evidence, nats per datapoint; above zero the critic was too weak.

    Raises:
        ValueError: The history is of another objective.
    """
    if "estimate" not in history:
        raise ValueError(
            f"expected the history of AdversarialVB, with a column 'estimate'; got {list(history.columns)}."
        )
    excess = float(history["estimate"].tail(epochs).mean()) - evidence.mean
    noise = 0.0 if math.isnan(evidence.standard_error) else 2.0 * evidence.standard_error
    if excess > noise:
        warnings.warn(
            f"the adversarial estimate is {excess:.2f} nats above log p(x) by {evidence.method}: the critic was too "
            "weak, so report the evidence and not the estimate; a larger critic or more critic_steps closes the gap.",
            RuntimeWarning,
            stacklevel=2,
        )
    return excess


def _rows_with_holes(pair: Pair, data: Rows) -> Data:
    """Two rows that hold NaN, if there are any; of data that are drawn afresh only the example is looked at."""
    parts = (data,) if isinstance(data, Tensor) else data.parts if isinstance(data, Tensors) else pair.example
    holed = [part.isnan().reshape(len(part), -1).any(1) for part in parts]
    rows = torch.stack(holed).any(0).nonzero().squeeze(1)[:2]
    return tuple(part[rows] for part in parts)


def _known_moments(pair: Pair, data: Data) -> tuple[Tensor, Tensor] | None:
    """The guide's own mean and variance ``[batch, D]``, where its one site knows them and lies on the real line."""
    if len(pair.latents) != 1 or pair.guide is None:
        return None
    site = pair.latents[0]
    sites = pair.trace(pair.guide, data, 1)
    moments = getattr(sites[site.name]["fn"], "moments", None)
    if len(sites) != 1 or moments is None or not _is_real(site.support):
        return None
    known = moments()
    return None if known is None else tuple(m.reshape(len(data[0]), -1) for m in known)


def _drawn_moments(pair: Pair, data: Data, num_samples: int) -> tuple[Tensor, Tensor]:
    variance, mean = torch.var_mean(flatten(pair, pair.sample_guide(data, num_samples)), dim=0)
    return mean, variance


def _is_real(support: Any) -> bool:
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    return support is constraints.real or support is constraints.real_vector
