r"""What the linear-Gaussian models share: every quantity is known.

z ~ N(0, I),    x | z ~ N(W z + mu, Psi),    Psi diagonal,
x ~ N(mu, W W^T + Psi),
z | x ~ N(V W^T Psi^-1 (x - mu), V),    V = (I + W^T Psi^-1 W)^-1.
"""

from collections.abc import Mapping

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from .announced import Announced

__all__ = ["LinearGaussian"]


class LinearGaussian(Announced):
    r"""A linear-Gaussian model with its exact evidence, posterior and E-step; what kind of noise, a child class says.

    The parameters are `weight` (W, `[P, D]`), `mean` (mu, `[P]`) and `log_scale` (log of the noise's standard
    deviation, `[P]` or a scalar).

    Args:
        data_dim: Number of data dimensions P.
        latent_dim: Number of latent dimensions D.
        log_scale: Where the noise starts.
    """

    def __init__(self, data_dim: int, latent_dim: int, log_scale: Tensor) -> None:
        super().__init__()
        self.data_dim = data_dim
        self.latent_dim = latent_dim
        self.weight = nn.Parameter(torch.randn(data_dim, latent_dim) / latent_dim**0.5)
        self.mean = nn.Parameter(torch.zeros(data_dim))
        self.log_scale = nn.Parameter(log_scale)

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
        marginal = dist.LowRankMultivariateNormal(self.mean, self.weight, self._variance())
        log_p: Tensor = marginal.log_prob(x)
        return log_p

    def posterior(self, x: Tensor) -> dist.TorchDistribution:
        """Return the exact p(z|x), a full-covariance normal, batch `[batch]`, event `[D]`."""
        scaled = self.weight / self._variance().unsqueeze(-1)
        identity = torch.eye(self.latent_dim, dtype=x.dtype, device=x.device)
        precision = identity + self.weight.mT @ scaled
        factor = torch.linalg.cholesky(precision)
        loc = torch.cholesky_solve(((x - self.mean) @ scaled).mT, factor).mT
        return dist.MultivariateNormal(loc, precision_matrix=precision)

    @torch.no_grad()
    def summarize(self, x: Tensor) -> dict[str, Tensor]:
        """Do the E-step: expected sufficient statistics of data `[N, P]`, summed over the datapoints.

        The latents carry a constant one behind them, whose weight is the mean: y = (z, 1).

        Returns:
            `count`, `square` (of x, `[P]`), `cross` (x y^T, `[P, D + 1]`), `second` (y y^T, `[D + 1, D + 1]`) and
            `log_evidence`, nats.
        """
        posterior = self.posterior(x)
        y = torch.cat([posterior.mean, x.new_ones(len(x), 1)], dim=-1)
        second = y.mT @ y
        second[:-1, :-1] += posterior.covariance_matrix.sum(0)
        return {
            "count": x.new_tensor(float(len(x))),
            "square": x.square().sum(0),
            "cross": x.mT @ y,
            "second": second,
            "log_evidence": self.log_evidence(x).sum(),
        }

    @torch.no_grad()
    def from_summaries(self, statistics: Mapping[str, Tensor]) -> None:
        """Do the M-step: set the parameters to their optimum given summed (or averaged) statistics."""
        cross, second = statistics["cross"], statistics["second"]
        loading = torch.linalg.solve(second, cross.mT).mT
        residual = statistics["square"] - (loading * cross).sum(-1)
        variance = self._pooled(residual / statistics["count"])
        self.weight.copy_(loading[:, :-1])
        self.mean.copy_(loading[:, -1])
        # The residual is a difference: no scale below what rounding leaves of the data's own.
        least = statistics["square"].max() / statistics["count"] * torch.finfo(cross.dtype).eps
        self.log_scale.copy_(torch.maximum(variance, least).log() / 2)

    @torch.no_grad()
    def simulate(self, num_points: int) -> Tensor:
        """Draw x from the model, `[num_points, P]`."""
        z = torch.randn(num_points, self.latent_dim).to(self.mean)
        x: Tensor = self._likelihood(z).sample()
        return x

    def _pooled(self, variance: Tensor) -> Tensor:
        """The noise variance that a child's `log_scale` can say, from that of each data dimension `[P]`."""
        raise NotImplementedError

    def _variance(self) -> Tensor:
        return torch.exp(2 * self.log_scale).expand(self.data_dim)

    def _likelihood(self, z: Tensor) -> dist.TorchDistribution:
        return dist.Normal(z @ self.weight.mT + self.mean, self.log_scale.exp()).to_event(1)
