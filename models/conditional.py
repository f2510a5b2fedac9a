r"""The conditional model p(x, z | y) = p(z|y) p(x|z, y): a class label beside the latent.

Where a label is missing it can be summed out, p(x, z) = 1/C sum_y p(z|y) p(x|z, y).
"""

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from .announced import Announced
from .latent_variable_model import conditional_on
from .networks.labels import append_labels, class_logits

__all__ = ["ConditionalModel"]


class ConditionalModel(Announced):
    r"""The latent-variable model given a class label, p(x, z | y) = p(z|y) p(x|z, y).

    The decoder sees the latent and the label's one-hot vector side by side. Of a missing label, -1,
    two things can be made. ``"kind"``: it is the zero vector, and the model describes unlabelled
    points as a kind of their own, learned from them. ``"sum"``: the label is a latent, equally
    likely to be any class, and is enumerated, so that such points are described by p(x) and teach
    the classes; C decodings a draw are its price.

    Sites: "z" and the observed "x", in the plate "data" at dim -1. The label is given, not sampled.

    Args:
        prior: Module whose call returns p(z), or, if its attribute `needs` holds "labels", whose
            call on y returns p(z|y), as `priors.ClassConditional` does.
        decoder: Network from `[..., D + num_classes]` to `[..., num_params * P]`.
        likelihood: Module from the decoder's output to p(x|z, y), event shape `[P]`.
        num_classes: Number of classes.
        unlabelled: What a missing label means, "kind" or "sum".

    Raises:
        ValueError: If `unlabelled` is neither.

    Example:
        >>> import torch
        >>> from aevb.models import likelihoods, networks, priors
        >>> model = ConditionalModel(
        ...     prior=priors.StandardNormal(2),
        ...     decoder=networks.MLP(2 + 3, 6, hidden=[8]),
        ...     likelihood=likelihoods.Bernoulli(),
        ...     num_classes=3,
        ... )
        >>> model(torch.zeros(4, 6), torch.tensor([0, 1, 2, -1])).shape
        torch.Size([4, 2])

    References:
        Learning Structured Output Representation using Deep Conditional Generative Models
        (Sohn, Lee & Yan, 2015), section 4.
        Semi-supervised Learning with Deep Generative Models (Kingma et al., 2014), eq. 2.
        https://arxiv.org/abs/1406.5298
    """

    name = "conditional"
    takes = needs = frozenset({"labels"})
    extra_inputs = ("labels",)  # of the decoder, beside the latent

    def __init__(
        self,
        prior: nn.Module,
        decoder: nn.Module,
        likelihood: nn.Module,
        num_classes: int,
        unlabelled: str = "kind",
    ) -> None:
        super().__init__()
        if unlabelled not in ("kind", "sum"):
            raise ValueError(f'unlabelled: expected "kind" or "sum"; got {unlabelled!r}. Use unlabelled="sum".')
        self.prior = prior
        self.decoder = decoder
        self.likelihood = likelihood
        self.num_classes = num_classes
        self.unlabelled = unlabelled

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Run the program on data `[batch, P]` and labels `[batch]`; return the latents.

        Raises:
            ValueError: If the decoder's output does not have `num_params * P` columns, or y are
                not labels.
        """
        with pyro.plate("data", len(x), dim=-1):
            if self.unlabelled == "sum":
                logits = class_logits(y, self.num_classes, x.dtype)
                z: Tensor = pyro.sample("z", self._mixed_prior(logits))
                p_x = self._mixed_likelihood(z, logits, x.shape[-1])
            else:
                z = pyro.sample("z", self.prior(y) if self._takes_label else self.prior())
                code = append_labels(z, y, self.num_classes)
                p_x = conditional_on(self.likelihood, self.decoder, code, x.shape[-1])
            pyro.sample("x", p_x, obs=x)
        return z

    def classify(self, x: Tensor, z: Tensor) -> Tensor:
        """Return p(y|x, z), `[..., batch, C]`; averaged over draws of q(z|x) it is q(y|x)."""
        unknown = torch.full(x.shape[:-1], -1, dtype=torch.long, device=x.device)
        mixture = self._mixed_likelihood(z, class_logits(unknown, self.num_classes, x.dtype), x.shape[-1])
        each = mixture.component_distribution.log_prob(x.unsqueeze(-2))
        return (each + mixture.mixture_distribution.logits).softmax(-1)

    @property
    def _takes_label(self) -> bool:
        return "labels" in getattr(self.prior, "needs", ())

    def _classes(self, logits: Tensor) -> dist.TorchDistribution:
        """The priors p(z|y) of all classes, batch `[batch, C]`."""
        prior: dist.TorchDistribution = self.prior(torch.arange(self.num_classes, device=logits.device))
        return prior.expand(logits.shape)

    def _mixed_prior(self, logits: Tensor) -> dist.TorchDistribution:
        """p(z|y), or its mean over the classes where y is missing."""
        if not self._takes_label:
            prior: dist.TorchDistribution = self.prior()
            return prior
        return dist.MixtureSameFamily(dist.Categorical(logits=logits), self._classes(logits))

    def _mixed_likelihood(self, z: Tensor, logits: Tensor, data_dim: int) -> dist.MixtureSameFamily:
        """p(x|z, y), or sum_y p(y|z) p(x|z, y) where y is missing."""
        if self._takes_label:
            logits = logits + self._classes(logits).log_prob(z.unsqueeze(-2))
        every = torch.eye(self.num_classes, dtype=z.dtype, device=z.device)
        shape = (*z.shape[:-1], self.num_classes)
        code = torch.cat([z.unsqueeze(-2).expand(*shape, z.shape[-1]), every.expand(*shape, -1)], -1)
        p_x = conditional_on(self.likelihood, self.decoder, code, data_dim)
        return dist.MixtureSameFamily(dist.Categorical(logits=logits.expand(shape)), p_x)
