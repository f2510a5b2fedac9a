"""A fitted pair and what can be done with it: look at it, save it, take it to ArviZ."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..one_line import reason
from ..pairs.pair import Pair
from ..random_state import RandomState
from .description import DescriptionError, Trust, describe, rebuild
from .run_files import CONFIG, read_config, read_history, read_tensors, write_config, write_history, write_tensors

if TYPE_CHECKING:
    import pandas as pd

    from ..objectives import Objective

__all__ = ["Run", "load"]

_SPENT = {"steps": "steps", "samples_seen": "samples seen"}


@dataclass(frozen=True, repr=False)
class Run:
    """A trained pair with its history and settings, as :func:`~aevb.inference.fit` returns it.

    ``model`` and ``guide`` are the user's own programs with their fitted parameters; ``settings`` says how the run
    was made.

    Example:
        >>> import pyro, torch, pyro.distributions as dist
        >>> from aevb import fit
        >>> def model(x):
        ...     loc = pyro.param("loc", torch.tensor(0.0))
        ...     with pyro.plate("data", len(x)):
        ...         z = pyro.sample("z", dist.Normal(loc, 1.0))
        ...         pyro.sample("x", dist.Normal(z, 1.0), obs=x)
        >>> def guide(x):
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("z", dist.Normal(x / 2, 0.7))
        >>> run = fit(model, guide, torch.linspace(1.0, 3.0, 100), epochs=3, progress=False)
        >>> run
        Run(SGVB(estimator='B', num_samples=1), 3 steps, 300 samples seen, bound ... nats per datapoint)
        >>> list(run.params), list(run.history.columns)  # doctest: +NORMALIZE_WHITESPACE
        (['loc'], ['epoch', 'step', 'samples_seen', 'gradient_evaluations', 'seconds', 'bound'])
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

    def __repr__(self) -> str:
        spent = [f"{self.settings[name]:,} {words}" for name, words in _SPENT.items() if name in self.settings]
        bound = self.rows[-1].get("bound") if self.rows else None
        reached = [] if bound is None else [f"bound {bound:.3f} nats per datapoint"]
        return f"Run({', '.join([repr(self.objective), *spent, *reached])})"

    @property
    def history(self) -> pd.DataFrame:
        """One row per epoch: epoch, step, samples_seen, gradient_evaluations, seconds, and what the objective reports.

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
        """Write ``config.json``, ``history.csv`` and ``model.safetensors`` into a folder, each whole or not at all.

        Args:
            folder: Where to; it is made.
            extra: Further entries of ``config.json``.

        Returns:
            The folder.

        Raises:
            ValueError: A link in the folder leads out of it.
        """
        path = Path(folder)
        example = {f"example.{i}": part.contiguous() for i, part in enumerate(self.pair.example)}
        write_tensors(path, _distinct(self.pair) | example)
        write_history(path, self.rows)
        write_config(path, {**self._config(), **(extra or {})})
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
    programs = _described(path, config, trust) if model is None else (model, guide)
    tensors = read_tensors(path)
    example = tuple(tensors.pop(name) for name in sorted(n for n in tensors if n.startswith("example.")))
    try:
        with RandomState(seed=0):  # one run of the programs brings plain functions' parameters into being
            pair = Pair(*programs)
            if model is None:
                _take_the_type_of(pair, tensors)
            pair.check(example)
    except Exception as error:
        if model is not None:  # the user's own programs, whose errors are theirs to read
            raise
        raise ValueError(f"{path / CONFIG} describes no pair that runs on its example: {reason(error)}") from error
    _restore(pair, tensors, path)
    settings = {**config.get("settings", {}), "objective": config.get("objective")}
    return Run(pair, None, read_history(path), settings)


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
        raise ValueError(f"{path / CONFIG} describes no pair: a model, and a guide or null.")
    return pair[0], pair[1]


def _take_the_type_of(pair: Pair, tensors: Mapping[str, Tensor]) -> None:
    """Rebuild a pair in the floating type that it was saved in: blocks are built in float32."""
    types = {value.dtype for value in tensors.values() if value.is_floating_point()}
    if len(types) == 1:
        pair.to(types.pop())


def _restore(pair: Pair, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Give a pair the parameters of a run folder."""
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
