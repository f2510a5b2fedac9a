"""Two data sets small enough to write down, from Adversarial Variational Bayes."""

import torch
from torch.utils.data import TensorDataset

from aevb.data.dataset import Dataset

__all__ = ["eight_schools", "toy_patterns"]

_SCHOOLS: dict[str, tuple[list[float], list[float]]] = {
    "avb": (
        [2.8, 0.8, -0.3, 0.7, -0.1, 0.1, 1.8, 1.2],
        [0.8, 0.5, 0.8, 0.6, 0.5, 0.6, 0.5, 0.4],
    ),
    "textbook": (
        [2.8, 0.8, -0.3, 0.7, -0.1, 0.1, 1.8, 1.2],
        [1.5, 1.0, 1.6, 1.1, 0.9, 1.1, 1.0, 1.8],
    ),
}


def toy_patterns() -> Dataset:
    """Return the four 2 x 2 images with one lit pixel; every part is the whole population.

    The data distribution is uniform on them, so that no model's mean log p(x) exceeds -log 4.

    References:
        Adversarial Variational Bayes, Mescheder, Nowozin & Geiger, ICML 2017, Table 1.
    """
    x = torch.eye(4)
    labels = torch.arange(4)
    text = "Four 2 x 2 one-hot images, equally likely; train, validation and test are each the whole population."
    return Dataset("toy-patterns", None, x, x, x, labels, labels, labels, (1, 2, 2), text)


def eight_schools(variant: str | None) -> Dataset:
    """Return the schools' effects y and standard errors sigma / 10 as one datapoint of two tensors ``[1, 8]``.

    ``avb`` has the standard errors of the authors' notebook, ``textbook`` those of Rubin (1981).

    References:
        Estimation in parallel randomized experiments, Rubin, 1981.
        Adversarial Variational Bayes, Mescheder, Nowozin & Geiger, ICML 2017, Figures 3 and 4.
    """
    y, sigma = (torch.tensor([row]) for row in _SCHOOLS[variant or "avb"])
    data = TensorDataset(y, sigma)
    source = "the authors' notebook of AVB" if variant == "avb" else "Rubin (1981)"
    text = f"Eight schools, (y, sigma) / 10 with the sigma of {source}; one datapoint, the same in every part."
    return Dataset("eight-schools", variant, data, data, data, description=text)
