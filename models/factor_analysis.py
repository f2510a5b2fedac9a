r"""Factor analysis: the linear-Gaussian model in which every data dimension has a noise of its own.

z ~ N(0, I),    x | z ~ N(W z + mu, diag(psi)).
"""

import torch
from torch import Tensor

from .linear_gaussian import LinearGaussian

__all__ = ["FactorAnalysis"]


class FactorAnalysis(LinearGaussian):
    r"""Factor analysis, with its exact evidence and posterior; `EM` fits it, as there is no closed-form optimum.

    The parameters are `weight` (W, `[P, D]`), `mean` (mu, `[P]`) and `log_scale` (log of the square root of psi,
    `[P]`).

    Args:
        data_dim: Number of data dimensions P.
        latent_dim: Number of latent dimensions D, the factors.

    Example:
        >>> model = FactorAnalysis(data_dim=5, latent_dim=2)
        >>> x = model.simulate(3)
        >>> model.log_evidence(x).shape
        torch.Size([3])

    References:
        EM Algorithms for ML Factor Analysis (Rubin & Thayer, 1982). https://doi.org/10.1007/BF02293851
    """

    def __init__(self, data_dim: int, latent_dim: int) -> None:
        super().__init__(data_dim, latent_dim, torch.zeros(data_dim))

    def _pooled(self, variance: Tensor) -> Tensor:
        return variance
