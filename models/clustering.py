r"""The clustering model: a mixture prior whose component is the cluster.

    c ~ Categorical(pi),    z | c ~ N(m_c, diag s_c^2),    x | z ~ p(x | decoder(z)).

The component is summed out of the prior exactly, p(z) = sum_c pi_c N(z; m_c, diag s_c^2), so the
program has the one latent z and any guide of real vectors; the cluster comes back by Bayes' rule.
A datapoint whose cluster is known has the prior p(z | c) alone.
"""

import pyro
import pyro.distributions as dist
from torch import Tensor, nn

from .latent_variable_model import LatentVariableModel, conditional_on, mask_missing
from .networks.labels import class_logits
from .priors.mixture_of_gaussians import MixtureOfGaussians

__all__ = ["ClusteringModel"]


class ClusteringModel(LatentVariableModel):
    r"""A latent-variable model that clusters, with the cluster summed out exactly.

    Given z, the data say nothing more of the cluster: q(c|x) = E_{q(z|x)} p(c|z), which is the
    optimal choice (Jiang et al., 2017, section 3). Called with labels y `[batch]` too, -1 where
    one is missing, it is p(x | y) of the labelled datapoints and p(x) of the others; label and
    cluster are then one.

    Args:
        latent_dim: Number of latent dimensions D.
        decoder: Network from `[..., D]` to `[..., num_params * P]`.
        likelihood: Module from the decoder's output to p(x|z), event shape `[P]`.
        num_components: Number of clusters C.
        missing: Treat NaN in the data as missing at random.

    Example:
        >>> import torch
        >>> from aevb.models import likelihoods, networks
        >>> model = ClusteringModel(2, networks.MLP(2, 6), likelihoods.Bernoulli(), 3)
        >>> model.responsibilities(torch.zeros(5, 2)).shape
        torch.Size([5, 3])

    References:
        Variational Deep Embedding (Jiang et al., 2017), section 3.
        https://arxiv.org/abs/1611.05148
    """

    name = "clustering"
    takes = frozenset({"labels", "holes"})
    own_prior = "mixture-of-gaussians"
    prior: MixtureOfGaussians

    def __init__(
        self,
        latent_dim: int,
        decoder: nn.Module,
        likelihood: nn.Module,
        num_components: int = 10,
        *,
        missing: bool = False,
    ) -> None:
        prior = MixtureOfGaussians(latent_dim, num_components)
        super().__init__(prior, decoder, likelihood, missing=missing)
        self.latent_dim = latent_dim
        self.num_components = num_components

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Run the program on data `[batch, P]` and, where there are any, labels `[batch]`; return the latents.

        Raises:
            ValueError: If the decoder's output does not have `num_params * P` columns, or y are
                not labels.
        """
        with pyro.plate("data", len(x), dim=-1):
            z: Tensor = pyro.sample("z", self.prior() if y is None else self._prior_of(y, x))
            p_x = conditional_on(self.likelihood, self.decoder, z, x.shape[-1])
            if self.missing:
                p_x, x = mask_missing(p_x, x)
            pyro.sample("x", p_x, obs=x)
        return z

    def _prior_of(self, y: Tensor, x: Tensor) -> dist.TorchDistribution:
        mixture = self.prior()
        logits = mixture.mixture_distribution.logits + class_logits(y, self.num_components, x.dtype)
        components = mixture.component_distribution.expand(logits.shape)
        return dist.MixtureSameFamily(dist.Categorical(logits=logits), components)

    def responsibilities(self, z: Tensor) -> Tensor:
        """Return p(c|z), `[..., C]`; averaged over draws of q(z|x) it is q(c|x)."""
        return self.prior.responsibilities(z)
