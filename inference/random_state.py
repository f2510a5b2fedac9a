"""A random stream of one's own: what a run draws depends on its seed, and on nothing that is drawn beside it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["RandomState"]


class RandomState:
    """Torch's global random state, swapped for a private one inside ``with``.

    Pyro draws from the global state; entering puts this run's stream there, leaving takes it back, so two runs that
    alternate in one notebook do not disturb each other.

    Example:
        >>> stream = RandomState(seed=0)
        >>> with stream:
        ...     first = torch.rand(1)
        >>> _ = torch.rand(5)
        >>> with stream:
        ...     second = torch.rand(1)
        >>> with RandomState(seed=0):
        ...     bool((torch.rand(2) == torch.cat([first, second])).all())
        True
    """

    def __init__(self, seed: int, device: torch.device | str = "cpu") -> None:
        self.seed = seed
        self.device = torch.device(device)
        self._outside: list[tuple[Tensor, Tensor | None]] = []
        with torch.random.fork_rng(devices=self._cuda()):
            torch.manual_seed(seed)
            self._mine = self._read()

    def __enter__(self) -> RandomState:
        """Put this stream in the global state's place."""
        self._outside.append(self._read())
        self._write(self._mine)
        return self

    def __exit__(self, *exception: object) -> None:
        """Keep where the stream stands and restore the global state."""
        self._mine = self._read()
        self._write(self._outside.pop())

    def permutation(self, size: int, epoch: int) -> Tensor:
        """The shuffle of an epoch, a function of the seed and the epoch alone: ``[size]`` on the CPU."""
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + epoch) % 2**63)
        return torch.randperm(size, generator=generator)

    def state_dict(self) -> dict[str, Any]:
        """Return where the stream stands."""
        return {"cpu": self._mine[0], "cuda": self._mine[1]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from where a stream stood."""
        self._mine = (state["cpu"], state["cuda"] if self._cuda() else None)

    def _cuda(self) -> list[int]:
        return [self.device.index or 0] if self.device.type == "cuda" else []

    def _read(self) -> tuple[Tensor, Tensor | None]:
        return torch.get_rng_state(), torch.cuda.get_rng_state(self.device) if self._cuda() else None

    def _write(self, state: tuple[Tensor, Tensor | None]) -> None:
        torch.set_rng_state(state[0])
        if state[1] is not None:
            torch.cuda.set_rng_state(state[1], self.device)
