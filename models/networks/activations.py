r"""Element-wise non-linearities by name: h = f(W x + b)."""

from collections.abc import Callable

from torch import nn

__all__ = ["ACTIVATIONS", "make_activation"]

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "leaky-relu": nn.LeakyReLU,
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
    "tanh": nn.Tanh,
}


def make_activation(name: str) -> nn.Module:
    """Make the non-linearity called ``name``.

    Args:
        name: one of the keys of ``ACTIVATIONS``.

    Raises:
        ValueError: if the name is unknown.

    Example:
        >>> make_activation("tanh")
        Tanh()
    """
    if name not in ACTIVATIONS:
        raise ValueError(f"activation: expected one of {sorted(ACTIVATIONS)}, got {name!r}.")
    return ACTIVATIONS[name]()
