"""Neural networks that encoders and decoders are made of."""

from .mlp import MLP

__all__ = ["MLP"]
