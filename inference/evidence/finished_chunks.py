"""What a long estimate has finished, in a file, so that a run which was broken off goes on where it stopped."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..files import replacing
from ..pairs.sites import Data

__all__ = ["FinishedChunks", "digest"]


class FinishedChunks:
    """Tensors of finished chunks, one file that is replaced whole, with the settings that they are the answer to.

    Args:
        path: The file (safetensors); ``None`` keeps nothing.
        settings: Everything that the numbers depend on, as JSON.

    Raises:
        ValueError: The file belongs to other settings, another pair or other data; the message names what differs.
    """

    def __init__(self, path: str | Path | None, settings: dict[str, Any]) -> None:
        self.path = None if path is None else Path(path)
        self.settings = json.loads(json.dumps(settings))
        self._tensors: dict[str, Tensor] = {}
        self._digests: dict[str, str] = {}
        if self.path is not None and self.path.exists():
            self._read(self.path)

    def get(self, index: int, data: Data) -> Tensor | None:
        """The tensor of chunk ``index``, if it is finished.

        Raises:
            ValueError: It was made from other data.
        """
        if str(index) not in self._tensors:
            return None
        if self._digests[str(index)] != digest(data):
            raise ValueError(f"{self.path} holds chunk {index} of other data; give another checkpoint, or remove it.")
        return self._tensors[str(index)]

    def put(self, index: int, data: Data, tensor: Tensor) -> None:
        """Keep a finished chunk."""
        if self.path is None:
            return
        from safetensors.torch import save_file

        self._tensors[str(index)] = tensor.contiguous()
        self._digests[str(index)] = digest(data)
        metadata = {"settings": json.dumps(self.settings), "digests": json.dumps(self._digests)}
        with replacing(self.path) as unfinished:
            save_file(self._tensors, str(unfinished), metadata=metadata)

    def _read(self, path: Path) -> None:
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(str(path), framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
            settings = json.loads(metadata["settings"])
            self._digests = json.loads(metadata["digests"])
        except (SafetensorError, KeyError, ValueError) as error:
            raise ValueError(
                f"{path} is no checkpoint of an estimate ({error}); give another, or remove it."
            ) from error
        known, asked = settings, self.settings
        names = sorted(name for name in known.keys() | asked.keys() if known.get(name) != asked.get(name))
        if names:
            differences = ", ".join(f"{name} {known.get(name)} there, {asked.get(name)} here" for name in names)
            raise ValueError(
                f"{path} holds an estimate of other settings: {differences}; give another checkpoint, or remove it."
            )
        self._tensors = tensors


def digest(what: Data | nn.Module) -> str:
    """A short fingerprint of tensors, or of a module's parameters and buffers."""
    named = what.state_dict() if isinstance(what, nn.Module) else {str(i): part for i, part in enumerate(what)}
    found = hashlib.sha256()
    for name, value in sorted(named.items()):
        if isinstance(value, Tensor):
            found.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
            found.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:16]
