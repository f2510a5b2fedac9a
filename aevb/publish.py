"""What a fitted run shows: its figures, its posterior draws and its page, written into its folder."""

from typing import Any

import torch
from torch import Tensor

from aevb import figures
from aevb.data import Dataset
from aevb.inference import Run
from aevb.inference.evidence import Evidence, khat_threshold
from aevb.inference.pairs.predictive import decode, generate, infer, reconstruct
from aevb.report import write_report
from aevb.run_folder import RunFolder

__all__ = ["describe_evidence", "publish", "publish_evidence", "rows"]

_SHOWN = 100  # datapoints and samples that are drawn
_DRAWS = 200  # posterior draws per datapoint in posterior.nc
_REPLICATIONS = 10  # of them followed by a draw of the data, which are larger


def publish(run: Run, data: Dataset, folder: RunFolder) -> None:
    """Draw every figure that makes sense for a run and write the report page.

    Args:
        run: A fitted run.
        data: The data set it was fitted to.
        folder: The run folder.
    """
    drawn: dict[str, Any] = {}
    column = next((c for c in ("bound", "estimate", "log_joint") if c in run.history), None)
    if column is not None:
        drawn["curves"] = figures.curves({column: run.history}, y=column)
    if data.image_shape is not None:
        drawn |= _pictures(run, data, data.image_shape)
    for name, figure in drawn.items():
        folder.draw(name, figure)
    if run.guide is not None:
        test = rows(data.test, _SHOWN)
        folder.write_posterior(run.to_arviz(test, num_samples=_DRAWS, num_predictive=_REPLICATIONS))
    write_report(folder.path)


def _pictures(run: Run, data: Dataset, shape: tuple[int, int, int]) -> dict[str, Any]:
    _, means = generate(run.pair, _SHOWN)
    drawn = {"samples": figures.image_grid(means.cpu(), shape, 10, 10)}
    flat = len(run.pair.latents) == 1 and run.pair.latents[0].event_shape == (2,)
    real = flat and run.pair.latents[0].support.check(torch.tensor([-9.0, 9.0])).all()
    if flat and real:
        drawn["manifold"] = figures.manifold(lambda z: decode(run.pair, z).cpu(), shape)
    if run.guide is not None:
        some = rows(data.test, 10)
        seen = some if isinstance(some, Tensor) else some[0]
        drawn["reconstructions"] = figures.reconstructions(seen, reconstruct(run.pair, some).cpu(), shape)
        if flat and real:
            test = rows(data.test, 1000)
            labels = None if data.test_labels is None else data.test_labels[:1000]
            drawn["latents"] = figures.latent_scatter(infer(run.pair, test).cpu(), labels)
    return drawn


def publish_evidence(folder: RunFolder, records: list[dict[str, Any]], weighed: Evidence | None = None) -> None:
    """Draw the evidence of a run folder, with the k-hat of what has weights, and write its page again."""
    if records:  # none, where no estimator applies
        folder.draw("evidence", figures.evidence_forest(records))
    if weighed is not None and weighed.khat is not None:
        folder.draw("khat", figures.khat_histogram(weighed.khat, weighed.num_samples))
    write_report(folder.path)


def describe_evidence(evidence: Evidence, split: str) -> str:
    """One line a person can read."""
    said = (
        f"{split} log p(x) by {evidence.method} ({evidence.num_samples} samples): {evidence.mean:.3f} +- "
        f"{evidence.standard_error:.3f} nats per datapoint over {len(evidence.log_px)} datapoints "
        f"({evidence.direction})"
    )
    if evidence.khat is not None:
        threshold = khat_threshold(evidence.num_samples)
        said += f"; k-hat above {threshold:.2f} on {len(evidence.doubtful)} of them"
    return "\n".join([said, *evidence.remarks])


def rows(data: Any, count: int) -> Any:
    """The first rows of a part of a data set, on the CPU: a tensor, or a tuple where a datapoint has several parts."""
    picked: Any = data[torch.arange(min(count, len(data)))]
    return picked
