"""What every objective holds."""

import copy
import math
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from aevb import guides
from aevb.inference import Pair, fit
from aevb.inference.objectives import Batch
from aevb.inference.pairs.data import as_rows
from aevb.models import ProbabilisticPCA, networks
from aevb.testing.holds import agree, insist, seeded

__all__ = ["check_objective"]

_WIDTH, _DIM, _ROWS = 4, 2, 40
_PLAYERS = ("model", "guide")


def check_objective(make: Callable[[], Any], *, steps: int = 100, lr: float = 0.02) -> None:
    """Hold an objective to what every objective holds, on a linear-Gaussian model whose log p(x) is known.

    Its phases give finite losses to players that it trains, each of whom learns by one; a ``bound`` that it reports
    lies below log p(x); trained by it, the model's log p(x) rises (or the guide's bound, where the model is held
    still); a captured step is the eager one; two runs of one seed are equal.

    Args:
        make: What makes the objective.
        steps: Of training, by which log p(x) has to rise.
        lr: The learning rate.

    Raises:
        AssertionError: Something does not hold; the message says what.

    Example:
        >>> from aevb.inference import SGVB
        >>> check_objective(SGVB, steps=50)
    """
    with seeded():
        model, guide, x = _world()
        objective = make()
        trains = objective.trains
        insist(
            isinstance(trains, frozenset) and bool(trains), f"trains must be a frozenset of players, but is {trains!r}"
        )
        _phases_are_players_losses(make(), *copy.deepcopy((model, guide)), x)
        _reports_a_bound(make(), *copy.deepcopy((model, guide)), x)
        before = float(model.log_evidence(x).detach().mean())
        ends = [_trained(make(), model, guide, x, level, 10, lr) for level in ("never", "never", "graph")]
        insist(torch.equal(ends[0][0], ends[1][0]), "two runs of one seed are not equal")
        agree(ends[2][0], ends[0][0], "captured steps train otherwise than eager ones", 1e-4)
        after, bound = _trained(make(), model, guide, x, "auto", steps, lr)[1:]
        if trains & {"model", "weights"}:
            insist(after > before, f"trained, the model's log p(x) falls from {before:.3f} to {after:.3f} nats")
        elif "guide" in trains:
            start = _bound(model, guide, x)
            insist(bound > start, f"trained, the guide's bound falls from {start:.3f} to {bound:.3f} nats")


def _world() -> tuple[ProbabilisticPCA, nn.Module, Tensor]:
    """A model some way off from the one that made the data, with a guide that knows nothing yet."""
    truth = ProbabilisticPCA(_WIDTH, _DIM).double()
    x = truth.simulate(_ROWS).detach()
    model = copy.deepcopy(truth)
    with torch.no_grad():
        for value in model.parameters():
            value.add_(0.5 * torch.randn_like(value))
    guide = guides.Normal(_DIM, networks.MLP(_WIDTH, hidden=[8])).double()
    return model, guide, x


def _pair(objective: Any, model: nn.Module, guide: nn.Module, x: Tensor) -> Pair:
    return Pair(model, guide if "guide" in objective.trains else None).check(x)


def _phases_are_players_losses(objective: Any, model: nn.Module, guide: nn.Module, x: Tensor) -> None:
    pair, rows = _pair(objective, model, guide, x), as_rows(x, x.device)
    memory = objective.start(pair, rows)
    insist(isinstance(memory, nn.Module), f"start must return a module, but returns a {type(memory).__name__}")
    players = {name: pair.get_submodule(name) for name in _PLAYERS if getattr(pair, name) is not None}
    players |= dict(memory.named_children())
    learnt: set[str] = set()
    for phase in objective(pair, _batch(x), memory):
        for player, loss in phase.losses.items():
            insist(player in objective.trains and player in players, f"a phase trains {player!r}, which is no player")
            insist(loss.dim() == 0 and bool(loss.isfinite()), f"the loss of {player!r} is no finite scalar")
            learning = [p for p in players[player].parameters() if p.requires_grad]
            slopes = torch.autograd.grad(loss, learning, retain_graph=True, allow_unused=True)
            learnt |= {player} if any(s is not None and bool((s != 0).any()) for s in slopes) else set()
        for name, value in phase.report.items():
            insist(torch.as_tensor(value).numel() == 1, f"the report {name!r} is no scalar")
            insist(bool(torch.as_tensor(value).isfinite()), f"the report {name!r} is not finite")
    insist(learnt == set(objective.trains), f"of the players {sorted(objective.trains)} only {sorted(learnt)} learn")


def _batch(x: Tensor) -> Batch:
    return Batch((x,), torch.arange(len(x)), len(x), torch.tensor(0))


def _reports_a_bound(objective: Any, model: ProbabilisticPCA, guide: nn.Module, x: Tensor) -> None:
    pair = _pair(objective, model, guide, x)
    memory = objective.start(pair, as_rows(x, x.device))
    right = float(model.log_evidence(x).detach().mean())
    told = []
    for _ in range(30):
        some, kept = copy.deepcopy((pair, memory))  # a step may move both
        reports = [phase.report for phase in objective(some, _batch(x), kept)]
        told += [float(report["bound"]) for report in reports if "bound" in report]
    if told:
        bound = torch.tensor(told).double()
        error = float(bound.std()) / math.sqrt(len(told)) if len(told) > 1 else 0.0
        above = float(bound.mean()) - right
        insist(above < 4.5 * error + 1e-6, f"the bound that it reports lies {above:.3g} nats above log p(x)")


def _trained(
    objective: Any, model: ProbabilisticPCA, guide: nn.Module, x: Tensor, level: str, steps: int, lr: float
) -> tuple[Tensor, float, float]:
    """Every parameter after so many steps, the model's mean log p(x), and the guide's bound."""
    model, guide = copy.deepcopy((model, guide))
    own = "guide" in objective.trains
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run = fit(
            model,
            guide if own else None,
            x,
            objective=objective,
            steps=steps,
            batch_size=20,
            optimizer=lambda parameters: torch.optim.Adam(parameters, lr=lr),
            compile=level,
            progress=False,
        )
    parameters = torch.cat([value.detach().flatten() for value in run.pair.parameters()])
    return parameters, float(model.log_evidence(x).detach().mean()), _bound(model, guide, x) if own else math.nan


def _bound(model: nn.Module, guide: nn.Module, x: Tensor) -> float:
    pair = Pair(model, guide).check(x)
    if not pair.has_density:
        return math.nan
    with pair.evaluation(), torch.no_grad():
        return float(pair.cloud(x, 200).log_weight.mean())
