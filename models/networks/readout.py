r"""The optional last linear layer of a network: y = W h + b, or the features h themselves."""

__all__ = ["output_size"]


def output_size(owner: str, out_features: int | None, width: int | None, readout: bool) -> int:
    """Return the size of a network's output, having checked that its arguments agree.

    Args:
        owner: the name of the network, for the message.
        out_features: the size that was asked for, if any.
        width: the width of the last hidden layer, None if there is none.
        readout: whether a last linear layer follows.

    Raises:
        ValueError: if the arguments leave no layer or contradict each other.
    """
    if readout:
        if out_features is None:
            raise ValueError(f"{owner}: expected out_features for its last linear layer, got None.")
        return out_features
    if width is None:
        raise ValueError(f"{owner}: expected hidden widths or out_features, got neither.")
    if out_features not in (None, width):
        raise ValueError(
            f"{owner}: without readout expected out_features None or {width} (the last hidden "
            f"width), got {out_features}."
        )
    return width
