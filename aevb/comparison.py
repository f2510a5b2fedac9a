"""The same model and guide under several objectives, on the same data, at the same length.

Each (objective, seed) is a run of its own; where there are more cores than one, each run has a process and a core. A
model that was trained without a guide gets one afterwards, the model held still, so that the same estimator of the
evidence serves all.
"""

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from aevb.build import Recipe, build, build_objective, build_pair, check_standardized, dress
from aevb.data import Dataset, load
from aevb.plugins import load_plugins
from aevb.records import refuse_unlike
from aevb.run_folder import ComparisonFolder

if TYPE_CHECKING:
    import pandas as pd

    from aevb.inference.training.settings import Training

__all__ = ["Plan", "compare"]


@dataclass(frozen=True)
class Plan:
    """One run of a comparison, in plain values, so that it can be sent to a process.

    ``track`` names the estimator of the curve of log p(x), ``evidence`` the one of the table; ``train_points`` keeps
    only the first so many training rows (the paper's N = 1000). ``gradient_evaluations`` stands in place of a length:
    each objective then sees as many samples as its gradients allow. ``plugins`` are imported first.

    Raises:
        ValueError: Gradients are asked for beside another length, or fewer than one.
    """

    data: str
    variant: str | None
    data_dir: str | None
    recipe: Recipe
    objective: str
    objective_args: Mapping[str, Any]
    parameter_prior: bool
    training: "Training"
    gradient_evaluations: float | None
    track: str | None
    track_points: int
    evidence: str
    evidence_args: Mapping[str, Any]
    evidence_points: int | None
    train_points: int | None
    folder: str
    command: Mapping[str, Any] = field(default_factory=dict)
    file_options: Mapping[str, Any] = field(default_factory=dict)
    plugins: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.gradient_evaluations is not None and (self.training.lengths or self.gradient_evaluations < 1):
            raise ValueError(
                f"gradient_evaluations={self.gradient_evaluations:g} must be at least 1, and stand without "
                f"{sorted(self.training.lengths)}."
            )

    @property
    def name(self) -> str:
        """The run's subfolder."""
        return f"{self.objective}-{self.training.seed}"

    def training_of(self, objective: Any) -> "Training":
        """Say how an objective is trained: gradients are samples, each so many times as the objective takes them."""
        from aevb.inference.objectives import evaluations_per_visit

        gradients = self.gradient_evaluations
        if gradients is None:
            return self.training
        return replace(self.training, samples_seen=max(1.0, gradients / evaluations_per_visit(objective)))


def compare(
    plans: Sequence[Plan], out: ComparisonFolder, *, jobs: int | None = None, progress: bool = True
) -> "pd.DataFrame":
    """Carry out every plan, write ``table.csv`` and the curves, and return the table.

    Args:
        plans: The runs.
        out: The comparison folder; each run has a subfolder.
        jobs: Processes at once; by default one per core.
        progress: Say on standard error what is done.

    Returns:
        One row per run: objective, seed, test_bound, bound_error, test_log_px, standard_error, khat_over_threshold,
        khat_threshold, seconds, samples_seen, gradient_evaluations, measure, guide.

    Raises:
        ValueError: The runs' estimates turn out to be of unlike densities; table and runs are written by then.
    """
    import pandas as pd

    rows = list(_carried_out(plans, jobs or min(len(plans), os.cpu_count() or 1), progress))
    order = [plan.name for plan in plans]
    rows.sort(key=lambda row: order.index(f"{row['objective']}-{row['seed']}"))
    table = pd.DataFrame(rows)
    out.write_rows(table)
    refuse_unlike({plan.name: out.run(plan.name).records() for plan in plans})
    _draw(plans, out)
    return table


def _carried_out(plans: Sequence[Plan], jobs: int, progress: bool) -> Iterator[dict[str, Any]]:
    if jobs == 1:
        for plan in plans:
            yield carry_out(plan)
        return
    from aevb.inference.processes import in_processes

    tasks = [(plan.name, (replace(plan, training=replace(plan.training, progress=False)),)) for plan in plans]
    for _, row in in_processes(carry_out, tasks, jobs=jobs, progress=progress):
        yield row


