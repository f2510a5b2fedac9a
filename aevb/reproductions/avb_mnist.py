r"""Dynamically binarised MNIST, Table 2 of Adversarial Variational Bayes: a normal guide against an implicit one.

The published rows do not share an encoder and a decoder; here they do, so that the difference is the guide's: a normal
trained by SGVB against a noise basis trained by AVB with adaptive contrast. log p(x) of both is by annealed importance
sampling from the moment-matched start, which needs no density of the guide.

References:
    Adversarial Variational Bayes (Mescheder, Nowozin & Geiger, 2017), Table 2, https://arxiv.org/abs/1701.04722
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

import aevb.data
from aevb.data import Dataset
from aevb.guides import NoiseBasis, Normal
from aevb.inference import SGVB, AdversarialVB, Fit, log_evidence
from aevb.inference.evidence import Estimator, Evidence
from aevb.inference.objectives import Objective, warn_if_above
from aevb.inference.objectives.critics import InnerProductCritic
from aevb.models import LatentVariableModel, likelihoods, networks, priors
from aevb.reproductions.table import Row, check_budget, write_table
from aevb.reproductions.training import train

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Settings", "fit_guide", "make_pair", "run"]

PUBLISHED = {  # (log p(x) by AIS, what training reports)
    ("AVB + AC", 8): (-89.6, -96.3),
    ("AVB + AC", 32): (-80.2, -79.5),
    ("VAE", 8): (-90.9, -98.1),
    ("VAE", 32): (-81.9, -87.2),
}


@dataclass(frozen=True)
class Settings:
    """One comparison: networks, length and step sizes, the same for both guides; the defaults are the paper's scale."""

    latent_dim: int = 8
    convolutional: bool = True
    hidden: tuple[int, ...] = (512, 512)
    num_bases: int = 16
    noise_dim: int = 32
    basis_width: int = 128
    shift: float = 5.0
    critic_hidden: tuple[int, ...] = (1024, 1024, 1024)
    inner_dim: int = 8192
    steps: int = 2_500_000
    batch_size: int = 128
    lr: float = 5e-5
    critic_lr: float = 1e-4
    decay: bool = False
    test_points: int = 2560
    temperatures: int = 2000
    chains: int = 8


PAPER = (Settings(), Settings(latent_dim=32, num_bases=32, noise_dim=64))
QUICK = (
    Settings(
        convolutional=False,
        hidden=(300, 300),
        basis_width=64,
        shift=2.0,
        critic_hidden=(256, 256),
        inner_dim=256,
        steps=12_000,
        lr=5e-4,
        critic_lr=1e-3,
        decay=True,
        test_points=500,
        temperatures=300,
        chains=4,
    ),
)


def run(
    budget: str, out: Path, data_dir: str | Path | None = None, settings: tuple[Settings, ...] | None = None
) -> pd.DataFrame:
    """Train both guides at equal length, and write ``table.csv`` and ``samples_*.png``.

    A run that is stopped goes on from its last epoch when the same folder is given again.

    Args:
        budget: ``"quick"`` (perceptrons, 12,000 steps, 500 test points: about half an hour on one core) or ``"paper"``
            (convolutions, 2,500,000 steps, 8 and 32 latents: days on an accelerator).
        out: Folder to write into.
        data_dir: Where MNIST is; see :func:`aevb.data.load`.
        settings: In place of the budget's own.

    Returns:
        The table.
    """
    from aevb.figures import image_grid, save

    check_budget(budget)
    data, out, rows = aevb.data.load("mnist", variant="dynamic", data_dir=data_dir), Path(out), []
    for setting in settings or (QUICK if budget == "quick" else PAPER):
        found: dict[str, Evidence] = {}
        for name in ("VAE", "AVB + AC"):
            label = f"{name.replace(' ', '').replace('+', '_').lower()}_{setting.latent_dim}"
            loop = fit_guide(name, setting, data, checkpoint=out / f"{label}.pt")
            found[name] = _evidence(setting, loop, data, out / f"{label}_ais.pt")
            rows += _rows(name, setting, loop, found[name])
            save(image_grid(_samples(loop, 64).cpu(), (1, 28, 28), 8, 8), out / f"samples_{label}.png")
        rows.append(_difference(setting, found))
    return write_table(rows, budget, out)


