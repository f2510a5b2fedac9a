"""The type torch takes for a shape."""

import torch

__all__ = ["EMPTY", "Shape"]

Shape = torch.Size | list[int] | tuple[int, ...]
EMPTY = torch.Size()
