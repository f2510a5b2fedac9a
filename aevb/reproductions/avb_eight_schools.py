r"""Eight schools, Figures 3 and 4 of Adversarial Variational Bayes: KL of four approximations to the HMC posterior.

    mu, tau, eta_j ~ N(0, 1),    y_j ~ N(mu + tau eta_j, sigma_j^2)

tau may be negative, so that the posterior has two mirrored modes. Mean-field and full-rank normals (Pyro's autoguides)
stand for the paper's ADVI; the reference is Pyro's NUTS, chains started at both signs of tau; the divergences are
nearest-neighbour estimates of KL(approximation || NUTS).

References:
    Adversarial Variational Bayes (Mescheder, Nowozin & Geiger, 2017), Figures 3 and 4, https://arxiv.org/abs/1701.04722
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

import aevb.data
from aevb.guides import ImplicitDistribution
from aevb.inference import AdversarialVB, sample_divergence
from aevb.inference.arviz_compat import convergence, inference_data
from aevb.inference.objectives.critics import ResidualCritic
from aevb.inference.pairs.pair import Pair
from aevb.inference.training.trainer import Fit
from aevb.models import eight_schools
from aevb.models.networks import MLP
from aevb.reproductions.table import Row, check_budget, write_table
from aevb.reproductions.training import train

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

__all__ = [
    "AVBSettings",
    "exact_divergence",
    "fit_avb",
    "fit_autoguide",
    "load",
    "log_marginal",
    "make_guide",
    "reference",
    "run",
]

PUBLISHED = {"mean-field VB": 1.13, "full-rank VB": 0.89, "AVB": 0.55, "AVB with adaptive contrast": 0.21}
NAMES = {"avb": "the notebook's sigma", "textbook": "the textbook's sigma"}
NORMALS = {
    "mean-field VB": pyro.infer.autoguide.AutoDiagonalNormal,
    "full-rank VB": pyro.infer.autoguide.AutoMultivariateNormal,
}
Data = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class AVBSettings:
    """Length, step sizes and critic of one adversarial run; the defaults are the authors'."""

    steps: int = 50_000
    lr: float = 1e-4
    critic_lr: float = 2e-4
    width: int = 256
    num_blocks: int = 5
    num_samples: int = 512
    critic_steps: int = 2
    decay: bool = False


QUICK = AVBSettings(
    steps=6_000, lr=5e-4, critic_lr=1e-3, width=128, num_blocks=2, num_samples=256, critic_steps=5, decay=True
)


def run(budget: str, out: Path, data_dir: str | Path | None = None) -> pd.DataFrame:
    """Fit the four approximations on both data sets, and write ``table.csv``, ``posteriors_*.png`` and ``nuts_*.nc``.

    Args:
        budget: ``"quick"`` (a quarter of an hour on a CPU) or ``"paper"`` (the authors' 50,000 iterations).
        out: Folder to write into.
        data_dir: Not needed: the data are eight numbers.

    Returns:
        The table.
    """
    from aevb.figures import save

    check_budget(budget)
    out = Path(out)
    settings = QUICK if budget == "quick" else AVBSettings()
    draws, rows = 4000 if budget == "quick" else 10_000, []
    for variant in NAMES:
        data = load(variant)
        chains = reference(data, draws, seed=0)
        rows += _agreement(chains, out / f"nuts_{variant}.nc", variant)
        sets = {"NUTS": chains.flatten(0, 1)}
        for name, family in NORMALS.items():
            normal = fit_autoguide(family, data)
            sets[name] = normal.sample((draws,))
            rows.append(
                Row(f"KL({name} || posterior), exact, {NAMES[variant]}", math.nan, *exact_divergence(normal, data))
            )
        sets["AVB"] = fit_avb(data, settings, draws, adaptive_contrast=False)
        sets["AVB with adaptive contrast"] = fit_avb(data, settings, draws, adaptive_contrast=True)
        save(draw_posteriors(sets), out / f"posteriors_{variant}.png")
        rows += _rows(sets, variant)
    return write_table(rows, budget, out)


def load(variant: str) -> Data:
    """Return the effects y and their standard errors, ``[1, 8]`` each; the variant is a key of ``NAMES``."""
    y, sigma = aevb.data.load("eight-schools", variant=variant).train[torch.tensor([0])]
    return y, sigma


