r"""The marginal likelihood by a density fitted to posterior draws.

    1 / p(x) = E_{p(z|x)} [ q(z) / p(x, z) ]     for any density q that is zero where the posterior is

Some posterior draws choose q; others, *fresh* ones, take the average. Were they the same, q would be high just where it
is averaged, and the estimate too low. The average is finite in variance only while q has no heavier tails than the
posterior, and a density fitted to draws is a poor one in many dimensions: so fewer than five.

References:
    Auto-Encoding Variational Bayes (Kingma & Welling, 2013), appendix D, https://arxiv.org/abs/1312.6114
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..arviz_compat import pareto_khat
from ..pairs.data import Rows, chunks
from ..pairs.pair import Pair
from ..pairs.sites import Data
from ..pairs.unconstrained import flatten, log_density
from ..posterior.hmc import sample
from .errors import FEWEST_FOR_KHAT, log_mean_errors, with_rounding
from .evidence import Evidence

__all__ = ["DensityFit"]

_MOST_DIMENSIONS = 4  # the appendix takes it for fewer than five
_KINDS = ("gaussian", "kde", "mixture")

LogDensity = Callable[[np.ndarray], np.ndarray]


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
        ratios = torch.cat([self._log_ratios(pair, part) for part in chunks(data, points)], dim=-1)  # [S, C, N]
        by_chain = ratios.logsumexp(0) - math.log(len(ratios))
        mean = by_chain.logsumexp(0) - math.log(self.num_chains)
        every = ratios.flatten(0, 1)
        errors = log_mean_errors(by_chain)
        found = Evidence(
            method="density-fit",
            direction="estimate",
            log_px=-mean,
            num_samples=len(every),
            ess=(2 * every.logsumexp(0) - (2 * every).logsumexp(0)).exp(),
            khat=pareto_khat(every.T) if len(every) >= FEWEST_FOR_KHAT else None,
            notes=(
                f"{self.kind} density fitted to {len(every)} HMC draws, averaged over {len(every)} fresh ones; above "
                "log p(x) in expectation where the chains have mixed",
            ),
            **errors._asdict(),
        )
        return with_rounding(found, pair)

    def _log_ratios(self, pair: Pair, part: Data) -> Tensor:
        """Log-ratios log q(u) - log p(x, u) at fresh draws: ``[draws per chain, C, batch]`` in float64 on the CPU."""
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
        log_joint = torch.stack([density(u) for u in fresh]).double().cpu()
        log_q = [
            self._fit(fitted)(new.numpy())
            for fitted, new in zip(_by_datapoint(to_fit), _by_datapoint(fresh), strict=True)
        ]
        return torch.from_numpy(np.stack(log_q, axis=-1)).reshape(log_joint.shape) - log_joint

    def _fit(self, draws: Tensor) -> LogDensity:
        """A density fitted to the draws ``[L, D]`` of one datapoint, in coordinates of their own mean and scales."""
        mean, scale = draws.mean(0).numpy(), draws.std(0).clamp(min=1e-12).numpy()
        fitted = self._fit_standard((draws.numpy() - mean) / scale)
        return lambda u: fitted((u - mean) / scale) - np.log(scale).sum()

    def _fit_standard(self, v: np.ndarray) -> LogDensity:
        from scipy import stats

        if self.kind == "kde":
            kernels = stats.gaussian_kde(v.T)
            return lambda new: kernels.logpdf(new.T)
        if self.kind == "mixture":
            return _mixture(v, self.num_components)
        normal: Any = stats.multivariate_normal(v.mean(0), np.cov(v.T), allow_singular=True)
        return lambda new: normal.logpdf(new)


def split_chains(u: Tensor) -> tuple[Tensor, Tensor]:
    """Draws ``[S, 2C, batch, D]`` as those that a density is fitted to and fresh ones, which are other chains'."""
    half = u.shape[1] // 2
    return u[:, :half], u[:, half:]


def _by_datapoint(u: Tensor) -> Tensor:
    """``[S, C, batch, D]`` as ``[batch, S * C, D]`` in float64 on the CPU."""
    return u.flatten(0, 1).movedim(1, 0).double().cpu()


def _mixture(v: np.ndarray, num_components: int) -> LogDensity:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # any density serves; a better one only has less variance
        fitted = GaussianMixture(num_components, reg_covar=1e-3, random_state=0).fit(v)
    return lambda new: fitted.score_samples(new)
