r"""Four patterns, Table 1 and Figure 5 of Adversarial Variational Bayes: a normal guide against one without a density.

The data are the four 2 x 2 images with one lit pixel, equally likely, so that log p(x) <= -log 4 = -1.386. Two latents
suffice where the four posteriors tile the prior; normal ones cannot, implicit ones can. log p(x) is by quadrature.

References:
    Adversarial Variational Bayes (Mescheder, Nowozin & Geiger, 2017), Table 1, https://arxiv.org/abs/1701.04722
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

import aevb.data
from aevb.guides import Implicit, Normal
from aevb.inference import SGVB, AdversarialVB, Fit, log_evidence, sample_divergence
from aevb.inference.evidence.quadrature import Quadrature
from aevb.inference.objectives.critics import ResidualCritic
from aevb.models import LatentVariableModel, likelihoods, networks, priors
from aevb.reproductions.table import Row, check_budget, write_table
from aevb.reproductions.training import train

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

__all__ = ["Settings", "draw_latents", "fit_avb", "fit_vae", "run"]

PUBLISHED = {
    "VAE": {
        "log-likelihood": -1.568,
        "reconstruction error per pixel": 88.5e-3,
        "ELBO": -1.697,
        "KL(q(z), p(z))": 0.165,
    },
    "AVB": {
        "log-likelihood": -1.403,
        "reconstruction error per pixel": 5.77e-3,
        "ELBO": -1.421,
        "KL(q(z), p(z))": 0.026,
    },
}
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")


@dataclass(frozen=True)
class Settings:
    """Length, batch, step sizes and critic; the defaults are the authors'."""

    steps: int = 100_000
    batch_size: int = 512
    lr: float = 2e-5
    critic_lr: float = 1e-4
    width: int = 256
    num_blocks: int = 5
    decay: bool = False


QUICK_AVB = Settings(steps=8000, batch_size=256, lr=1e-3, critic_lr=1e-3, width=128, num_blocks=2, decay=True)
QUICK_VAE = Settings(steps=12_000, lr=1e-4, decay=True)


def run(budget: str, out: Path, data_dir: str | Path | None = None) -> pd.DataFrame:
    """Train both, and write ``table.csv`` and ``latents.png``.

    Args:
        budget: ``"quick"`` (a few minutes on one core: fewer iterations, larger falling steps, a smaller critic) or
            ``"paper"`` (the authors' 100,000 iterations).
        out: Folder to write into.
        data_dir: Not needed: the data are sixteen numbers.

    Returns:
        The table.
    """
    from aevb.figures import save

    check_budget(budget)
    quick = budget == "quick"
    loops = {
        "VAE": fit_vae(QUICK_VAE if quick else Settings()),
        "AVB": fit_avb(QUICK_AVB if quick else Settings()),
    }
    rows = [row for name, loop in loops.items() for row in _rows(name, loop)]
    save(draw_latents(loops), Path(out) / "latents.png")
    return write_table(rows, budget, Path(out))


def fit_vae(settings: Settings, seed: int = 0) -> Fit:
    """Train the model with a normal guide."""
    model, network = _networks(seed, in_features=4)
    guide = Normal(2, network)
    adam = partial(torch.optim.Adam, lr=settings.lr, fused=True)
    loop = Fit(
        model,
        guide,
        _patterns(settings.batch_size),
        objective=SGVB(),
        optimizer=adam,
        steps=settings.steps,
        batch_size=settings.batch_size,
        seed=seed,
        device="cpu",
        progress=False,
    )
    return train(loop, decay=settings.decay)


def fit_avb(settings: Settings, seed: int = 0) -> Fit:
    """Train the model with a network of the image and 64 noise variables, by adversarial variational Bayes."""
    model, network = _networks(seed, in_features=4 + 64, out_features=2)
    objective = AdversarialVB(
        critic_steps=2,
        critic=partial(ResidualCritic, width=settings.width, num_blocks=settings.num_blocks),
        quadratic=1.0,
    )
    adam = partial(torch.optim.Adam, betas=(0.5, 0.999), fused=True)
    loop = Fit(
        model,
        Implicit(network, 2, 64),
        _patterns(settings.batch_size),
        objective=objective,
        optimizer={
            "model": partial(adam, lr=settings.lr),
            "guide": partial(adam, lr=settings.lr),
            "critic": partial(adam, lr=settings.critic_lr),
        },
        steps=settings.steps,
        batch_size=settings.batch_size,
        seed=seed,
        device="cpu",
        progress=False,
    )
    return train(loop, decay=settings.decay)


def draw_latents(loops: dict[str, Fit], num_samples: int = 1000) -> Figure:
    """Draw the latents of the four patterns, one colour each, beside each other for every run."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * len(loops) + 1.0, 4.6), layout="compressed")
    for axis, (name, loop) in zip(figure.subplots(1, len(loops), squeeze=False)[0], loops.items(), strict=True):
        z = _draws(loop, num_samples)
        for pattern, colour in enumerate(COLOURS):
            axis.scatter(*z[:, pattern].T.numpy(), s=3, c=colour, alpha=0.5, lw=0, label=f"pixel {pattern + 1}")
        axis.set(title=name, xlabel="$z_1$", ylabel="$z_2$", xlim=(-3.5, 3.5), ylim=(-3.5, 3.5), aspect="equal")
    axis.legend(markerscale=4, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def _networks(seed: int, in_features: int, out_features: int | None = None) -> tuple[LatentVariableModel, nn.Module]:
    """The model, and the body of its guide: three layers of 64 ELU units each."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        decoder = networks.MLP(2, 4, hidden=[64, 64, 64], activation="elu")
        model = LatentVariableModel(priors.StandardNormal(2), decoder, likelihoods.Bernoulli())
        return model, networks.MLP(in_features, out_features, hidden=[64, 64, 64], activation="elu")


def _patterns(batch_size: int) -> Tensor:
    """The population repeated, so that a batch may be larger than four and an epoch is fifty steps."""
    x = aevb.data.load("toy-patterns").train[torch.arange(4)]
    return torch.as_tensor(x).repeat(50 * batch_size // 4, 1)


def _draws(loop: Fit, num_samples: int) -> Tensor:
    """Draws of the guide for each pattern, ``[num_samples, 4, 2]``."""
    with loop.random, loop.pair.evaluation():
        return loop.pair.sample_guide(torch.eye(4), num_samples)["z"]


def _rows(name: str, loop: Fit) -> list[Row]:
    x = torch.eye(4)
    z = _draws(loop, 2500)
    with loop.pair.evaluation():
        log_lik = loop.pair.log_densities({"z": z}, x)[1]
    bound = loop.run.history["estimate" if name == "AVB" else "bound"].tail(10)
    marginal = sample_divergence(
        z.flatten(0, 1), torch.randn(10_000, 2, generator=torch.Generator().manual_seed(0)), k=5
    )
    ours = {
        "log-likelihood": (log_evidence(loop.pair.model, None, x, Quadrature()).mean, float("nan")),
        "reconstruction error per pixel": (
            -float(log_lik.mean()) / 4,
            float(log_lik.std()) / 4 / log_lik.numel() ** 0.5,
        ),
        "ELBO": (float(bound.mean()), float(bound.std()) / 10**0.5),
        "KL(q(z), p(z))": (marginal, float("nan")),
    }
    said = {"ELBO": "estimate of the ELBO (no bound)"} if name == "AVB" else {}
    return [Row(f"{name}: {said.get(key, key)}", PUBLISHED[name][key], *value) for key, value in ours.items()]
