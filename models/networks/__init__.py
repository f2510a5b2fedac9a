"""Neural networks that encoders and decoders are made of."""

from .conv_decoder import ConvDecoder
from .conv_encoder import ConvEncoder
from .gated_mlp import GatedMLP
from .mlp import MLP
from .residual_mlp import ResidualMLP
from .standardized import Standardized

__all__ = [
    "MLP",
    "ResidualMLP",
    "GatedMLP",
    "ConvEncoder",
    "ConvDecoder",
    "Standardized",
]
