r"""The marginal likelihood by a density fitted to posterior draws.

    1 / p(x) = E_{p(z|x)} [ q(z) / p(x, z) ]     for any density q that is zero where the posterior is

Some posterior draws choose q; others, *fresh* ones, take the average. Were they the same, q would be high just where it
is averaged, and the estimate too low. Where q puts mass that the posterior does not have (its tails, the valley between
two modes) the ratio is huge and hardly ever drawn, and the plain average misses that mass. So ratios above a bound r
are left out of the average, and q's mass there, by draws of q itself, out of what the average must be:

    p(x) = P_q( q(z) / p(x, z) <= r )  /  E_{p(z|x)} [ q(z) / p(x, z) 1{ q(z) / p(x, z) <= r } ]

for any r that does not depend on the fresh draws: the largest ratio at those that q was fitted to. A density fitted to
draws is a poor one in many dimensions: so fewer than five.

References:
    Auto-Encoding Variational Bayes (Kingma & Welling, 2013), appendix D, https://arxiv.org/abs/1312.6114
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..pairs.data import Rows, chunks
from ..pairs.pair import Pair
from ..pairs.sites import Data
from ..pairs.unconstrained import flatten, log_density
from ..posterior.hmc import sample
from .errors import log_mean_errors, with_rounding
from .evidence import Evidence

__all__ = ["DensityFit"]

_MOST_DIMENSIONS = 4  # the appendix takes it for fewer than five
_KINDS = ("gaussian", "kde", "mixture")

_MASS_DRAWS = 500  # of q, which tell how much of its mass lies under the bound
_FEWEST_COVERED = 20  # of them, below which that mass is not known


class _Fitted(NamedTuple):
    """A density of one datapoint's latents, and how to draw from it: ``[S, D]``."""

    log_density: Callable[[np.ndarray], np.ndarray]
    draw: Callable[[int], np.ndarray]