def carry_out(plan: Plan) -> dict[str, Any]:
    """Fit one run, estimate its evidence, write its folder, and return its row of the table."""
    from aevb.findings import examine
    from aevb.inference import Fit, log_evidence
    from aevb.inference.evidence import ELBO, khat_threshold
    from aevb.inference.training.fit_guide import GUIDE_ALONE, fit_guide
    from aevb.publish import publish, rows
    from aevb.records import add_records

    load_plugins(plan.plugins)  # in this process
    data = dress(load(plan.data, variant=plan.variant, data_dir=plan.data_dir, **plan.file_options), plan.recipe)
    train = data.train if plan.train_points is None else rows(data.train, plan.train_points)
    # A short training set has short epochs: following all of the held-out data would cost more than training.
    validation = data.validation if plan.train_points is None else rows(data.validation, plan.train_points)
    objective = build_objective(plan.objective, plan.objective_args, parameter_prior=plan.parameter_prior)
    check_standardized(plan.recipe, objective)
    seed = plan.training.seed
    model, guide = build_pair(plan.recipe, data, seed=seed)
    own_guide = "guide" in objective.trains
    fitted = Fit(
        model,
        guide if own_guide else None,
        train,
        plan.training_of(objective),
        objective=objective,
        validation=validation,
        observers=_trackers(plan, train, data),
    ).drain()
    paired = fitted if own_guide else fit_guide(fitted, guide, train, plan.training_of(GUIDE_ALONE))

    part = data.test if plan.evidence_points is None else rows(data.test, plan.evidence_points)
    bounds = []
    if paired.pair.has_density:  # a guide without a density has no bound
        bounds = [log_evidence(paired.model, paired.guide, part, ELBO(num_samples=100), seed=seed)]
    estimator = build("evidence", plan.evidence, {}, plan.evidence_args)
    evidence = log_evidence(paired.model, paired.guide, part, estimator, seed=seed)
    folder = ComparisonFolder(plan.folder).run(plan.name)
    paired.save(folder.path, extra={"command": dict(plan.command)})
    add_records(folder, [found.record("test") for found in (*bounds, evidence)])
    folder.write_findings(examine(paired.pair, part, seed=seed))
    publish(paired, data, folder)
    return {
        "objective": plan.objective,
        "seed": seed,
        "test_bound": bounds[0].mean if bounds else math.nan,
        "bound_error": bounds[0].standard_error if bounds else math.nan,
        "test_log_px": evidence.mean,
        "standard_error": evidence.standard_error,
        "khat_over_threshold": evidence.khat_share,
        "khat_threshold": None if evidence.khat is None else khat_threshold(evidence.num_samples),
        "seconds": fitted.rows[-1]["seconds"],
        "samples_seen": int(fitted.rows[-1]["samples_seen"]),
        "gradient_evaluations": int(fitted.rows[-1]["gradient_evaluations"]),
        "measure": evidence.provenance.measure if evidence.provenance else "not known",
        "guide": "own" if own_guide else "fitted afterwards",
    }


def _trackers(plan: Plan, train: Any, data: Dataset) -> list[Any]:
    if plan.track is None:
        return []
    from aevb.inference.training.track import Track
    from aevb.publish import rows

    parts = {"log_px": rows(train, plan.track_points), "validation_log_px": rows(data.validation, plan.track_points)}
    return [Track(build("evidence", plan.track, {}, {}), parts)]


def _draw(plans: Sequence[Plan], out: ComparisonFolder) -> None:
    import pandas as pd

    from aevb import figures

    # One curve an objective (its first seed): the spread over seeds is in the table.
    first = {plan.objective: plan for plan in reversed(plans)}
    histories = {name: pd.DataFrame(out.run(first[name].name).history()) for name in first if name}
    histories = {plan.objective: histories[plan.objective] for plan in plans}
    for column in ("log_px", "bound"):
        shown = {name: history.dropna(subset=[column]) for name, history in histories.items() if column in history}
        if shown:  # on both axes: the paper's, and the one that data are counted by
            out.draw(column, figures.curves(shown, "gradient_evaluations", column))
            out.draw(f"{column}_by_samples", figures.curves(shown, "samples_seen", column))
