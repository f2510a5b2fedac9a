r"""The conditional model p(x, z | y) = p(z|y) p(x|z, y): a class label beside the latent."""

import pyro
from torch import Tensor, nn

from .latent_variable_model import conditional_on
from .networks.labels import append_labels

__all__ = ["ConditionalModel"]


class ConditionalModel(nn.Module):
    r"""The latent-variable model given a class label, p(x, z | y) = p(z|y) p(x|z, y).

    The decoder sees the latent and the label's one-hot vector side by side. A missing label, -1,
    is the zero vector, "no label": the model then describes unlabelled points as a kind of their
    own, learned from them, and does not average over the classes.

    Sites: "z" and the observed "x", in the plate "data" at dim -1. The label is given, not sampled.

    Args:
        prior: Module whose call returns p(z), or, if its attribute `takes_label` is true, whose
            call on y returns p(z|y), as `priors.ClassConditional` does.
        decoder: Network from `[..., D + num_classes]` to `[..., num_params * P]`.
        likelihood: Module from the decoder's output to p(x|z, y), event shape `[P]`.
        num_classes: Number of classes.

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

    def __init__(self, prior: nn.Module, decoder: nn.Module, likelihood: nn.Module, num_classes: int) -> None:
        super().__init__()
        self.prior = prior
        self.decoder = decoder
        self.likelihood = likelihood
        self.num_classes = num_classes

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Run the program on data `[batch, P]` and labels `[batch]`; return the latents.

        Raises:
            ValueError: If the decoder's output does not have `num_params * P` columns, or y are
                not labels.
        """
        with pyro.plate("data", len(x), dim=-1):
            takes_label = getattr(self.prior, "takes_label", False)
            z = pyro.sample("z", self.prior(y) if takes_label else self.prior())
            code = append_labels(z, y, self.num_classes)
            p_x = conditional_on(self.likelihood, self.decoder, code, x.shape[-1])
            pyro.sample("x", p_x, obs=x)
        return z