@dataclass(frozen=True)
class DensityFit:
    """Fit a density to HMC draws of each posterior and average its ratio to the joint over fresh draws.

    Args:
        kind: ``"gaussian"``, ``"kde"`` (a normal kernel on every draw) or ``"mixture"`` (of normals).
        num_samples: Draws a datapoint that the density is fitted to, and again as many fresh ones.
        num_chains: Chains that make the former, and again as many for the latter.
        num_leapfrog: Leapfrog steps a transition.
        warmup: Transitions while each chain's step size is tuned.
        thin: Transitions a kept draw.
        num_components: Components of the mixture.
        rows: Chains of all datapoints that run at once; memory does not grow beyond them.

    Raises:
        ValueError: An argument is out of range, or the model has more than four latent dimensions.

    References:
        Auto-Encoding Variational Bayes (Kingma & Welling, 2013), appendix D, https://arxiv.org/abs/1312.6114
    """

    name = "density-fit"
    kind: str = "gaussian"
    num_samples: int = 50
    num_chains: int = 10
    num_leapfrog: int = 4
    warmup: int = 200
    thin: int = 10
    num_components: int = 2
    rows: int = 2000

    def __post_init__(self) -> None:
        if self.kind not in _KINDS:
            raise ValueError(f"kind={self.kind!r} is unknown; choose one of {', '.join(_KINDS)}.")
        for name in ("num_leapfrog", "warmup", "thin", "num_components", "rows"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1.")
        if self.num_chains < 2 or self.num_samples < self.num_chains:
            raise ValueError(
                f"num_chains={self.num_chains} must be at least 2 (the error is their spread), and "
                f"num_samples={self.num_samples} at least as many."
            )

    def __call__(self, pair: Pair, data: Rows) -> Evidence:
        """Estimate log p(x) of every datapoint."""
        dim = flatten(pair, pair.sample_prior(pair.blank(2))).shape[-1]
        if dim > _MOST_DIMENSIONS:
            raise ValueError(
                f"a density fit takes up to {_MOST_DIMENSIONS} latent dimensions, but this model has {dim}: a density "
                "fitted to draws misses the posterior by more with every dimension, and the average of its ratio to "
                "the joint is then ruled by a few draws; use annealed importance sampling, which does not mind."
            )
        points = max(1, self.rows // (2 * self.num_chains))
        parts = [self._log_ratios(pair, part) for part in chunks(data, points)]
        ratios, covered = (torch.cat(column, dim=-1) for column in zip(*parts, strict=True))  # [S, C, N], [N]
        by_chain = ratios.logsumexp(0) - math.log(len(ratios))
        mean = by_chain.logsumexp(0) - math.log(self.num_chains)
        every = ratios.flatten(0, 1)
        errors = log_mean_errors(by_chain)
        of_mass = ((1.0 - covered) / (covered * _MASS_DRAWS)).sqrt()
        of_mass[covered * _MASS_DRAWS < _FEWEST_COVERED] = math.nan
        found = Evidence(
            method="density-fit",
            direction="estimate",
            log_px=covered.log() - mean,
            num_samples=len(every),
            ess=(2 * every.logsumexp(0) - (2 * every).logsumexp(0)).exp(),
            notes=(
                f"{self.kind} density fitted to {len(every)} HMC draws, averaged over {len(every)} fresh ones; of its "
                f"mass {float(1 - covered.mean()):.0%} lies where they do not, and is left out; true where the chains "
                "have mixed",
            ),
            own_errors=torch.hypot(errors.own_errors, of_mass),
            scatter=torch.hypot(errors.scatter, of_mass),
            biases=errors.biases,
        )
        return with_rounding(found, pair)

    def _log_ratios(self, pair: Pair, part: Data) -> tuple[Tensor, Tensor]:
        """Bounded log-ratios log q(u) - log p(x, u) at fresh draws, and q's mass where the bound holds.

        Returns:
            ``[draws per chain, C, batch]``, minus infinity above the bound, and ``[batch]``, in float64 on the CPU.
        """
        density = log_density(pair, part)
        draw = pair.sample_prior if pair.guide is None else pair.sample_guide
        chains = sample(
            density,
            flatten(pair, draw(part, 2 * self.num_chains)),
            num_samples=-(-self.num_samples // self.num_chains),
            num_leapfrog=self.num_leapfrog,
            warmup=self.warmup,
            thin=self.thin,
        )
        to_fit, fresh = split_chains(chains.u)
        fitted = [self._fit(draws) for draws in _by_datapoint(to_fit)]
        seen, new = (self._ratios(density, fitted, u) for u in (to_fit, fresh))
        bound = seen.amax(0)
        made = np.stack([one.draw(_MASS_DRAWS) for one in fitted], axis=1)  # [M, batch, D]
        u = torch.from_numpy(made).to(to_fit).unflatten(0, (-1, self.num_chains))
        covered = (self._ratios(density, fitted, u) <= bound).double().mean(0)
        return torch.where(new <= bound, new, -math.inf).unflatten(0, (-1, self.num_chains)), covered

    def _ratios(self, density: Callable[[Tensor], Tensor], fitted: list[_Fitted], u: Tensor) -> Tensor:
        """Log-ratios at ``[S, C, batch, D]``: ``[S * C, batch]``."""
        log_joint = torch.stack([density(some) for some in u]).double().cpu().flatten(0, 1)
        log_q = [one.log_density(new.numpy()) for one, new in zip(fitted, _by_datapoint(u), strict=True)]
        return torch.from_numpy(np.stack(log_q, axis=-1)) - log_joint

    def _fit(self, draws: Tensor) -> _Fitted:
        """A density fitted to the draws ``[L, D]`` of one datapoint, in coordinates of their own mean and scales."""
        mean, scale = draws.mean(0).numpy(), draws.std(0).clamp(min=1e-12).numpy()
        standard = self._fit_standard((draws.numpy() - mean) / scale)
        return _Fitted(
            lambda u: standard.log_density((u - mean) / scale) - np.log(scale).sum(),
            lambda count: mean + scale * standard.draw(count),
        )

    def _fit_standard(self, v: np.ndarray) -> _Fitted:
        from scipy import stats

        seed = int(torch.randint(2**31 - 1, ()))
        if self.kind == "kde":
            kernels = stats.gaussian_kde(v.T)
            return _Fitted(lambda new: kernels.logpdf(new.T), lambda count: kernels.resample(count, seed).T)
        if self.kind == "mixture":
            return _mixture(v, self.num_components, seed)
        normal: Any = stats.multivariate_normal(v.mean(0), np.cov(v.T), allow_singular=True)
        return _Fitted(normal.logpdf, lambda count: normal.rvs(count, random_state=seed).reshape(count, -1))


def split_chains(u: Tensor) -> tuple[Tensor, Tensor]:
    """Draws ``[S, 2C, batch, D]`` as those that a density is fitted to and fresh ones, which are other chains'."""
    half = u.shape[1] // 2
    return u[:, :half], u[:, half:]


def _by_datapoint(u: Tensor) -> Tensor:
    """``[S, C, batch, D]`` as ``[batch, S * C, D]`` in float64 on the CPU."""
    return u.flatten(0, 1).movedim(1, 0).double().cpu()


def _mixture(v: np.ndarray, num_components: int, seed: int) -> _Fitted:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # any density serves; a better one only has less variance
        fitted = GaussianMixture(num_components, reg_covar=1e-3, random_state=seed).fit(v)
    return _Fitted(fitted.score_samples, lambda count: fitted.sample(count)[0])
