r"""What adversarial variational Bayes promises without a family: the posterior itself, and T* = log q - log p.

    z ~ N(0, I) in two dimensions,    x | z ~ N(|z|, s^2)

The posterior is a ring, which no normal resembles. Only the guide is trained; log p(x) and p(z|x) are by quadrature, so
that the divergence of each guide to the exact posterior and the exact log-ratio at the optimum, log p(z|x) - log p(z),
are known on a grid.

References:
    Adversarial Variational Bayes (Mescheder, Nowozin & Geiger, 2017), Propositions 1 and 3,
    https://arxiv.org/abs/1701.04722
"""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from aevb.guides import Implicit, Normal
from aevb.inference import SGVB, AdversarialVB, Fit, sample_divergence
from aevb.inference.evidence import ELBO
from aevb.inference.objectives.critics import ResidualCritic
from aevb.models.networks import MLP
from aevb.reproductions.table import Row, check_budget, write_table
from aevb.reproductions.training import train

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from matplotlib.figure import Figure

__all__ = ["SCALE", "Grid", "best_normal", "exact_posterior", "fit_avb", "fit_normal", "learned_ratio", "ring", "run"]

SCALE = 0.3
STEPS = {"quick": 4000, "paper": 40_000}
TEST = torch.tensor([[0.5], [1.0], [1.5], [2.0]])


class Grid(NamedTuple):
    """Points ``z [G, 2]``, log p(z|x) ``[G, N]``, log p(x) ``[N]`` and the area of a cell."""

    z: Tensor
    log_posterior: Tensor
    log_evidence: Tensor
    cell: float


def ring(x: Tensor) -> None:
    """Run the model: the length of a two-dimensional latent, with noise."""
    with pyro.plate("data", len(x), dim=-1):
        z = pyro.sample("z", dist.Normal(x.new_zeros(2), x.new_ones(2)).to_event(1))
        pyro.sample("x", dist.Normal(z.norm(dim=-1, keepdim=True), SCALE).to_event(1), obs=x)


def exact_posterior(x: Tensor, half_width: float = 5.0, nodes: int = 251) -> Grid:
    """Return the posterior of data ``[N, 1]`` on a grid."""
    axis = torch.linspace(-half_width, half_width, nodes)
    z, cell = torch.cartesian_prod(axis, axis), float(axis[1] - axis[0]) ** 2
    log_prior = dist.Normal(0.0, 1.0).log_prob(z).sum(-1, keepdim=True)
    log_joint = log_prior + dist.Normal(z.norm(dim=-1, keepdim=True), SCALE).log_prob(x.T)
    log_evidence = log_joint.logsumexp(0) + math.log(cell)
    return Grid(z, log_joint - log_evidence, log_evidence, cell)


def run(budget: str, out: Path, data_dir: str | Path | None = None) -> pd.DataFrame:
    """Fit both guides, and write ``table.csv`` and ``posteriors.png``.

    Args:
        budget: ``"quick"`` (minutes on one core) or ``"paper"`` (ten times as long); no number was published.
        out: Folder to write into.
        data_dir: Not needed: the data are simulated.

    Returns:
        The table.
    """
    from aevb.figures import save

    check_budget(budget)
    steps = STEPS[budget]
    objective, loop = fit_avb(steps)
    normal, grid = fit_normal(steps), exact_posterior(TEST)
    save(draw_posteriors(loop, normal, grid), Path(out) / "posteriors.png")
    gap = grid.log_evidence - _bound(normal)
    rows = []
    for i, x in enumerate(TEST[:, 0].tolist()):
        estimate, error = _divergence(loop, grid, i)
        rows.append(Row(f"KL(AVB || posterior), x = {x}", math.nan, estimate, error))
        rows.append(Row(f"KL(amortized normal || posterior), x = {x}", math.nan, float(gap[i])))
        rows.append(Row(f"KL(best diagonal normal || posterior), x = {x}", math.nan, best_normal(grid, i)))
        learned, exact = learned_ratio(objective, loop, grid, i)
        correlation = float(torch.corrcoef(torch.stack([learned, exact]))[0, 1])
        rows.append(Row(f"correlation of T with log q - log p, x = {x}", 1.0, correlation))
    return write_table(rows, budget, Path(out))


def fit_avb(steps: int, seed: int = 0) -> tuple[AdversarialVB, Fit]:
    """Train an implicit guide, and keep the critic."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        guide = Implicit(MLP(1 + 8, 2, hidden=[64, 64], activation="elu"), 2, 8)
    critic = partial(ResidualCritic, width=64, num_blocks=2)
    objective = AdversarialVB(critic_steps=2, critic=critic)
    return objective, _train(guide, objective, steps, seed)


def fit_normal(steps: int, seed: int = 0) -> Fit:
    """Train a normal guide."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        guide = Normal(2, MLP(1, hidden=[64, 64], activation="elu"))
    return _train(guide, SGVB(num_samples=4), steps, seed)


