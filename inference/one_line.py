"""Tell an error inside a sentence of one's own."""

__all__ = ["reason"]


def reason(error: Exception) -> str:
    """Put an error into words that end a sentence: one line, a full stop, its kind named unless it is bad input."""
    said = " ".join(str(error).split())
    said = said if isinstance(error, ValueError) else f"{type(error).__name__.lstrip('_')}: {said}"
    return f"{said[:600].rstrip('.')}."
