"""``aevb evidence RUN --method all``: a run's verdict, printed as it comes and kept in the run's folder."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from aevb import figures
from aevb.inference import Run
from aevb.inference.diagnostics.every_estimator import every_estimator
from aevb.inference.diagnostics.verdict import Verdict, verdict
from aevb.inference.evidence import Evidence
from aevb.inference.one_line import reason
from aevb.inference.pairs.data import as_rows
from aevb.inference.pairs.pair import Pair
from aevb.inference.posterior.guide_versus_hmc import guide_versus_hmc
from aevb.publish import describe_evidence, publish_evidence
from aevb.records import add_records
from aevb.report import write_report
from aevb.run_folder import RunFolder

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["judge"]

_GALLERY = 5  # of the worst inferred datapoints


def judge(
    folder: RunFolder,
    run: Run,
    points: Any,
    *,
    split: str,
    options: dict[str, Any],
    seed: int,
    image_shape: tuple[int, int, int] | None = None,
) -> Verdict:
    """Ask every estimator and every question of a run, and add what is found to its folder.

    Args:
        folder: The run folder; each estimate is written there as soon as it is made.
        run: The run.
        points: The datapoints.
        split: What they are called.
        options: Of :func:`~aevb.inference.diagnostics.every_estimator.every_estimator`.
        seed: Of the draws.
        image_shape: Of a datapoint that is a picture.
    """

    def tell(name: str, found: Evidence | str) -> None:
        if isinstance(found, str):
            print(f"{name}: does not apply. {found}", flush=True)
            return
        print(describe_evidence(found, split), flush=True)
        add_records(folder, [found.record(split)])

    pair = run.pair
    said = verdict(pair, points, every_estimator(pair, **options), tell=tell, seed=seed)
    print("\n".join(["", *said.sentences]))
    folder.write_verdict(said.sentences, said.table)
    if "doctor" in said.found:
        folder.write_findings(said.found["doctor"])
    if "calibration" in said.found:
        calibration = said.found["calibration"]
        failing = [name for name in calibration.joint if bool(calibration.miscalibrated(name).any())]
        panels = {site: figures.rank_ecdf(calibration, site) for site in (*calibration.ranks, *failing)}
        for site, figure in panels.items():
            name = "calibration" if [*calibration.ranks] == [site] else f"calibration_{site}"
            folder.draw(name, figure)
    folder.figure("worst_inferred").unlink(missing_ok=True)  # an earlier verdict's, should there be none this time
    weighed = next((found for found in said.evidence.values() if found.khat is not None), None)
    publish_evidence(folder, folder.records(), weighed)
    khat = None if weighed is None else weighed.khat
    # Last, when the page stands without it: chains take long, and not every latent can be moved by them.
    if pair.guide is not None and (gallery := _gallery_or_reason(pair, points, said, khat, image_shape)) is not None:
        folder.draw("worst_inferred", gallery)
        write_report(folder.path)
    return said


def _gallery_or_reason(
    pair: Pair, points: Any, said: Verdict, khat: Tensor | None, image_shape: tuple[int, int, int] | None
) -> "Figure | None":
    """The gallery; nothing, and a printed sentence that says why, where chains or their picture fail."""
    try:
        return _gallery(pair, points, said, khat, image_shape)
    except (ValueError, RuntimeError, ArithmeticError) as error:  # of the numbers; any other is a fault of the code
        print(f"The gallery of the worst inferred datapoints is left out: {reason(error)}", flush=True)
        return None


def _gallery(
    pair: Pair, points: Any, said: Verdict, khat: Tensor | None, image_shape: tuple[int, int, int] | None
) -> "Figure":
    """The worst inferred datapoints: by k-hat, or by what the bound loses on them where there are no weights."""
    if khat is not None:
        badness, name = torch.where(khat.isnan(), torch.inf, khat), "k-hat"
    elif "gaps" in said.found:
        badness, name = said.found["gaps"].total.values, "gap"
    else:
        badness, name = torch.zeros(len(points)), ""
    worst = badness.argsort(descending=True, stable=True)[:_GALLERY]
    drawn = guide_versus_hmc(pair, as_rows(points, worst.device)[worst])
    titles = [f"row {int(row)}" + (f", {name} {float(badness[row]):.2f}" if name else "") for row in worst]
    return figures.worst_inferred(drawn.data[0].flatten(1), drawn.guide, drawn.chains, titles, image_shape)
