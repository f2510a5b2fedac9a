r"""Checks on the shapes that networks are given: x [..., in_features]."""

from torch import Tensor

__all__ = ["check_features"]


def check_features(x: Tensor, in_features: int, owner: str) -> None:
    """Check that the last dimension of ``x`` is the one that the network was built for.

    Arguments:
        x: input ``[..., in_features]``.
        in_features: the size the network expects.
        owner: the name of the network, for the message.

    Raises:
        ValueError: if the sizes differ.
    """
    if x.dim() == 0 or x.shape[-1] != in_features:
        raise ValueError(
            f"{owner}: expected input of shape [..., {in_features}], got {list(x.shape)}. "
            "Flatten the event dimensions, or build the network with a fitting in_features."
        )