def reference(data: Data, draws: int, seed: int, num_chains: int = 4, warmup: int = 500) -> Tensor:
    """Draw from the posterior by Pyro's NUTS, half of the chains started at each sign of tau: ``[chain, draw, 10]``."""
    from pyro.infer import MCMC, NUTS

    per_chain = math.ceil(draws / num_chains)
    chains = []
    for chain in range(num_chains):
        pyro.set_rng_seed(seed + chain)
        sign = 1.0 if chain % 2 == 0 else -1.0
        start = {"mu": torch.zeros(1), "tau": torch.full((1,), sign), "eta": 0.1 * sign * torch.randn(1, 8)}
        sampler = MCMC(NUTS(eight_schools), per_chain, warmup_steps=warmup, initial_params=start, disable_progbar=True)
        sampler.run(*data)
        z = sampler.get_samples()
        chains.append(torch.cat([z["mu"], z["tau"], z["eta"].squeeze(1)], dim=-1))
    return torch.stack(chains)


def fit_autoguide(family: Callable[..., Any], data: Data, steps: int = 4000) -> Any:
    """Fit one of Pyro's autoguides by SVI; return the normal over (mu, tau, eta), event shape ``[10]``."""
    pyro.set_rng_seed(0)
    pyro.clear_param_store()
    guide = family(eight_schools, init_loc_fn=pyro.infer.autoguide.init_to_sample, init_scale=0.1)
    optimizer = pyro.optim.ClippedAdam({"lr": 0.02, "lrd": 0.1 ** (1 / steps)})
    elbo = pyro.infer.Trace_ELBO(num_particles=16, vectorize_particles=True, max_plate_nesting=1)
    svi = pyro.infer.SVI(eight_schools, guide, optimizer, elbo)
    for _ in range(steps):
        svi.step(*data)
    pyro.clear_param_store()
    return guide.get_posterior()


def exact_divergence(normal: Any, data: Data, draws: int = 20_000) -> tuple[float, float]:
    """Return KL(normal || posterior) = log p(y) - ELBO with its Monte Carlo error; log p(y) is by quadrature."""
    with torch.no_grad():
        z = normal.sample((draws,))
        latents = {"mu": z[:, :1], "tau": z[:, 1:2], "eta": z[:, None, 2:]}
        log_weight = Pair(eight_schools).check(data).log_joint(latents, data)[:, 0] - normal.log_prob(z)
    return float(log_marginal(data) - log_weight.mean()), float(log_weight.std()) / draws**0.5


def log_marginal(data: Data, half_width: float = 6.0, nodes: int = 601) -> Tensor:
    """Return log p(y): y_j given mu, tau is N(mu, sigma_j^2 + tau^2), and mu and tau are integrated on a grid."""
    y, sigma = (part.double() for part in data)
    axis = torch.linspace(-half_width, half_width, nodes, dtype=torch.double)
    mu, tau = (grid.unsqueeze(-1) for grid in torch.meshgrid(axis, axis, indexing="ij"))
    log_joint = dist.Normal(mu, (sigma.square() + tau.square()).sqrt()).log_prob(y).sum(-1)
    log_joint = log_joint + sum(dist.Normal(0.0, 1.0).log_prob(grid).squeeze(-1) for grid in (mu, tau))
    value: Tensor = log_joint.logsumexp((0, 1)) + 2.0 * (axis[1] - axis[0]).log()
    return value


def make_guide() -> Callable[[Tensor, Tensor], None]:
    """Make an implicit guide of all ten latents: a plain Pyro program around one sampler."""
    network = MLP(10, 10, hidden=[128, 128], activation="elu")
    for layer in network.layers:  # draws as wide as the prior from the start: a point would be told apart at once
        if isinstance(layer, torch.nn.Linear):
            torch.nn.init.xavier_uniform_(layer.weight)
            torch.nn.init.zeros_(layer.bias)

    def guide(y: Tensor, sigma: Tensor) -> None:
        pyro.module("sampler", network)
        with pyro.plate("data", len(y), dim=-1):
            joint = ImplicitDistribution(lambda shape: network(torch.randn(*shape, 10)), (len(y),), (10,))
            z = pyro.sample("joint", joint, infer={"is_auxiliary": True})
            pyro.sample("mu", dist.Delta(z[..., 0]))
            pyro.sample("tau", dist.Delta(z[..., 1]))
            pyro.sample("eta", dist.Delta(z[..., 2:], event_dim=1))

    return guide


