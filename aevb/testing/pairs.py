"""What holds of every block inside a pair: rows stand alone, a captured step is the eager one, a run comes back."""

import copy
import tempfile
from typing import Any

import torch
from torch import Tensor, nn

from aevb.inference import SGVB, AdversarialVB, Pair, Run, fit, load
from aevb.testing.holds import agree, insist, rows_of, seeded

__all__ = ["check_pair"]


def check_pair(model: nn.Module, guide: nn.Module, data: tuple[Tensor, ...], *, steps: int = 20) -> None:
    """Hold a pair to what every pair holds.

    Args:
        model: The generative program.
        guide: The recognition program.
        data: Their arguments; a few rows in float64.
        steps: Of training, by which a captured step is compared with an eager one.

    Raises:
        AssertionError: A row's densities depend on its batch; a captured step learns something else than an eager one;
            or a saved run does not come back.
        ContractError: The pair breaks the contract.
    """
    with seeded():
        pair = Pair(model, guide).check(data)
        _rows_stand_alone(pair, data)
        dense = pair.has_density
        if dense:
            with pair.evaluation(), torch.no_grad():
                weights = pair.cloud(data, 3).log_weight
            insist(bool(weights.isfinite().all()), "log-weights at the guide's own draws are not finite")
        runs = [_trained(model, guide, data, dense, level, steps) for level in ("never", "graph")]
        _same_parameters(*runs)
        _comes_back(runs[0], data)


def _rows_stand_alone(pair: Pair, data: tuple[Tensor, ...]) -> None:
    """In evaluation mode a row's densities are its own."""
    with pair.evaluation(), torch.no_grad():
        z = pair.sample_guide(data, 2)
        together = _densities(pair, z, data)
        for row in range(len(data[0])):
            at = slice(row, row + 1)
            alone = _densities(pair, {name: value[:, at] for name, value in z.items()}, rows_of(data, at))
            agree(alone, together[..., at], f"row {row} alone has other log-densities than in a batch")


def _densities(pair: Pair, z: dict[str, Tensor], data: tuple[Tensor, ...]) -> Tensor:
    found = list(pair.log_densities(z, data))
    return torch.stack([*found, pair.log_guide(z, data)] if pair.has_density else found)


def _trained(model: nn.Module, guide: nn.Module, data: tuple[Tensor, ...], dense: bool, level: str, steps: int) -> Run:
    # Copied together: a prior that is made of the guide's posterior shares its network.
    model, guide = copy.deepcopy((model, guide))
    objective: Any = SGVB(estimator="A") if dense else AdversarialVB()
    # Where a step cannot be captured (a rejection sampler), the warning that says so is the reader's.
    return fit(
        model, guide, data, objective=objective, steps=steps, batch_size=len(data[0]), compile=level, progress=False
    )


def _same_parameters(eager: Run, captured: Run) -> None:
    for (name, one), other in zip(eager.pair.named_parameters(), captured.pair.parameters(), strict=True):
        agree(other.detach(), one.detach(), f"a captured step trains {name!r} otherwise than an eager one", 1e-5)


def _comes_back(run: Run, data: tuple[Tensor, ...]) -> None:
    """A saved run opens with the densities that it was saved with."""
    with tempfile.TemporaryDirectory() as folder:
        run.save(folder)
        again = load(folder, trust=_classes(run))
    with torch.no_grad(), run.pair.evaluation(), again.pair.evaluation():
        z = run.pair.sample_guide(data, 2)
        agree(
            _densities(again.pair, z, data),
            _densities(run.pair, z, data),
            "a saved run comes back with other densities",
        )


def _classes(run: Run) -> list[Any]:
    """The classes that a pair is made of: whoever checks a block trusts it."""
    return [kind for kind in {type(module) for module in run.pair.modules()} if kind.__module__ != "__main__"]
