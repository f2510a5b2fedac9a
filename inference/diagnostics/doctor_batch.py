"""What a batch may not do to a datapoint's densities: its copies, its order and its company must not matter."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

import torch
from torch import Tensor

from ..pairs.pair import Pair
from ..pairs.sites import Data

__all__ = ["batch_faults"]

Fault = tuple[str, Literal["error", "warning", "note"], str]
Densities = Callable[[Tensor], Tensor]
_DRAWS = 2


def batch_faults(pair: Pair, data: Data) -> Iterator[Fault]:
    """Yield (name, severity, sentence) for every way the batch leaks into a datapoint.

    Args:
        pair: A checked pair.
        data: A few rows, at least two.
    """
    if len(data[0]) < 2:
        return
    with pair.evaluation():
        z = pair.sample_prior(data, _DRAWS) if pair.guide is None else pair.sample_guide(data, _DRAWS)
        programs: dict[str, Densities] = {"model": lambda rows: pair.log_joint(_take(z, rows), _rows(data, rows))}
        if pair.guide is not None and pair.has_density:
            programs["guide"] = lambda rows: pair.log_guide(_take(z, rows), _rows(data, rows))
        for role, densities in programs.items():
            fault = _fault(role, densities, len(data[0]))
            if fault is not None:
                yield fault
            elif _normalises(pair) and _coupled_in_training(pair, densities, len(data[0])):
                yield (
                    "batch-norm",
                    "warning",
                    f"batch normalisation couples the datapoints of the {role} in training: a datapoint's density "
                    "depends on its batch, so the bound is not a sum over datapoints; take LayerNorm, or know what "
                    "you do (BN-VAE) and evaluate in evaluation mode.",
                )


def _fault(role: str, densities: Densities, rows: int) -> Fault | None:
    index = torch.arange(rows)
    reference = densities(index)
    if not _same(densities(index), reference):
        return (
            "hidden-draws",
            "error",
            f"the {role}'s log-density changes between two calls with the same latents and data: something is drawn "
            "outside pyro.sample (torch.randn, dropout in evaluation mode); make it a sample site.",
        )
    try:
        doubled = densities(torch.cat([index, index]))[:, :rows]
        turned = densities(index.flip(0)).flip(1)
        halved = densities(index[: rows // 2])
    except (ValueError, RuntimeError, IndexError) as error:
        detail = " ".join(str(error).split())
        return (
            "batch-size",
            "error",
            f"the {role} runs on {rows} rows but not on another number of them ({detail}); write nothing that has the "
            "batch size inside: len(x) for the plate, parameters without a batch dimension.",
        )
    if not _same(doubled, reference):
        return (
            "batch-duplication",
            "error",
            f"the {role}'s log-density of a datapoint moves by {_gap(doubled, reference):.2g} nats when the batch is "
            "duplicated: something is divided or multiplied by the batch size, or summed over it. Let every "
            "datapoint have its own term; the trainer averages.",
        )
    if not _same(turned, reference):
        return (
            "batch-permutation",
            "error",
            f"the {role}'s log-density of a datapoint depends on its place in the batch (it moves by "
            f"{_gap(turned, reference):.2g} nats when the rows are reversed); look for a reshape that mixes rows, a "
            "cumulative sum, or parameters indexed by position.",
        )
    if not _same(halved, reference[:, : rows // 2]):
        return (
            "datapoints-coupled",
            "error",
            f"the {role}'s log-density of a datapoint depends on the other rows of its batch: look for a mean, a "
            "softmax or a normalisation over dimension 0, and make it one over the datapoint's own dimensions.",
        )
    return None


def _coupled_in_training(pair: Pair, densities: Densities, rows: int) -> bool:
    modes = {module: module.training for module in pair.modules()}
    kept = {name: value.detach().clone() for name, value in pair.state_dict().items()}
    index = torch.arange(rows)
    try:
        for module in pair.modules():
            module.training = "BatchNorm" in type(module).__name__
        return not _same(densities(index[: max(2, rows // 2)]), densities(index)[:, : max(2, rows // 2)])
    except (ValueError, RuntimeError):
        return False
    finally:
        for module, mode in modes.items():
            module.training = mode
        pair.load_state_dict(kept)


def _normalises(pair: Pair) -> bool:
    return any("BatchNorm" in type(module).__name__ for module in pair.modules())


def _take(z: dict[str, Tensor], rows: Tensor) -> dict[str, Tensor]:
    return {name: value[:, rows.to(value.device)] for name, value in z.items()}


def _rows(data: Data, rows: Tensor) -> Data:
    return tuple(part[rows.to(part.device)] for part in data)


def _same(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, rtol=1e-5, atol=2e-3)


def _gap(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max())
