r"""Initial values of networks: "default" (PyTorch's) or "paper", theta ~ N(0, 0.01^2)."""

from torch import nn

__all__ = ["PAPER_STD", "initialize"]

PAPER_STD = 0.01


def initialize(module: nn.Module, init: str) -> None:
    """Set the parameters of ``module`` in place according to ``init``.

    Args:
        module: the network; with "paper" each of its weights and biases is drawn again.
        init: "default" leaves what PyTorch's layers drew; "paper" draws from N(0, 0.01). The paper
            does not say whether 0.01 is a variance or a standard deviation; here it is the latter.

    Raises:
        ValueError: if ``init`` is neither.

    References:
        Auto-Encoding Variational Bayes, Kingma & Welling, 2014, arXiv 1312.6114, section 5.
    """
    if init not in ("default", "paper"):
        raise ValueError(f"init: expected 'default' or 'paper', got {init!r}.")
    if init == "paper":
        for parameter in module.parameters():
            nn.init.normal_(parameter, std=PAPER_STD)
