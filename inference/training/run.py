"""A fitted pair and what can be done with it: look at it, save it, take it to ArviZ."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..pairs.pair import Pair
from ..random_state import RandomState
from .description import DescriptionError, Trust, describe, rebuild

if TYPE_CHECKING:
    import pandas as pd

    from ..objectives import Objective

__all__ = ["Run", "load"]


@dataclass(frozen=True)
class Run:
    """What :func:`~aevb.inference.fit` returns.

    ``model`` and ``guide`` are the user's own programs with their fitted parameters; ``settings`` says how the run
    was made.
    """

    pair: Pair
    objective: Objective | None
    rows: tuple[Mapping[str, float], ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def model(self) -> Callable[..., Any]:
        """The generative program, parameters and all."""
        return self.pair.model

    @property
    def guide(self) -> Callable[..., Any] | None:
        """The recognition program, or ``None``."""
        return self.pair.guide

    @property
    def history(self) -> pd.DataFrame:
        """One row an epoch: epoch, step, samples_seen, gradient_evaluations, seconds, and what the objective reports.

        ``samples_seen`` counts visits of datapoints, ``gradient_evaluations`` the gradients taken at them
        (:func:`~aevb.inference.objectives.evaluations_per_visit`); reports are means over the epoch, in nats.
        """
        import pandas as pd

        return pd.DataFrame(list(self.rows))

    @property
    def params(self) -> dict[str, Tensor]:
        """Every parameter's fitted value, constrained, by the user's own name."""
        guide = {} if self.pair.guide is None else self.pair.guide.values()
        return self.pair.model.values() | guide

    def to_arviz(self, data: Any, num_samples: int = 500, num_predictive: int = 100, seed: int = 0) -> Any:
        """Posterior draws from the guide as ArviZ data; see :func:`~..posterior.arviz_export.guide_draws`."""
        from ..posterior.arviz_export import guide_draws

        return guide_draws(self.pair, data, num_samples=num_samples, num_predictive=num_predictive, seed=seed)

    def save(self, folder: str | Path, extra: Mapping[str, Any] | None = None) -> Path:
        """Write ``config.json``, ``history.csv`` and ``model.safetensors`` into a folder.

        Args:
            folder: Where to; it is made.
            extra: Further entries of ``config.json``.

        Returns:
            The folder.
        """
        from safetensors.torch import save_file

        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        config = {**self._config(), **(extra or {})}
        (path / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        self.history.to_csv(path / "history.csv", index=False)
        example = {f"example.{i}": part.contiguous() for i, part in enumerate(self.pair.example)}
        save_file(_distinct(self.pair) | example, str(path / "model.safetensors"))
        return path

    def _config(self) -> dict[str, Any]:
        programs = [self.pair.model.fn, None if self.pair.guide is None else self.pair.guide.fn]
        try:
            description, reason = describe(programs), None
        except DescriptionError as error:
            description, reason = None, str(error)
        return {
            "pair": description,
            "not_rebuildable": reason,
            "has_guide": self.pair.guide is not None,
            "objective": repr(self.objective),
            "settings": dict(self.settings),
        }


def load(
    folder: str | Path,
    model: Callable[..., Any] | None = None,
    guide: Callable[..., Any] | None = None,
    *,
    trust: Trust = (),
) -> Run:
    """Read a run folder back.

    A folder is a file that somebody wrote: what its ``config.json`` names is followed among this package's own blocks
    and what is trusted here, and nothing else is imported or called.

    Args:
        folder: What :meth:`Run.save` or the command wrote.
        model: The model, where the folder cannot say how to build it (a function of a notebook).
        guide: The guide, likewise.
        trust: What of the user's own the folder may name: names of modules that may be imported, with the modules
            inside them (``trust=["my_module"]``), or classes and functions themselves.

    Returns:
        The run, its pair ready for evidence, ArviZ and further training; its objective is named in ``settings``.

    Raises:
        ValueError: The folder is no run, names what is not trusted, or holds another pair than the one given.
    """
    path = Path(folder)
    config = read_config(path)
    if model is None and guide is not None:
        raise ValueError("load(folder, guide=...) needs model=... as well: a pair is given whole or not at all.")
    if model is None:
        model, guide = _described(path, config, trust)
    pair = Pair(model, guide)
    _restore(pair, path)
    rows: tuple[dict[str, float], ...] = ()
    if (path / "history.csv").exists() and (path / "history.csv").stat().st_size > 1:
        import pandas as pd

        rows = tuple(
            {str(k): float(v) for k, v in row.items()} for row in pd.read_csv(path / "history.csv").to_dict("records")
        )
    return Run(pair, None, rows, {**config.get("settings", {}), "objective": config.get("objective")})


def _described(path: Path, config: Mapping[str, Any], trust: Trust) -> tuple[Callable[..., Any], Any]:
    """The pair that a run folder describes."""
    if config.get("pair") is None:
        raise ValueError(
            f"{path} does not say how to build its pair ({config.get('not_rebuildable')}); "
            "call load(folder, model=..., guide=...)."
        )
    try:
        pair = rebuild(config["pair"], trust)
    except DescriptionError as error:
        raise ValueError(f"{path} is not opened: {error}") from error
    if not (isinstance(pair, list) and len(pair) == 2 and callable(pair[0]) and (pair[1] is None or callable(pair[1]))):
        raise ValueError(f"{path / 'config.json'} describes no pair: a model, and a guide or null.")
    return pair[0], pair[1]


def read_config(folder: Path) -> dict[str, Any]:
    """The ``config.json`` of a run folder.

    Raises:
        ValueError: There is none, or it is not JSON.
    """
    missing = [name for name in ("config.json", "model.safetensors") if not (folder / name).is_file()]
    if missing:
        raise ValueError(
            f"{folder} is no run folder: it has no {' and no '.join(missing)}. `aevb fit --out DIR` makes one."
        )
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{folder / 'config.json'} is not JSON: {error}.") from error
    if not isinstance(config, dict):
        raise ValueError(
            f"{folder / 'config.json'} holds a {type(config).__name__}; an object with named entries is due."
        )
    if not isinstance(config.get("settings", {}), dict):
        raise ValueError(f"the settings in {folder / 'config.json'} must be an object with named entries.")
    return config


def _restore(pair: Pair, path: Path) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(str(path / "model.safetensors"))
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path / 'model.safetensors'} cannot be read: {error}.") from error
    example = [tensors.pop(name) for name in sorted(n for n in tensors if n.startswith("example."))]
    with RandomState(seed=0):  # one run of the programs brings plain functions' parameters into being
        pair.check(tuple(example))
    wanted, state = set(_distinct(pair)), pair.state_dict()
    if wanted != set(tensors) or any(state[name].shape != tensors[name].shape for name in wanted):
        differing = sorted(wanted ^ set(tensors)) or "shapes"
        raise ValueError(f"{path} holds the parameters of another pair: they differ in {differing}.")
    pair.load_state_dict(tensors, strict=False)


def _distinct(pair: Pair) -> dict[str, Tensor]:
    """The state with every shared tensor under one name only."""
    seen: set[tuple[int, torch.Size]] = set()
    kept: dict[str, Tensor] = {}
    for name, value in pair.state_dict().items():
        key = (value.data_ptr(), value.shape)
        if value.numel() and key in seen:
            continue
        seen.add(key)
        kept[name] = value.detach().cpu().contiguous()
    return kept
