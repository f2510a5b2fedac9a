r"""Whether the model could have made the data: the same questions put to real data and to its own simulations.

1. The aggregate posterior: one z ~ q(z|x_i) a datapoint. Of a model that is right, those of real data and those of
   simulated data are one sample of one law (the prior, where the guide is right too).
2. The posterior predictive: p_i = P( log p(x_rep|z) <= log p(x_i|z) ), z ~ q(z|x_i), x_rep ~ p(x|z). Not uniform in
   general, since z has seen x_i; but of a model that is right the same on real and on simulated data.

An energy test says, by permutations, whether the two samples of each are of one law.
Whatever a poor guide does, it does to both alike, so what differs is the model's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..pairs.data import as_rows, chunks
from ..pairs.finished import Finished, checked
from ..pairs.pair import Pair
from ..pairs.sites import Data, as_data
from ..pairs.unconstrained import side_by_side
from ..random_state import RandomState
from .elbo_surgery import elbo_surgery

__all__ = ["ModelCheck", "check_model", "energy_test"]

_LEVEL = 0.01
_ROWS = 2000
_MOST = 1000  # draws of each sample that the energy test compares, all with all


@dataclass(frozen=True)
class ModelCheck:
    """Real data beside simulated ones.

    Args:
        marginal_kl: KL(qbar(z) || p(z)) of the real data's aggregate posterior, nats; not a number without a density.
        simulated_kl: The same of as many simulated datapoints: what a right model would have.
        aggregate_p: The p-value that both aggregate posteriors are one.
        p_values: Posterior predictive p-values of real datapoints, ``[N]``.
        simulated_p_values: Of simulated ones, ``[N]``.
        predictive_p: The p-value that both are one sample.
    """

    marginal_kl: float
    simulated_kl: float
    aggregate_p: float
    p_values: Tensor
    simulated_p_values: Tensor
    predictive_p: float

    @property
    def aggregate_fails(self) -> bool:
        """True where real datapoints lie elsewhere in latent space than simulated ones (level 0.01)."""
        return self.aggregate_p < _LEVEL

    @property
    def predictive_fails(self) -> bool:
        """True where real datapoints fit their own posterior predictive otherwise than simulated ones (level 0.01)."""
        return self.predictive_p < _LEVEL

    @property
    def fails(self) -> bool:
        """True where either fails."""
        return self.aggregate_fails or self.predictive_fails

    @property
    def sentences(self) -> tuple[str, str]:
        """One sentence for the latent side and one for the data side."""
        place = "elsewhere in latent space than" if self.aggregate_fails else "where"
        seen = "" if self.aggregate_fails else f", as far as {len(self.p_values)} of them can tell"
        told = (
            ""
            if math.isnan(self.marginal_kl)
            else (
                f"; the aggregate posterior is {self.marginal_kl:.2f} nats from the prior, that of simulations "
                f"{self.simulated_kl:.2f}"
            )
        )
        aggregate = (
            f"Real datapoints are inferred {place} the model's own simulations are{seen} (p = {self.aggregate_p:.2g}"
            f"{told})."
        )
        mean, simulated = float(self.p_values.mean()), float(self.simulated_p_values.mean())
        how = f"{self._better_or_worse()} than" if self.predictive_fails else "as well as"
        predictive = (
            f"They fit their own posterior predictive {how} simulated ones fit theirs (predictive p-values: mean "
            f"{mean:.2f} against {simulated:.2f}, p = {self.predictive_p:.2g})."
        )
        return aggregate, predictive

    def _better_or_worse(self) -> str:
        """On which side real p-values lie of simulated ones, where they lie on one."""
        difference = float(self.p_values.mean() - self.simulated_p_values.mean())
        error = math.hypot(*(float(p.std()) / math.sqrt(len(p)) for p in (self.p_values, self.simulated_p_values)))
        if not abs(difference) > 2 * error:
            return "otherwise"
        return "worse" if difference < 0 else "better"


def check_model(
    pair: Finished, data: Any, *, num_samples: int = 50, num_permutations: int = 499, seed: int = 0
) -> ModelCheck:
    """Put the questions.

    Args:
        pair: A run, or a checked pair with a guide.
        data: Real, best held-out datapoints; some hundreds see much.
        num_samples: Posterior draws per datapoint behind a predictive p-value.
        num_permutations: Of the energy test.
        seed: Of the draws.

    References:
        Posterior Predictive Assessment of Model Fitness via Realized Discrepancies (Gelman, Meng & Stern, 1996);
        Testing for Equal Distributions in High Dimension (Szekely & Rizzo, 2004); ELBO surgery (Hoffman & Johnson,
        2016)
    """
    pair = checked(pair)
    device = pair.example[0].device
    dataset = as_rows(data, device)
    with RandomState(seed, device), pair.evaluation():
        real = as_data(dataset[torch.arange(len(dataset), device=device)])
        _, simulated = pair.simulate(real)
        latents = [_one_draw_each(pair, rows) for rows in (real, simulated)]
        values = [_p_values(pair, rows, num_samples) for rows in (real, simulated)]
        aggregate_p, predictive_p = (
            energy_test(*(each[:_MOST] for each in both), num_permutations=num_permutations)
            for both in (latents, [value.unsqueeze(-1) for value in values])
        )
    kl = [float("nan")] * 2
    if pair.has_density:
        kl = [elbo_surgery(pair, rows, seed=seed).marginal_kl for rows in (real, simulated)]
    return ModelCheck(
        marginal_kl=kl[0],
        simulated_kl=kl[1],
        aggregate_p=aggregate_p,
        p_values=values[0],
        simulated_p_values=values[1],
        predictive_p=predictive_p,
    )


def energy_test(first: Tensor, second: Tensor, *, num_permutations: int = 499) -> float:
    """The p-value that two samples ``[n, D]`` and ``[m, D]`` are of one law, by permutations of the energy distance.

    Every column is brought to one scale first.
    """
    both = torch.cat([first, second]).double()
    both = (both - both.mean(0)) / both.std(0).clamp(min=1e-12)
    distances, n, m = torch.cdist(both, both), len(first), len(second)
    chosen = torch.rand(num_permutations, n + m).argsort(1)[:, :n]
    belongs = torch.zeros(1 + num_permutations, n + m, dtype=torch.float64)
    belongs[0, :n] = 1.0  # as they are; then as they are mixed
    belongs[1:].scatter_(1, chosen, 1.0)
    reach = belongs @ distances
    within = (reach * belongs).sum(1)
    across = reach.sum(1) - within
    others = distances.sum() - within - 2 * across
    energy = 2 * across / (n * m) - within / n**2 - others / m**2
    as_far = energy[1:] >= energy[0] - 1e-9 * distances.mean()  # one and the same but for rounding
    return (1 + int(as_far.sum())) / (1 + num_permutations)


def _one_draw_each(pair: Pair, rows: Data) -> Tensor:
    return torch.cat([side_by_side(pair.sample_guide(part))[0] for part in chunks(_as(rows), _ROWS)]).cpu()


def _p_values(pair: Pair, rows: Data, num_samples: int) -> Tensor:
    """P(log p(x_rep|z) <= log p(x|z)) of each datapoint; ties, which discrete data have, are broken at random."""
    found = []
    for part in chunks(_as(rows), max(1, _ROWS // num_samples)):
        z = pair.sample_guide(part, num_samples)
        told = pair.likelihoods(z, part)
        seen = pair.log_densities(z, part)[1]
        drawn = [fn.log_prob(fn.sample()) for fn in told.values()]
        again = sum((_per_datapoint(value, seen) for value in drawn[1:]), _per_datapoint(drawn[0], seen))
        ties = (again == seen).double() * torch.rand_like(seen, dtype=torch.float64)
        found.append(((again < seen).double() + ties).mean(0).cpu())
    return torch.cat(found)


def _per_datapoint(value: Tensor, like: Tensor) -> Tensor:
    """A log-density with its inner plates summed, ``[K, batch]``."""
    while value.dim() > like.dim():
        value = value.sum(1)
    return value


def _as(rows: Data) -> Any:
    return as_rows(rows, rows[0].device)
