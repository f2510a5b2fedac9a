r"""The diagonal normal guide given a class label, q(z | x, y)."""

import pyro
import pyro.distributions as dist
from torch import Tensor, nn

from ..models.announced import Announced
from ..models.networks.labels import append_labels
from .amortized import bounded_exp, linear_head, through

__all__ = ["ConditionalNormal"]


class ConditionalNormal(Announced):
    r"""The diagonal normal given a class label, q(z|x, y) = N(mu(x, y), diag s(x, y)^2).

    The encoder sees x and the label's one-hot vector side by side: its input has P + C columns. A
    missing label, -1, is the zero vector.

    Args:
        latent_dim: Number of latent dimensions D.
        encoder: Network from `[..., P + C]` to features; its `out_features` is their number.
        num_classes: Number of classes C.

    Example:
        >>> import torch
        >>> guide = ConditionalNormal(2, encoder=nn.Linear(6 + 3, 4), num_classes=3)
        >>> guide(torch.zeros(4, 6), torch.tensor([0, 1, 2, -1])).shape
        torch.Size([4, 2])

    References:
        Semi-supervised Learning with Deep Generative Models (Kingma et al., 2014), eq. 4.
        https://arxiv.org/abs/1406.5298
    """

    name = "conditional-normal"
    needs = frozenset({"labels"})
    extra_inputs = ("labels",)  # of the encoder, beside the data
    support = "real"

    def __init__(self, latent_dim: int, encoder: nn.Module, num_classes: int) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        self.encoder = encoder
        self.num_classes = num_classes
        self.mean = linear_head(encoder, latent_dim)
        self.log_scale = linear_head(encoder, latent_dim)

    def posterior(self, x: Tensor, y: Tensor) -> dist.TorchDistribution:
        """Return q(z|x, y) for data `[batch, P]` and labels `[batch]`.

        Raises:
            ValueError: If y are not labels.
        """
        features = self.encoder(append_labels(x, y, self.num_classes))
        mean, log_scale = through(features, self.mean, self.log_scale)
        return dist.Normal(mean, bounded_exp(log_scale)).to_event(1)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Run the program on data and labels; return the latents `[..., batch, D]`."""
        with pyro.plate("data", len(x), dim=-1):
            z: Tensor = pyro.sample("z", self.posterior(x, y))
        return z
