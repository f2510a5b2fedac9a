"""The one training loop: batches, players' optimisers, seeds, history, checkpoints; any objective.

``Fit`` is an iterator over steps and ``fit`` drains it. A step asks the objective for its phases on a batch; each
phase hands every named player the gradient of its own loss, and only that player's parameters move.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from ..evidence.elbo import mean_bound
from ..objectives import SGVB, Batch, Objective, evaluations_per_visit
from ..one_line import reason
from ..pairs.contract import check_rows
from ..pairs.data import as_rows
from ..pairs.finding import grey_values
from ..pairs.pair import Pair
from ..pairs.program import Program
from ..pairs.sites import as_data
from ..progress import Progress
from ..random_state import RandomState
from .checkpoint import observer_states, read_checkpoint, restore_observers, write_checkpoint
from .non_finite import NonFiniteError, explain
from .parameter_groups import Optimizer, Players
from .run import Run
from .settings import Training, adam
from .step import EagerStep, NotFinite
from .step_runner import Levels

__all__ = ["Fit", "Observer", "fit"]

Observer = Callable[["Fit"], None]

_trained = WeakTensorKeyDictionary()
"""The parameters that some fit of this process has trained."""


def fit(
    model: Callable[..., Any],
    guide: Callable[..., Any] | None,
    data: Any,
    *,
    objective: Objective | None = None,
    optimizer: Optimizer | Mapping[str, Optimizer] = adam,
    epochs: int | None = None,
    steps: int | None = None,
    samples_seen: float | None = None,
    batch_size: int = 100,
    validation: Any = None,
    seed: int = 0,
    device: str = "auto",
    compile: str = "auto",
    precision: str = "float32",
    clip_norm: float | None = None,
    checkpoint: str | Path | None = None,
    resume: bool = False,
    observers: Sequence[Observer] = (),
    progress: bool = True,
) -> Run:
    r"""Train a Pyro model/guide pair with any objective.

    Args:
        model: A Pyro model ``model(*data)``: one plate over the batch, sites observed on the data. A module is trained
            in place, as in PyTorch: another fit of it goes on from its weights, and says so. ``pyro.param`` statements
            of a plain function begin anew in every fit; those of ``run.model`` go on.
        guide: A Pyro guide over the same latents, likewise; ``None`` for an objective that trains the model alone.
        data: A tensor or array ``[N, ...]``, a tuple of them (the programs' arguments), or anything with ``len`` and
            ``data[index]``.
        objective: The algorithm; by default ``SGVB()``.
        optimizer: From a list of parameters to a torch optimiser, e.g. ``partial(torch.optim.Adagrad, lr=0.02)``,
            or one such callable a player, by name.
        epochs: Passes over the data (100 where no length is given). A pass is a fresh shuffle cut into whole
            batches; what is left over sits out that pass.
        steps: Batches, in place of epochs.
        samples_seen: Datapoints visited, in place of epochs.
        batch_size: Datapoints a batch (all of them where there are fewer).
        validation: Held-out data whose bound is followed, one row per epoch (a guide without a density has none).
        seed: Of batches and draws; the same seed gives the same result to the bit on one machine. The global
            random state is left as it was found.
        device: ``"auto"`` (an accelerator where there is one), ``"cpu"``, ``"cuda"``...
        compile: ``"graph"`` runs the step as one captured graph, the same to rounding; ``"full"`` compiles that graph;
            ``"auto"`` does what pays in a run of this length; ``"never"`` runs the programs themselves at each step.
            A pair that cannot be captured runs as under ``"never"``, and a warning says why: one that reads a tensor's
            values into Python, draws outside torch, or changes what it holds at every step. Numbers, switches, hooks
            and tensors that the programs hold (in modules and objects, in what a function closes over, in globals and
            settings of the optimisers) are looked at where observers or the caller may have changed them, and the step
            is captured anew; every tenfold number of steps it is held against one under ``"never"``. What that cannot
            see in between is what no Python object of the programs holds: a clock, a file, an environment variable, an
            iterator, the inside of a library's object. Pass such a number through a buffer that is written in place.
        precision: Of the matrix products in training: ``"float32"``, or ``"bfloat16"``, faster where the processor has
            units for it; log-densities, sums and updates stay in float32. Estimates are always made in float32.
        clip_norm: The norm that the gradient of a loss is scaled down to where it is larger.
        checkpoint: A file that is written after every epoch.
        resume: Go on from ``checkpoint`` where it exists.
        observers: Called with the :class:`Fit` after every epoch, e.g. ``EarlyStopping()``. One that has
            ``start_run(fit)`` or ``end_run(fit)`` is told of the run's beginning or end as well.
        progress: Show a bar with the bound and the rate.

    Returns:
        The run: the pair, its history and what can be done with it.

    Raises:
        ContractError: The pair breaks the contract.
        NonFiniteError: A loss or a gradient is NaN or infinite; its ``run`` holds the last good parameters.
        ValueError: An argument is out of range, or more than one length is given.

    Example:
        >>> import torch, pyro, pyro.distributions as dist
        >>> def model(x):
        ...     loc = pyro.param("loc", torch.tensor(0.0))
        ...     with pyro.plate("data", len(x)):
        ...         z = pyro.sample("z", dist.Normal(loc, 1.0))
        ...         pyro.sample("x", dist.Normal(z, 1.0), obs=x)
        >>> def guide(x):
        ...     shift = pyro.param("shift", torch.tensor(0.0))
        ...     scale = pyro.param("scale", torch.tensor(1.0), constraint=dist.constraints.positive)
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("z", dist.Normal(x / 2 + shift, scale))
        >>> x = 2.0 + 1.4 * torch.randn(500, generator=torch.Generator().manual_seed(0))
        >>> run = fit(model, guide, x, optimizer=lambda p: torch.optim.Adam(p, lr=0.1), epochs=60, progress=False)
        >>> bool(abs(run.params["loc"] - x.mean()) < 0.1), bool(abs(run.params["scale"] - 0.5**0.5) < 0.1)
        (True, True)
        >>> run.pair.sample_guide(x[:3], num_samples=10)["z"].shape  # [num_samples, batch]
        torch.Size([10, 3])
    """
    training = Training(
        optimizer=optimizer,
        epochs=epochs,
        steps=steps,
        samples_seen=samples_seen,
        batch_size=batch_size,
        seed=seed,
        device=device,
        compile=compile,
        precision=precision,
        clip_norm=clip_norm,
        checkpoint=checkpoint,
        resume=resume,
        progress=progress,
    )
    loop = Fit(model, guide, data, training, objective=objective, validation=validation, observers=observers)
    return loop.drain()


class Fit:
    """The loop that :func:`fit` drains: ``for losses in Fit(...)`` makes one step at a time.

    It takes the arguments of :func:`fit`; those that are :class:`~.settings.Training`'s may come as one, with others by
    name in place of its own. Each step yields what the objective reports, as detached tensors.

    Example:
        >>> import torch, pyro, pyro.distributions as dist
        >>> def model(x):
        ...     loc = pyro.param("loc", torch.tensor(0.0))
        ...     with pyro.plate("data", len(x)):
        ...         z = pyro.sample("z", dist.Normal(loc, 1.0))
        ...         pyro.sample("x", dist.Normal(z, 1.0), obs=x)
        >>> def guide(x):
        ...     scale = pyro.param("scale", torch.tensor(1.0), constraint=dist.constraints.positive)
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("z", dist.Normal(x / 2, scale))
        >>> loop = Fit(model, guide, torch.linspace(-1.0, 1.0, 100), steps=20, progress=False)
        >>> for losses in loop:
        ...     if losses["bound"] > -1.4:  # nats per datapoint
        ...         loop.stop("good enough")
        >>> loop.done, loop.run
        (True, Run(SGVB(estimator='B', num_samples=1), ... steps, ... samples seen, bound ... nats per datapoint))
    """

    def __init__(
        self,
        model: Callable[..., Any],
        guide: Callable[..., Any] | None,
        data: Any,
        training: Training | None = None,
        *,
        objective: Objective | None = None,
        validation: Any = None,
        observers: Sequence[Observer] = (),
        **settings: Any,
    ) -> None:
        self.training = training = replace(Training() if training is None else training, **settings)
        self.device = _device(training.device)
        self.data = as_rows(data, self.device)
        self.validation = None if validation is None else as_rows(validation, self.device)
        self.objective: Objective = SGVB() if objective is None else objective
        self.batch_size = min(training.batch_size, len(self.data))
        self.length = training.length(len(self.data))
        self.seed = training.seed
        self.checkpoint = None if training.checkpoint is None else Path(training.checkpoint)
        # An algorithm that can fail in a way of its own brings the observer that watches for it.
        self.observers = [*observers, *getattr(self.objective, "observers", ())]

        self.pair = Pair(model, guide).to(self.device)
        self.random = RandomState(self.seed, self.device)
        self.memory = self._prepare()
        self.players = Players(self.pair, self.memory, self.objective, training.optimizer)
        if not any(self.players.parameters().values()):
            raise ValueError(
                f"there is nothing to train: {sorted(self.objective.trains)} have no parameters. Announce a network "
                'inside its program, pyro.module("decoder", decoder), and a lone number by pyro.param.'
            )
        self._say_what_goes_on(model, guide)
        eager = EagerStep(self.objective, self.pair, self.memory, self.players, training.clip_norm, training.precision)
        self._make_step = Levels(eager, self.data, level=training.compile, steps=self.length.steps)

        self.step = 0
        self.stopped: str | None = None
        self.history: list[dict[str, float]] = []
        self._order: Tensor = torch.empty(0, dtype=torch.long)
        self._clock = torch.zeros((), dtype=torch.long, device=self.device)  # a new one would make an accelerator wait
        self._sums: dict[str, Tensor] = {}
        self._counted = 0
        self._seconds = 0.0
        self._progress = Progress(self.length.steps, self.batch_size, enabled=training.progress)
        self._tell("start_run")
        if training.resume and self.checkpoint is not None and self.checkpoint.exists():
            self._resume(self.checkpoint)
            self._mark_trained()
            if self.done:
                self._tell("end_run")

    # ------------------------------------------------------------------ the loop

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        """Step until the length is reached or an observer stops the run."""
        with self._progress, closing(self._make_step):
            while not self.done:
                yield self.advance()

    def drain(self) -> Run:
        """Step to the end, and return the run."""
        with self._progress, closing(self._make_step):
            self._make_step.look(self.data)
            while not self.done:
                with self.random:  # once an epoch: the stream need not be put away between steps nobody sees
                    while not self._step():
                        pass
                self._close_epoch()
        return self.run

    def advance(self) -> dict[str, Tensor]:
        """Make one step and return what the objective reports of it."""
        self._make_step.look(self.data)
        with self.random:
            over = self._step()
        if over:
            self._close_epoch()
        return self._report

    @property
    def done(self) -> bool:
        """True once the length is reached or an observer stopped the run."""
        return self.step >= self.length.steps or self.stopped is not None

    def stop(self, reason: str) -> None:
        """End the run after this epoch (for observers)."""
        self.stopped = reason

    @property
    def run(self) -> Run:
        """The pair as it stands, with its history."""
        return Run(
            pair=self.pair,
            objective=self.objective,
            rows=tuple(self.history),
            settings={
                "batch_size": self.batch_size,
                "steps": self.step,
                **self._spent,
                "seed": self.seed,
                "device": str(self.device),
                "stopped": self.stopped,
            },
        )

    @property
    def _spent(self) -> dict[str, int]:
        """What has been spent on the data, on both axes: visits of datapoints, and gradients taken at them."""
        seen = self.step * self.batch_size
        return {"samples_seen": seen, "gradient_evaluations": seen * evaluations_per_visit(self.objective, self.memory)}

    # ------------------------------------------------------------------ stopping in the middle

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on: parameters, optimisers, memory, random state, history."""
        return {
            "pair": self.pair.state_dict(),
            "memory": self.memory.state_dict(),
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
            "random": self.random.state_dict(),
            "observers": observer_states(self.observers),
            "step": self.step,
            "stopped": self.stopped,
            "seconds": self._seconds,
            "history": self.history,
            **self._identity,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where another loop of the same pair, objective and data stopped."""
        self.pair.load_state_dict(state["pair"])
        self.memory.load_state_dict(state["memory"])
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
        self.random.load_state_dict({n: v.cpu() if isinstance(v, Tensor) else v for n, v in state["random"].items()})
        restore_observers(self.observers, state["observers"])
        self.step, self.history, self._seconds = state["step"], state["history"], state["seconds"]
        self.stopped = state.get("stopped")
        per_epoch = self.length.steps_per_epoch
        if self.step % per_epoch:  # a run that ended inside an epoch goes on with the rest of that shuffle
            self._order = self.random.permutation(len(self.data), epoch=self.step // per_epoch)

    @property
    def _identity(self) -> dict[str, int]:
        """What two loops must have in common for one to go on where the other stopped."""
        return {"rows": len(self.data), "batch_size": self.batch_size, "seed": self.seed}

    def _resume(self, path: Path) -> None:
        state = read_checkpoint(path, self.device, self._identity)
        try:
            self.load_state_dict(state)
        except (RuntimeError, KeyError, ValueError) as error:
            raise ValueError(
                f"cannot resume from {path}: it holds another pair or objective: {reason(error)}"
            ) from error

    # ------------------------------------------------------------------ one step

    def _step(self) -> bool:
        """Make one step inside the run's random stream; say whether it ended an epoch or the run."""
        began, current = time.perf_counter(), self.step
        batch = self._batch(current)
        try:
            self._report = self._make_step(batch, current)
            self.step += 1
            over = self.step % self.length.steps_per_epoch == 0 or self.step == self.length.steps
            if over:
                self._make_step.settle()
        except NotFinite as error:
            self.step = current - error.late
            raise self._said(error) from error
        self._counted += 1
        for name, value in self._report.items():
            if name in self._sums:
                self._sums[name].add_(value)
            else:
                self._sums[name] = value.detach().clone()
        self._seconds += time.perf_counter() - began
        self._progress.advance(self.step, self._report)
        return over

    def _batch(self, step: int) -> Batch:
        position = step % self.length.steps_per_epoch * self.batch_size
        if len(self._order) == 0:
            self._mark_trained()
        if position == 0 or len(self._order) == 0:
            order = self.random.permutation(len(self.data), epoch=step // self.length.steps_per_epoch)
            self._order = order.to(self.device)
        index = self._order[position : position + self.batch_size]
        data = () if self._make_step.gathers else as_data(self.data[index])
        return Batch(data, index, len(self.data), self._clock.fill_(step))

    def _said(self, error: NotFinite) -> NonFiniteError:
        """The error in full: step, players and site; the run holds the last good parameters."""
        self.pair.zero_grad(set_to_none=True)
        what = "gradient" if math.isfinite(error.loss) else "loss"
        position = self.step % self.length.steps_per_epoch * self.batch_size
        rows = self._order[position : position + self.batch_size]
        why = explain(self.pair, as_data(self.data[rows]), rows, moved=self.step > 0)
        return NonFiniteError(
            f"step {self.step + 1}: the {what} of {' and '.join(error.players)} is not finite "
            f"(loss {error.loss:g}, gradient norm {error.norm:g}); {why} "
            f"The parameters are kept as step {self.step} left them.",
            run=self.run,
        )

    def _close_epoch(self) -> None:
        row: dict[str, float] = {
            "epoch": math.ceil(self.step / self.length.steps_per_epoch),
            "step": self.step,
            **self._spent,
            "seconds": self._seconds,
        }
        row |= {name: float(value) / self._counted for name, value in self._sums.items()}
        if self.validation is not None and "guide" in self.objective.trains and self.pair.has_density:
            row["validation_bound"] = mean_bound(self.pair, self.validation, seed=self.seed)
        self._sums, self._counted = {}, 0
        self.history.append(row)
        self._progress.row(row)
        for observer in self.observers:
            observer(self)
        if self.observers:
            self._make_step.look(self.data)
        if self.checkpoint is not None:
            write_checkpoint(self.state_dict(), self.checkpoint)
        if self.done:  # after the checkpoint, from which a longer run may go on where this one stood
            self._tell("end_run")

    def _tell(self, moment: str) -> None:
        """Call the observers that want to know of a moment, ``start_run`` or ``end_run``."""
        for observer in self.observers:
            if hasattr(observer, moment):
                getattr(observer, moment)(self)

    # ------------------------------------------------------------------ the players

    def _prepare(self) -> nn.Module:
        """Check the pair on its first rows and let the objective make its memory."""
        if isinstance(self.objective, type):
            raise ValueError(
                f"objective={self.objective.__name__} is a class; pass one of it: {self.objective.__name__}()."
            )
        wants_guide = "guide" in self.objective.trains
        if wants_guide and self.pair.guide is None:
            name = type(self.objective).__name__
            raise ValueError(f"{name} trains a guide, but guide=None; pass one, or an objective without (MCEM).")
        with self.random:
            rows = torch.arange(min(len(self.data), 16), device=self.device)
            self.pair.check(as_data(self.data[rows])).to(self.device)
            for data in (self.data, self.validation):
                if data is not None:
                    check_rows(self.pair, data)
            for finding in grey_values(self.pair, self.pair.example):
                warnings.warn(finding.sentence, stacklevel=4)
            return self.objective.start(self.pair, self.data).to(self.device)

    def _mark_trained(self) -> None:
        """Remember whose weights this fit changes."""
        _trained.update({p: None for mine in self.players.parameters().values() for p in mine})

    def _say_what_goes_on(self, model: object, guide: object) -> None:
        """Warn of modules that an earlier fit trained; the programs of a run are handed over to go on."""
        given = {"model": model, "guide": guide}
        parameters_of = self.players.parameters()
        again = [
            name
            for name, program in given.items()
            if not isinstance(program, Program) and any(p in _trained for p in parameters_of.get(name, []))
        ]
        if again:
            warnings.warn(
                f"this fit goes on from weights of an earlier one (its {' and its '.join(again)}), whose run holds the "
                "same modules and changes with them. Build them anew, or copy them before the first fit "
                "(copy.deepcopy((model, guide))), to start from the beginning; pass run.model and run.guide to go on.",
                RuntimeWarning,
                stacklevel=4,
            )

    @property
    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """Each player's optimiser."""
        return self.players.optimizers


def _device(name: str) -> torch.device:
    if name != "auto":
        try:
            return torch.empty(0, device=name).device
        except (RuntimeError, AssertionError) as error:
            reason = str(error).partition("\n")[0]
            raise ValueError(f'device {name!r} cannot be used ({reason}); take "auto" or "cpu".') from error
    found = torch.accelerator.current_accelerator(check_available=True)
    return torch.device("cpu") if found is None else found