def make_pair(name: str, settings: Settings, seed: int = 0) -> tuple[LatentVariableModel, nn.Module]:
    """Make the model and a guide, ``"VAE"`` or ``"AVB + AC"``, whose networks are the same but for the guide's head."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        encoder, decoder = _networks(settings)
        model = LatentVariableModel(priors.StandardNormal(settings.latent_dim), decoder, likelihoods.Bernoulli())
        if name == "VAE":
            return model, Normal(settings.latent_dim, encoder)
        hidden = [settings.basis_width] * 3
        basis = NoiseBasis(
            settings.latent_dim, encoder, settings.num_bases, settings.noise_dim, hidden, shift=settings.shift
        )
        return model, basis


def fit_guide(name: str, settings: Settings, data: Dataset, seed: int = 0, checkpoint: Path | None = None) -> Fit:
    """Train one of the two, going on from its checkpoint where there is one."""
    adam = partial(torch.optim.Adam, betas=(0.5, 0.999), fused=True)
    critic = partial(InnerProductCritic, hidden=settings.critic_hidden, inner_dim=settings.inner_dim)
    objective: Objective = SGVB() if name == "VAE" else AdversarialVB(adaptive_contrast=True, critic=critic)
    loop = Fit(
        *make_pair(name, settings, seed),
        data.train,
        objective=objective,
        optimizer={
            "model": partial(adam, lr=settings.lr),
            "guide": partial(adam, lr=settings.lr),
            "critic": partial(adam, lr=settings.critic_lr),
        },
        steps=settings.steps,
        batch_size=settings.batch_size,
        seed=seed,
        checkpoint=checkpoint,
        resume=True,
    )
    return train(loop, decay=settings.decay)


def _networks(settings: Settings) -> tuple[nn.Module, nn.Module]:
    latent_dim, shape = settings.latent_dim, (1, 28, 28)
    if settings.convolutional:
        encoder = networks.ConvEncoder(shape, channels=(64, 128), out_features=512, activation="elu")
        return encoder, networks.ConvDecoder(latent_dim, shape, channels=(64, 128), num_params=1)
    hidden = list(settings.hidden)
    encoder_mlp = networks.MLP(784, hidden=hidden, activation="elu")
    return encoder_mlp, networks.MLP(latent_dim, 784, hidden=hidden, activation="elu")


def _estimator(settings: Settings, checkpoint: Path) -> Estimator:
    from aevb.inference.evidence import AnnealedImportanceSampling

    found: Estimator = AnnealedImportanceSampling(
        num_temperatures=settings.temperatures,
        num_chains=settings.chains,
        start="moments",
        checkpoint=str(checkpoint),
    )
    return found


def _evidence(settings: Settings, loop: Fit, data: Dataset, checkpoint: Path) -> Evidence:
    test = data.test[torch.arange(min(settings.test_points, len(data.test)))]
    return log_evidence(loop.pair.model, loop.pair.guide, test, _estimator(settings, checkpoint))


def _rows(name: str, settings: Settings, loop: Fit, evidence: Evidence) -> list[Row]:
    dim = settings.latent_dim
    annealed, reported = PUBLISHED[(name, dim)]
    history = loop.run.history
    if name == "VAE":
        said, column = "training bound", "bound"
    else:
        said, column = "training estimate (no bound)", "estimate"
        warn_if_above(history, evidence)
    last = history[column].tail(5)
    return [
        Row(f"log p(x) by AIS, {name}, {dim} latents", annealed, evidence.mean, evidence.standard_error),
        Row(f"{said}, {name}, {dim} latents", reported, float(last.mean()), float(last.std()) / len(last) ** 0.5),
    ]


def _difference(settings: Settings, found: Mapping[str, Evidence]) -> Row:
    """How far the implicit guide's model is ahead, its error from the differences on the same datapoints."""
    dim = settings.latent_dim
    ahead = (found["AVB + AC"].log_px - found["VAE"].log_px).double()
    published = PUBLISHED[("AVB + AC", dim)][0] - PUBLISHED[("VAE", dim)][0]
    error = float(ahead.std()) / len(ahead) ** 0.5
    return Row(f"AVB + AC over VAE by AIS, paired, {dim} latents", published, float(ahead.mean()), error)


def _samples(loop: Fit, count: int) -> Tensor:
    """Draw pixel means of the model, ``[count, 784]``."""
    pair = loop.pair
    with loop.random, pair.evaluation():
        blank = pair.blank(count)
        likelihoods: Mapping[str, Any] = pair.likelihoods(pair.sample_prior(blank), blank)
        mean: Tensor = likelihoods["x"].mean[0]
    return mean
