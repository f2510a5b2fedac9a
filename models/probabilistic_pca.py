r"""Probabilistic PCA: the linear-Gaussian model in which every quantity is known.

z ~ N(0, I),    x | z ~ N(W z + mu, s^2 I),
x ~ N(mu, C),   C = W W^T + s^2 I,
z | x ~ N(M^-1 W^T (x - mu), s^2 M^-1),   M = W^T W + s^2 I.
"""

from collections.abc import Mapping
from typing import Self

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

__all__ = ["ProbabilisticPCA"]


class ProbabilisticPCA(nn.Module):
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
        super().__init__()
        self.data_dim = data_dim
        self.latent_dim = latent_dim
        self.weight = nn.Parameter(torch.randn(data_dim, latent_dim) / latent_dim**0.5)
        self.mean = nn.Parameter(torch.zeros(data_dim))
        self.log_scale = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """Run the program on data `[batch, P]`; return the latents `[..., batch, D]`."""
        zeros = self.mean.new_zeros(self.latent_dim)
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(zeros, torch.ones_like(zeros)).to_event(1))
            pyro.sample("x", self._likelihood(z), obs=x)
        return z

    def log_joint(self, z: Tensor, x: Tensor) -> Tensor:
        """Return log p(x, z), nats, for latents `[..., batch, D]` and data `[batch, P]`."""
        prior = dist.Normal(torch.zeros_like(z), torch.ones_like(z)).to_event(1)
        log_p: Tensor = prior.log_prob(z) + self._likelihood(z).log_prob(x)
        return log_p

    def log_evidence(self, x: Tensor) -> Tensor:
        """Return the exact log p(x), nats, `[batch]`."""
        variance = torch.exp(2 * self.log_scale).expand(self.data_dim)
        marginal = dist.LowRankMultivariateNormal(self.mean, self.weight, variance)
        log_p: Tensor = marginal.log_prob(x)
        return log_p

    def posterior(self, x: Tensor) -> dist.TorchDistribution:
        """Return the exact p(z|x), a full-covariance normal, batch `[batch]`, event `[D]`."""
        variance = torch.exp(2 * self.log_scale)
        identity = torch.eye(self.latent_dim, dtype=x.dtype, device=x.device)
        factor = torch.linalg.cholesky(self.weight.mT @ self.weight + variance * identity)
        loc = torch.cholesky_solve(((x - self.mean) @ self.weight).mT, factor).mT
        return dist.MultivariateNormal(loc, precision_matrix=factor @ factor.mT / variance)

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

    @torch.no_grad()
    def summarize(self, x: Tensor) -> dict[str, Tensor]:
        """Do the E-step: expected sufficient statistics of data `[N, P]`, summed over the datapoints.

        The latents carry a constant one behind them, whose weight is the mean: y = (z, 1).

        Returns:
            `count`, `square` (of x, scalars), `cross` (x y^T, `[P, D + 1]`), `second` (y y^T, `[D + 1, D + 1]`) and
            `log_evidence`, nats.
        """
        posterior = self.posterior(x)
        y = torch.cat([posterior.mean, x.new_ones(len(x), 1)], dim=-1)
        second = y.mT @ y
        second[:-1, :-1] += posterior.covariance_matrix.sum(0)
        return {
            "count": x.new_tensor(float(len(x))),
            "square": x.square().sum(),
            "cross": x.mT @ y,
            "second": second,
            "log_evidence": self.log_evidence(x).sum(),
        }

    @torch.no_grad()
    def from_summaries(self, statistics: Mapping[str, Tensor]) -> None:
        """Do the M-step: set the parameters to their optimum given summed (or averaged) statistics."""
        cross, second = statistics["cross"], statistics["second"]
        loading = torch.linalg.solve(second, cross.mT).mT
        residual = statistics["square"] - (loading * cross).sum()
        variance = residual / (statistics["count"] * self.data_dim)
        self.weight.copy_(loading[:, :-1])
        self.mean.copy_(loading[:, -1])
        self.log_scale.copy_(variance.clamp(min=torch.finfo(cross.dtype).tiny).log() / 2)

    @torch.no_grad()
    def simulate(self, num_points: int) -> Tensor:
        """Draw x from the model, `[num_points, P]`."""
        z = torch.randn(num_points, self.latent_dim).to(self.mean)
        x: Tensor = self._likelihood(z).sample()
        return x

    def _likelihood(self, z: Tensor) -> dist.TorchDistribution:
        return dist.Normal(z @ self.weight.mT + self.mean, self.log_scale.exp()).to_event(1)