def fit_avb(data: Data, settings: AVBSettings, draws: int, *, adaptive_contrast: bool, seed: int = 0) -> Tensor:
    """Train the implicit guide by adversarial variational Bayes and draw from it, ``[draws, 10]``."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        guide = make_guide()
    objective = AdversarialVB(
        adaptive_contrast=adaptive_contrast,
        critic_steps=settings.critic_steps,
        critic=partial(ResidualCritic, width=settings.width, num_blocks=settings.num_blocks),
        num_samples=settings.num_samples,
        moment_samples=settings.num_samples,
    )
    adam = partial(torch.optim.Adam, betas=(0.5, 0.999), fused=True)
    loop = Fit(
        eight_schools,
        guide,
        tuple(part.expand(500, -1) for part in data),  # one datapoint; an epoch is five hundred looks at it
        objective=objective,
        optimizer={
            "model": partial(adam, lr=settings.lr),
            "guide": partial(adam, lr=settings.lr),
            "critic": partial(adam, lr=settings.critic_lr),
        },
        batch_size=1,
        steps=settings.steps,
        seed=seed,
        device="cpu",
        progress=False,
    )
    train(loop, decay=settings.decay)
    with loop.random, loop.pair.evaluation():
        z = loop.pair.sample_guide(data, draws)
    return torch.cat([z["mu"], z["tau"], z["eta"].squeeze(1)], dim=-1)


def draw_posteriors(sets: Mapping[str, Tensor]) -> Figure:
    """Draw the (mu, tau) and (tau, eta_1) marginals of every set of draws ``[n, 10]``, as in Figure 4."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2.4 * len(sets), 5.0), layout="constrained")
    axes = figure.subplots(2, len(sets), sharex="row", sharey="row", squeeze=False)
    for column, (name, draws) in enumerate(sets.items()):
        for row, (a, b, title) in enumerate([(0, 1, ("$\\mu$", "$\\tau$")), (1, 2, ("$\\tau$", "$\\eta_1$"))]):
            axis, bins = axes[row, column], np.linspace(-3.0, 3.0, 61)
            axis.hist2d(draws[:, a].numpy(), draws[:, b].numpy(), bins=[bins, bins], cmap="Blues")
            axis.set_xlabel(title[0])
            if column == 0:
                axis.set_ylabel(title[1])
        axes[0, column].set_title(name, fontsize=10)
    return figure


def _rows(sets: Mapping[str, Tensor], variant: str) -> list[Row]:
    truth, rows = sets["NUTS"], []
    for name, draws in sets.items():
        share = float((draws[:, 1] > 0).double().mean())
        if name != "NUTS":
            published = PUBLISHED[name] if variant == "avb" else math.nan
            rows.append(Row(f"KL({name} || NUTS), {NAMES[variant]}", published, *_divergence(draws, truth)))
        rows.append(Row(f"share of tau > 0, {name}, {NAMES[variant]}", 0.5, share))
    halves = sample_divergence(truth[::2], truth[1::2], k=5)
    rows.append(Row(f"KL(NUTS || NUTS), the estimator's own noise, {NAMES[variant]}", 0.0, halves))
    return rows


def _agreement(chains: Tensor, path: Path, variant: str) -> list[Row]:
    """Write the chains for ArviZ; the rows say whether they agree (the sign of tau is mixed as well)."""
    groups = {"posterior": {"mu": chains[..., 0], "tau": chains[..., 1], "eta": chains[..., 2:]}}
    values = {group: {name: value.numpy() for name, value in sites.items()} for group, sites in groups.items()}
    attrs = {"inference_library": "pyro", "sampler": "NUTS"}
    path.parent.mkdir(parents=True, exist_ok=True)
    inference_data(values, dims={"eta": ["school"]}, coords={"school": np.arange(8)}, attrs=attrs).to_netcdf(str(path))
    rhat, ess = convergence(chains)
    return [
        Row(f"NUTS, largest r-hat of ten, {NAMES[variant]}", math.nan, float(rhat.max())),
        Row(f"NUTS, smallest effective sample size of ten, {NAMES[variant]}", math.nan, float(ess.min())),
    ]


def _divergence(p: Tensor, q: Tensor) -> tuple[float, float]:
    """The divergence, and its standard error from four disjoint parts of the draws."""
    parts = torch.tensor([sample_divergence(p[i::4], q, k=5) for i in range(4)])
    return sample_divergence(p, q, k=5), float(parts.std() / 2.0)
