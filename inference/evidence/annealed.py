r"""The marginal likelihood by annealed importance sampling.

A chain starts at a draw from a tractable density s(u) and is carried to the posterior along

    log f_b(u) = (1 - b) log s(u) + b log p(x, u),     0 = b_0 < b_1 < ... < b_T = 1,

by one HMC transition per temperature. Its weight is unbiased for p(x) (see :mod:`annealing`), so the logarithm of an
average of weights lies below log p(x) in expectation.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from ..pairs.data import Rows
from ..pairs.pair import Pair
from ..pairs.sites import Data, as_data
from ..progress import Progress
from ..random_state import RandomState
from .annealing import Annealing, Tick
from .annealing_path import SCHEDULES, START_DRAWS, STARTS, Path, ladder, path_from
from .errors import FEWEST_CHAINS, annealed_tail, log_mean_errors, with_rounding
from .evidence import Evidence
from .finished_chunks import FinishedChunks, digest

__all__ = ["AnnealedImportanceSampling"]

Weigh = Callable[[Data, Tick], Tensor]

_COUNTS = ("num_temperatures", "num_chains", "num_leapfrog", "num_tuning", "rows")


@dataclass(frozen=True)
class AnnealedImportanceSampling:
    """Anneal ``num_chains`` chains per datapoint from the prior or the guide to the posterior.

    Args:
        num_temperatures: Temperatures T above zero; where a guide (or its moments) is narrower than the posterior by
            more than so many make up for, the error is not known.
        num_chains: Chains C a datapoint; below 4 the error is not known.
        start: ``"guide"`` (an order of magnitude fewer temperatures do), ``"moments"`` (the normal with the mean and
            covariance of the guide's draws, no narrower than a tenth of the prior: for a guide that has no density) or
            ``"prior"`` (needs no guide).
        schedule: ``"sigmoid"`` crowds temperatures at both ends, ``"linear"`` spaces them evenly.
        num_leapfrog: Leapfrog steps a transition.
        target_accept: The acceptance that the separate run tunes each datapoint's step sizes to.
        num_tuning: Temperatures of the tuning run.
        rows: Chains of all datapoints that run at once; memory does not grow beyond them.
        checkpoint: A file that keeps what is finished, ``rows`` chains at a time: the same call goes on from it.
        progress: Show a progress bar, or a line now and then where there is no terminal.

    Raises:
        ValueError: An argument is out of range, ``start`` or ``schedule`` is unknown, or the checkpoint belongs to
            other settings.

    References:
        Annealed Importance Sampling (Neal, 2001); On the Quantitative Analysis of Decoder-Based Generative Models
        (Wu, Burda, Salakhutdinov & Grosse, 2017), sec. 3, https://arxiv.org/abs/1611.04273; Adversarial Variational
        Bayes (Mescheder, Nowozin & Geiger, 2017) for the moments, https://arxiv.org/abs/1701.04722
    """

    name = "ais"
    num_temperatures: int = 1000
    num_chains: int = 16
    start: str = "guide"
    schedule: str = "sigmoid"
    num_leapfrog: int = 10
    target_accept: float = 0.65
    num_tuning: int = 100
    rows: int = 2000
    checkpoint: str | None = None
    progress: bool = True

    def __post_init__(self) -> None:
        low = [f"{name}={getattr(self, name)}" for name in _COUNTS if getattr(self, name) < 1]
        if low:
            raise ValueError(f"{', '.join(low)} must be at least 1.")
        for name, known in (("start", STARTS), ("schedule", SCHEDULES)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name}={getattr(self, name)!r} is unknown; choose one of {', '.join(known)}.")
        if not 0.0 < self.target_accept < 1.0:
            raise ValueError(f"target_accept={self.target_accept} must lie in (0, 1).")

    @classmethod
    def in_verdict(cls, pair: Pair) -> dict[str, dict[str, Any]]:
        """Anneal from where chains start best, and from the prior, by fewer temperatures and chains."""
        # A guide without a density still has moments.
        best = "prior" if pair.guide is None else "guide" if pair.has_density else "moments"
        short = {"num_temperatures": 300, "num_chains": 8}
        return {f"{cls.name} from the {start}": {**short, "start": start} for start in dict.fromkeys([best, "prior"])}

    def __call__(self, pair: Pair, data: Rows) -> Evidence:
        """Estimate log p(x) of every datapoint."""

        def weigh(part: Data, tick: Tick) -> Tensor:
            chains = self.annealing(pair, part, tick)
            return torch.cat([chains.forward(), self.start_khat(chains.path)])

        log_weights, khat = self.chunked(pair, data, weigh, self.num_temperatures).split([self.num_chains, 1])
        return with_rounding(self.evidence(log_weights, khat[0]), pair)

    def start_khat(self, path: Path) -> Tensor:
        """k-hat of the start's weights ``[1, batch]``; those of the prior, likelihoods, are taken to have no tail."""
        points = len(path.scale)
        if self.start == "prior":
            return torch.full((1, points), -torch.inf, dtype=torch.float64)
        return path.start_khat(max(self.num_chains, self.rows // points)).unsqueeze(0)

    def evidence(self, log_weights: Tensor, start_khat: Tensor) -> Evidence:
        """The evidence that the log-weights ``[C, N]`` of forward chains are, from a start of such k-hat ``[N]``."""
        total = log_weights.logsumexp(0)
        tail = annealed_tail(start_khat, START_DRAWS, ladder(self.num_temperatures, self.schedule))
        errors = log_mean_errors(log_weights, unseen=tail)
        return Evidence(
            method="ais",
            direction="lower bound",
            log_px=total - math.log(self.num_chains),
            num_samples=self.num_chains,
            ess=(2 * total - (2 * log_weights).logsumexp(0)).exp(),
            notes=(
                f"{self.num_temperatures} temperatures from the {self.start}, {self.num_chains} chains per datapoint",
            ),
            why_unknown=self._why_unknown(errors.own_errors, tail),
            **errors._asdict(),
        )

    def _why_unknown(self, errors: Tensor, tail: Tensor) -> str:
        """Why errors ``[N]`` are not known, where more than the number of chains is to blame."""
        if self.num_chains < FEWEST_CHAINS or not bool(tail.isnan().any()):
            return ""
        scattered = bool((errors.isnan() & ~tail.isnan()).any())
        return (
            f"num_samples={self.num_chains} is too few for how much such weights scatter, or " if scattered else ""
        ) + (
            f"the {self.start} is narrower there than the posterior, by more than num_temperatures="
            f"{self.num_temperatures} make up for; take more of them, or start='prior'"
        )

    def annealing(self, pair: Pair, part: Data, tick: Tick = lambda: None) -> Annealing:
        """The chains of a few datapoints, their step sizes tuned."""
        moves = self.num_temperatures + 3 * self.num_tuning
        return Annealing(
            path_from(pair, part, self.start, self.num_chains, evaluations=moves * self.num_leapfrog),
            schedule=self.schedule,
            num_temperatures=self.num_temperatures,
            num_tuning=self.num_tuning,
            num_chains=self.num_chains,
            num_leapfrog=self.num_leapfrog,
            target_accept=self.target_accept,
            tick=tick,
        )

    def chunked(self, pair: Pair, data: Rows, weigh: Weigh, num_ticks: int) -> Tensor:
        """Weigh all datapoints, a few at a time, and keep what is finished in the checkpoint.

        Each chunk has a random stream of its own, so its numbers are the same whether or not others were run before.

        Args:
            pair: A checked pair.
            data: The datapoints.
            weigh: From some of them to log-weights ``[C, batch]``.
            num_ticks: How often that calls its tick, for the progress bar.

        Returns:
            Log-weights ``[C, N]`` in float64 on the CPU.
        """
        stream, device = _stream(), pair.example[0].device
        kept = self._kept(pair, len(data), stream, num_ticks)
        chunks = torch.arange(len(data)).split(max(1, self.rows // self.num_chains))
        found = []
        with Progress(len(chunks) * num_ticks, self.rows, enabled=self.progress) as bar:
            for index, rows in enumerate(chunks):
                with RandomState(stream + index, device):
                    part = as_data(data[rows])
                    log_weights = kept.get(index, part)
                    if log_weights is None:
                        log_weights = weigh(part, _ticker(bar, index * num_ticks)).cpu()
                        kept.put(index, part, log_weights)
                found.append(log_weights)
        return torch.cat(found, dim=1)

    def _kept(self, pair: Pair, num_points: int, stream: int, num_ticks: int) -> FinishedChunks:
        """What an earlier run finished; the numbers depend on all that is compared here."""
        if self.checkpoint is None:
            return FinishedChunks(None, {})
        settings = {name: value for name, value in asdict(self).items() if name not in ("checkpoint", "progress")}
        settings |= {"num_points": num_points, "random_stream": stream, "ticks": num_ticks, "parameters": digest(pair)}
        settings["start_draws"] = START_DRAWS
        return FinishedChunks(self.checkpoint, settings)


def _stream() -> int:
    """A seed for the chunks' streams, drawn from the stream at hand."""
    return int(torch.randint(2**40, ()))


def _ticker(bar: Progress, done: int) -> Tick:
    count = done

    def tick() -> None:
        nonlocal count
        count += 1
        bar.advance(count, {})

    return tick
