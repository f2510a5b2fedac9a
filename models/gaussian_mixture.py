r"""The mixture of Gaussians with its exact evidence, posterior and M-step.

z ~ Categorical(pi),    x | z = c ~ N(m_c, diag s_c^2),
log p(x) = log sum_c pi_c N(x; m_c, diag s_c^2).
"""

from collections.abc import Mapping

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from .announced import Announced

__all__ = ["GaussianMixture"]


class GaussianMixture(Announced):
    r"""A mixture of Gaussians with diagonal covariances, whose discrete latent is enumerated.

    Sites: the component "z", marked for parallel enumeration, and the observed "x", in the plate
    "data" at dim -1. The parameters are `logits` `[C]`, `means` and `log_scales` `[C, P]`.

    Args:
        data_dim: Number of data dimensions P.
        num_components: Number of components C.

    Raises:
        ValueError: If there are no components.

    Example:
        >>> model = GaussianMixture(data_dim=2, num_components=3)
        >>> x = model.simulate(5)
        >>> model.log_evidence(x).shape, model.posterior(x).probs.shape
        (torch.Size([5]), torch.Size([5, 3]))

    References:
        Pattern Recognition and Machine Learning (Bishop, 2006), section 9.2.
    """

    def __init__(self, data_dim: int, num_components: int = 10) -> None:
        super().__init__()
        if num_components < 1:
            raise ValueError(f"num_components: expected at least 1; got {num_components}. Use num_components=10.")
        self.data_dim = data_dim
        self.num_components = num_components
        self.logits = nn.Parameter(torch.zeros(num_components))
        self.means = nn.Parameter(torch.randn(num_components, data_dim))
        self.log_scales = nn.Parameter(torch.zeros(num_components, data_dim))

    def forward(self, x: Tensor) -> Tensor:
        """Run the program on data `[batch, P]`; return the components `[..., batch]`."""
        prior = dist.Categorical(logits=self.logits)
        with pyro.plate("data", len(x), dim=-1):
            z: Tensor = pyro.sample("z", prior, infer={"enumerate": "parallel"})
            p_x = dist.Normal(self.means[z], self.log_scales[z].exp()).to_event(1)
            pyro.sample("x", p_x, obs=x)
        return z

    def log_joint(self, x: Tensor) -> Tensor:
        """Return log p(x, z = c) for every component, nats, `[batch, C]`."""
        components = dist.Normal(self.means, self.log_scales.exp()).to_event(1)
        log_p: Tensor = components.log_prob(x.unsqueeze(-2)) + self.logits.log_softmax(-1)
        return log_p

    def log_evidence(self, x: Tensor) -> Tensor:
        """Return the exact log p(x), nats, `[batch]`."""
        return self.log_joint(x).logsumexp(-1)

    def posterior(self, x: Tensor) -> dist.TorchDistribution:
        """Return the exact p(z|x), a categorical of C classes, batch `[batch]`."""
        return dist.Categorical(logits=self.log_joint(x))

    @torch.no_grad()
    def maximize(self, x: Tensor, responsibilities: Tensor, min_scale: float = 1e-3) -> None:
        """Do the M-step: set the parameters to their optimum given q(z|x).

        Args:
            x: Data `[N, P]`.
            responsibilities: q(z = c | x), `[N, C]`.
            min_scale: Least standard deviation; at zero a component on one point has infinite
                likelihood.
        """
        weight = responsibilities.sum(0).clamp(min=torch.finfo(x.dtype).tiny)
        mean = responsibilities.mT @ x / weight.unsqueeze(-1)
        deviation = (x.unsqueeze(-2) - mean).square()
        variance = (responsibilities.unsqueeze(-1) * deviation).sum(0) / weight.unsqueeze(-1)
        self.logits.copy_(weight.log().log_softmax(-1))
        self.means.copy_(mean)
        self.log_scales.copy_(variance.clamp(min=min_scale**2).log() / 2)

    @torch.no_grad()
    def summarize(self, x: Tensor) -> dict[str, Tensor]:
        """Do the E-step: expected sufficient statistics of data `[N, P]`, summed over the datapoints.

        Returns:
            `weight` `[C]`, `total` and `square` `[C, P]`, and `log_evidence`, nats.
        """
        log_joint = self.log_joint(x)
        log_p = log_joint.logsumexp(-1, keepdim=True)
        responsibilities = (log_joint - log_p).exp()
        return {
            "weight": responsibilities.sum(0),
            "total": responsibilities.mT @ x,
            "square": responsibilities.mT @ x.square(),
            "log_evidence": log_p.sum(),
        }

    @torch.no_grad()
    def from_summaries(self, statistics: Mapping[str, Tensor], min_scale: float = 1e-3) -> None:
        """Do the M-step: set the parameters to their optimum given summed (or averaged) statistics.

        Args:
            statistics: What :meth:`summarize` returns, added over the data or averaged.
            min_scale: Least standard deviation.
        """
        weight = statistics["weight"].clamp(min=torch.finfo(self.means.dtype).tiny)
        mean = statistics["total"] / weight.unsqueeze(-1)
        variance = statistics["square"] / weight.unsqueeze(-1) - mean.square()
        self.logits.copy_(weight.log().log_softmax(-1))
        self.means.copy_(mean)
        self.log_scales.copy_(variance.clamp(min=min_scale**2).log() / 2)

    @torch.no_grad()
    def simulate(self, num_points: int) -> Tensor:
        """Draw x from the model, `[num_points, P]`."""
        z = dist.Categorical(logits=self.logits).sample((num_points,))
        return self.means[z] + self.log_scales[z].exp() * torch.randn_like(self.means[z])