def best_normal(grid: Grid, point: int) -> float:
    """The least KL to a posterior that any diagonal normal has, by quadrature and descent from several starts."""
    from scipy.optimize import minimize

    z, log_posterior = grid.z.double(), grid.log_posterior[:, point].double()

    def divergence(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        leaf = torch.tensor(parameters, requires_grad=True)
        log_q = dist.Normal(leaf[:2], leaf[2:].exp()).log_prob(z).sum(-1)
        value = (log_q.exp() * (log_q - log_posterior)).sum() * grid.cell
        value.backward()
        assert leaf.grad is not None
        return float(value.detach()), leaf.grad.numpy()

    radius = float(TEST[point])
    starts = [[0.0, 0.0, 0.0, 0.0], [radius, 0.0, -1.2, -0.5], [0.7 * radius, 0.7 * radius, -1.0, -1.0]]
    bounds = [(-3.0, 3.0)] * 2 + [(-2.0, 1.0)] * 2  # a narrower normal than four cells would slip through the grid
    return min(float(minimize(divergence, start, jac=True, bounds=bounds).fun) for start in starts)


def learned_ratio(objective: AdversarialVB, loop: Fit, grid: Grid, point: int) -> tuple[Tensor, Tensor]:
    """Return T and log p(z|x) - log p(z), at the grid points that hold 99.9 % of a posterior."""
    log_posterior = grid.log_posterior[:, point]
    order = log_posterior.argsort(descending=True)
    mass = (log_posterior[order].exp() * grid.cell).cumsum(0)
    held = order[: int((mass < 0.999).sum()) + 1]
    x, z = TEST[point : point + 1], grid.z[held].unsqueeze(1)
    with torch.no_grad():
        learned = objective.log_ratio(loop.memory, (x,), z).squeeze(-1)
    return learned, log_posterior[held] - dist.Normal(0.0, 1.0).log_prob(grid.z[held]).sum(-1)


def draw_posteriors(loop: Fit, normal: Fit, grid: Grid) -> Figure:
    """Draw the exact posteriors, and draws of both guides over them."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2.6 * len(TEST), 7.8), layout="constrained")
    axes, side = figure.subplots(3, len(TEST), sharex=True, sharey=True), int(len(grid.z) ** 0.5)
    for i, x in enumerate(TEST[:, 0].tolist()):
        density = grid.log_posterior[:, i].exp().reshape(side, side).T.numpy()
        axes[0, i].imshow(density, origin="lower", extent=(-5, 5, -5, 5), cmap="Blues")
        axes[0, i].set_title(f"x = {x}")
        for row, run in ((1, loop), (2, normal)):
            z = _draws(run, 2000)[:, i]
            axes[row, i].scatter(*z.T.numpy(), s=2, lw=0, alpha=0.5, c="#D55E00")
        for axis in axes[:, i]:
            axis.set(xlim=(-3.5, 3.5), ylim=(-3.5, 3.5), aspect="equal")
    for axis, name in zip(axes[:, 0], ("exact posterior", "AVB", "normal guide"), strict=True):
        axis.set_ylabel(name)
    return figure


def _train(guide: Implicit | Normal, objective: AdversarialVB | SGVB, steps: int, seed: int) -> Fit:
    generator = torch.Generator().manual_seed(seed)
    z, noise = (torch.randn(20_000, size, generator=generator) for size in (2, 1))
    adam = partial(torch.optim.Adam, lr=1e-3, betas=(0.5, 0.999), fused=True)
    x = z.norm(dim=-1, keepdim=True) + SCALE * noise
    loop = Fit(
        ring,
        guide,
        x,
        objective=objective,
        optimizer=adam,
        steps=steps,
        batch_size=512,
        seed=seed,
        device="cpu",
        progress=False,
    )
    return train(loop, decay=True)


def _draws(loop: Fit, count: int) -> Tensor:
    with loop.random, loop.pair.evaluation():
        return loop.pair.sample_guide(TEST, count)["z"]


def _bound(normal: Fit) -> Tensor:
    with normal.random, normal.pair.evaluation():
        return ELBO(20_000)(normal.pair, TEST).log_px


def _divergence(loop: Fit, grid: Grid, point: int, draws: int = 20_000) -> tuple[float, float]:
    """KL(guide || exact), by nearest neighbours among draws of the grid, and its standard error from four parts."""
    generator = torch.Generator().manual_seed(point)
    weights = grid.log_posterior[:, point].exp()
    nodes = grid.z[torch.multinomial(weights, draws, replacement=True, generator=generator)]
    exact = nodes + grid.cell**0.5 * (torch.rand(draws, 2, generator=generator) - 0.5)
    ours = _draws(loop, draws)[:, point]
    parts = torch.tensor([sample_divergence(ours[i::4], exact, k=5) for i in range(4)])
    return sample_divergence(ours, exact, k=5), float(parts.std() / 2.0)
