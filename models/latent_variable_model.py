r"""The deep latent-variable model, p(x, z) = p(z) p(x|z), as a Pyro program.

z_n ~ p(z),    x_n ~ p(x | decoder(z_n)),    n = 1 ... N independently.
"""

from collections.abc import Callable

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from .announced import Announced

__all__ = ["LatentVariableModel"]


class LatentVariableModel(Announced):
    r"""A prior, a decoder and a likelihood composed into one Pyro program.

    Sites: the latent "z" and the observed "x", both inside the plate "data" at dim -1. Any further
    plate to its left broadcasts: z arrives as `[num_samples, batch, latent]`.

    Args:
        prior: Module whose call returns p(z), event shape `[D]`.
        decoder: Network from `[..., D]` to `[..., num_params * P]`.
        likelihood: Module from the decoder's output to p(x|z), event shape `[P]`.
        missing: Treat NaN in the data as missing at random: such entries leave the likelihood,
            log p(x_observed | z), and a placeholder stands for them in the site's value.

    Example:
        >>> from aevb.models import likelihoods, networks, priors
        >>> model = LatentVariableModel(
        ...     prior=priors.StandardNormal(2),
        ...     decoder=networks.MLP(2, 6, hidden=[8]),
        ...     likelihood=likelihoods.Bernoulli(),
        ... )
        >>> model(torch.zeros(3, 6)).shape
        torch.Size([3, 2])

    References:
        Auto-Encoding Variational Bayes (Kingma & Welling, 2014), section 2.
        https://arxiv.org/abs/1312.6114
    """

    name = "latent-variable"
    takes = frozenset({"rows", "holes"})  # beside the data

    def __init__(self, prior: nn.Module, decoder: nn.Module, likelihood: nn.Module, *, missing: bool = False) -> None:
        super().__init__()
        self.prior = prior
        self.decoder = decoder
        self.likelihood = likelihood
        self.missing = missing

    def forward(self, x: Tensor, index: Tensor | None = None) -> Tensor:
        """Run the program on data `[batch, P]`; return the latents `[..., batch, D]`.

        Args:
            x: Data `[batch, P]`.
            index: Row numbers `[batch]` of the data in the training set. A guide that keeps a row
                for each datapoint needs them; the model does not.

        Raises:
            ValueError: If the decoder's output does not have `num_params * P` columns.
        """
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", self.prior())
            p_x = conditional_on(self.likelihood, self.decoder, z, x.shape[-1])
            if self.missing:
                p_x, x = mask_missing(p_x, x)
            pyro.sample("x", p_x, obs=x)
        return z

    def log_joint(self, z: Tensor, x: Tensor) -> Tensor:
        """Return log p(x, z), nats, for latents `[..., batch, D]` and data `[batch, P]`."""
        p_x = conditional_on(self.likelihood, self.decoder, z, x.shape[-1])
        if self.missing:
            p_x, x = mask_missing(p_x, x)
        log_p: Tensor = self.prior().log_prob(z) + p_x.log_prob(x)
        return log_p


def conditional_on(
    likelihood: nn.Module, decoder: Callable[[Tensor], Tensor], code: Tensor, data_dim: int
) -> dist.TorchDistribution:
    """Return p(x | decoder(code)), having checked that the decoder's width fits the likelihood.

    Raises:
        ValueError: If the decoder's output does not have `num_params * data_dim` columns.
    """
    h = decoder(code)
    num_params = int(getattr(likelihood, "num_params", 1))
    if h.shape[-1] != num_params * data_dim:
        name = type(likelihood).__name__
        raise ValueError(
            f"decoder: expected an output of {num_params * data_dim} columns, since {name} takes "
            f"num_params = {num_params} per data dimension and the data have {data_dim}; got "
            f"{h.shape[-1]}. Build the decoder with out_features={num_params * data_dim}."
        )
    return likelihood(h)


def mask_missing(p_x: dist.TorchDistribution, x: Tensor) -> tuple[dist.TorchDistribution, Tensor]:
    """Drop the NaN entries of x from p(x|z).

    A NaN left in the data would reach the gradients even under a mask, so the smallest observed
    value, which every support contains, stands in its place.

    Args:
        p_x: Factorised likelihood, `Independent` over the data dimension, event shape `[P]`.
        x: Data `[batch, P]`, NaN where missing.

    Returns:
        The masked likelihood and the filled data.

    Raises:
        ValueError: If the likelihood does not factorise over the data dimension.
    """
    if not isinstance(p_x, dist.Independent) or p_x.reinterpreted_batch_ndims != 1:
        raise ValueError(
            f"likelihood: expected a distribution that factorises over the data dimension when "
            f"missing=True; got {type(p_x).__name__}. Use a factorised likelihood or missing=False."
        )
    observed = ~x.isnan()
    placeholder = torch.where(observed, x, torch.inf).amin().nan_to_num(posinf=0.0)
    filled = torch.where(observed, x, placeholder)
    return p_x.base_dist.mask(observed).to_event(1), filled
