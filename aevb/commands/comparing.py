"""A comparison as the commands ``compare`` and ``demo`` make it: plans out of words, the printed table, the page."""

from dataclasses import replace
from inspect import signature
from math import isnan
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser, Namespace

from aevb import registry
from aevb.commands.words import (
    add_block,
    add_data,
    add_recipe,
    add_training,
    block_options,
    checked_recipe,
    file_options,
    new_parser,
    options_of,
    plain,
    training_of,
)

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["compare_and_tell", "comparison_parser", "print_table"]

_SAMPLES = 1000


def comparison_parser() -> ArgumentParser:
    """The words of a comparison."""
    words = new_parser(
        "Train the same model and guide with several objectives at the same length, estimate log p(x) of held-out "
        "data for each, print one table and draw the curves.",
        "Example: aevb compare digits --variant static --objectives sgvb mcem --latent-dim 2 --seeds 3 --out runs/cmp",
    )
    words.add_argument("--config", action="config", help="a YAML file of these options")
    add_data(words)
    add_recipe(words)
    default = ["sgvb", "wake-sleep", "mcem"]
    known = ", ".join(registry.OBJECTIVES)
    words.add_argument("--objectives", type=str, nargs="+", default=default, help=known)
    words.add_argument("--guides", type=dict, default={}, help="an objective's own guide: --guides.avb noise-basis")
    add_training(words)
    words.add_argument(
        "--gradient-evaluations", type=float, default=None, help="gradients of a datapoint, in place of samples seen"
    )
    words.add_argument("--seeds", type=int, default=1, help="runs of each objective, from --seed upwards")
    words.add_argument("--train-points", type=int, default=None, help="only the first so many training rows")
    add_block(words, "evidence", "importance")
    words.add_argument(
        "--samples", type=int, default=None, help="samples a datapoint (default: 1000, where the estimator draws them)"
    )
    words.add_argument("--points", type=int, default=None, help="only the first so many test rows")
    words.add_argument("--track", type=str, default="auto", help="estimator of the curve of log p(x), auto or none")
    words.add_argument("--track-points", type=int, default=100, help="datapoints of that curve")
    words.add_argument("--jobs", type=int, default=None, help="processes at once (default: one a core)")
    words.add_argument("--out", type=str, required=True, help="the comparison folder")
    return words


def compare_and_tell(args: Namespace) -> None:
    """Compare, print the table, write the page."""
    from aevb.comparison import Plan, compare
    from aevb.findings import told
    from aevb.report import write_report
    from aevb.run_folder import ComparisonFolder

    recipe, training = checked_recipe(args), training_of(args)
    shared = {"data": args.data, "variant": args.variant, "data_dir": args.data_dir, "file_options": file_options(args)}
    own, evidence_args = options_of(args.guides), _evidence_args(args)
    plans = [
        Plan(
            **shared,
            recipe=replace(recipe, guide=own[objective], guide_args={}) if objective in own else recipe,
            objective=objective,
            objective_args={},
            parameter_prior=args.parameter_prior,
            training=replace(training, seed=args.seed + seed),
            gradient_evaluations=args.gradient_evaluations,
            track=_tracker(args.track, recipe.latent_dim),
            track_points=args.track_points,
            evidence=args.evidence,
            evidence_args=evidence_args,
            evidence_points=args.points,
            train_points=args.train_points,
            folder=args.out,
            command=plain(args) | {"objective": objective},
            plugins=tuple(args.plugin),
        )
        for objective in args.objectives
        for seed in range(args.seeds)
    ]
    tracked = [plan.track for plan in plans if plan.track]
    for kind, names in (("objectives", [*args.objectives, *own]), ("guides", own.values()), ("evidence", tracked)):
        for name in names:  # a wrong name is told before anything is trained
            registry.find(kind, name)
    folder = ComparisonFolder(args.out)
    table = compare(plans, folder, jobs=args.jobs, progress=not args.quiet)
    print_table(table)
    findings = [told(finding) for plan in plans for finding in folder.run(plan.name).findings()]
    print("\n".join(dict.fromkeys(findings)), end="\n" if findings else "")
    print(f"written: {write_report(folder.path)}")


def _evidence_args(args: Namespace) -> dict[str, Any]:
    """The options of the table's estimator, whose samples are a thousand where nothing else is said."""
    from aevb.build import with_samples

    takes = signature(registry.find("evidence", args.evidence)).parameters
    usual = {"num_samples": _SAMPLES} if "num_samples" in takes else {}
    options = block_options(args, "evidence", args.evidence)
    return usual | with_samples(args.evidence, args.samples, options, flag="evidence-args")


def _tracker(name: str, latent_dim: int) -> str | None:
    """Which estimator draws the curve: it must need no guide, as not every objective has one, and be quick."""
    if name != "auto":
        return None if name == "none" else name
    if latent_dim <= 2:  # of three, a datapoint takes hundreds of thousands of decodings to be exact
        return "quadrature"
    return "density-fit" if latent_dim < 5 else None


def print_table(table: "pd.DataFrame") -> None:
    """Print the comparison as a person reads it."""
    from rich.console import Console
    from rich.table import Table

    from aevb.records import khat_words

    shown = Table(title="held-out data, nats per datapoint")
    headings = (
        "objective",
        "seed",
        "test bound",
        "test log p(x)",
        "k-hat too high",
        "seconds",
        "samples seen",
        "gradients",
    )
    for heading in headings:
        shown.add_column(heading, justify="left" if heading == "objective" else "right", no_wrap=True)
    for row in table.to_dict("records"):
        star = "" if row["guide"] == "own" else " *"
        shown.add_row(
            f"{row['objective']}{star}",
            str(row["seed"]),
            "-" if isnan(row["test_bound"]) else f"{row['test_bound']:.2f}",
            f"{row['test_log_px']:.2f} ± {row['standard_error']:.2f}",
            khat_words(row) or "-",
            f"{row['seconds']:.1f}",
            f"{row['samples_seen']:,}",
            f"{row['gradient_evaluations']:,}",
        )
    console = Console(width=None if Console().is_terminal else 130)
    console.print(shown)
    console.print(
        "gradients: evaluations of a training sample's gradient, the paper's axis; several a sample in Monte Carlo EM"
    )
    for measure in sorted({measure for measure in table["measure"] if "unnormalised" in measure}):
        console.print(f"{measure}: no density of these data, so a higher number need not be a better model of them")
    if (table["guide"] != "own").any():
        console.print("* trained without a guide; one was fitted afterwards, the model held still, for the evidence")
