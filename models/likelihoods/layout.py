r"""How a decoder's output holds a likelihood's parameters: h = [a | b | ...], each [..., P]."""

from torch import Tensor

__all__ = ["split_parameters"]


def split_parameters(h: Tensor, num_params: int, owner: str) -> tuple[Tensor, ...]:
    """Split a decoder's output into its parameters, which lie in chunks along the last dimension.

    Args:
        h: decoder output ``[..., num_params * P]``.
        num_params: decoder outputs per data dimension.
        owner: the name of the likelihood, for the message.

    Returns:
        ``num_params`` tensors ``[..., P]``.

    Raises:
        ValueError: if the last dimension of ``h`` is not a multiple of ``num_params``.
    """
    if h.shape[-1] % num_params:
        raise ValueError(
            f"{owner}: expected decoder outputs [..., {num_params} * P], got {list(h.shape)}. "
            "Give the decoder out_features = likelihood.num_params * data_dim."
        )
    return h.chunk(num_params, -1)
