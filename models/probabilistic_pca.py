r"""Probabilistic PCA: the linear-Gaussian model in which every quantity is known.

z ~ N(0, I),    x | z ~ N(W z + mu, s^2 I),
x ~ N(mu, C),   C = W W^T + s^2 I,
z | x ~ N(M^-1 W^T (x - mu), s^2 M^-1),   M = W^T W + s^2 I.
"""

from typing import Self

import torch
from torch import Tensor

from .linear_gaussian import LinearGaussian

__all__ = ["ProbabilisticPCA"]


class ProbabilisticPCA(LinearGaussian):
    r"""Probabilistic principal component analysis, with its exact evidence and posterior.

    The parameters are `weight` (W, `[P, D]`), `mean` (mu, `[P]`) and `log_scale` (log s, a scalar).

    Args:
        data_dim: Number of data dimensions P.
        latent_dim: Number of latent dimensions D.

    Example:
        >>> model = ProbabilisticPCA(data_dim=5, latent_dim=2)
        >>> x = model.simulate(3)
        >>> model.log_evidence(x).shape
        torch.Size([3])

    References:
        Probabilistic Principal Component Analysis (Tipping & Bishop, 1999), section 3.
        https://doi.org/10.1111/1467-9868.00196
    """

    def __init__(self, data_dim: int, latent_dim: int) -> None:
        super().__init__(data_dim, latent_dim, torch.zeros(()))

    @classmethod
    def maximum_likelihood(cls, x: Tensor, latent_dim: int) -> Self:
        """Return the model of greatest likelihood on x `[N, P]`, in closed form.

        s^2 is the mean of the P - D smallest eigenvalues of the sample covariance, and
        W = U (L - s^2 I)^(1/2) with the D leading eigenvectors U and eigenvalues L.

        Raises:
            ValueError: If `latent_dim` is not below the number of data dimensions, or if the data
                lie in a subspace of at most `latent_dim` dimensions (the likelihood is unbounded).
        """
        data_dim = x.shape[-1]
        if not 0 < latent_dim < data_dim:
            raise ValueError(
                f"latent_dim: expected 1 to {data_dim - 1} for data of {data_dim} dimensions, since "
                "the noise is what the components leave; "
                f"got {latent_dim}. Choose fewer components."
            )
        covariance = torch.cov(x.double().mT, correction=0)
        values, vectors = torch.linalg.eigh(covariance)
        variance = values[: data_dim - latent_dim].mean()
        if variance <= values[-1] * torch.finfo(torch.float64).eps * data_dim:
            raise ValueError(
                f"x: expected data that vary in more than latent_dim = {latent_dim} directions; "
                "got no variance beyond them. Choose fewer components or give more data."
            )
        leading = slice(data_dim - latent_dim, None)
        weight = vectors[:, leading] * (values[leading] - variance).clamp(min=0).sqrt()
        model = cls(data_dim, latent_dim).to(device=x.device, dtype=x.dtype)
        with torch.no_grad():
            model.weight.copy_(weight.flip(-1))
            model.mean.copy_(x.mean(0))
            model.log_scale.copy_(variance.log() / 2)
        return model

    def _pooled(self, variance: Tensor) -> Tensor:
        return variance.mean()
