"""``aevb fit``: train a pair and write its run folder."""

import sys
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from aevb.commands.words import (
    add_block,
    add_data,
    add_recipe,
    add_training,
    block_options,
    checked_recipe,
    load_dataset,
    new_parser,
    plain,
    training_of,
)

HELP = "train a model/guide pair on a data set"
_LOOKED_AT = 500  # datapoints by which unused latents are found


def parser() -> ArgumentParser:
    """The verb's words."""
    words = new_parser(
        "Train a generative model p(z)p(x|z) and its guide q(z|x), and write a run folder: config.json, history.csv, "
        "model.safetensors, evidence.json, posterior.nc, figures and report.html.",
        "Example: aevb fit mnist --variant dynamic --latent-dim 20 --hidden 500 --objective sgvb --out runs/mnist",
    )
    words.add_argument("--config", action="config", help="a YAML file of these options")
    add_data(words)
    add_recipe(words)
    add_block(words, "objective", "sgvb")
    words.add_argument("--adaptive-contrast", action="store_true", help="of avb: --objective-args.adaptive_contrast")
    add_training(words)
    words.add_argument(
        "--early-stopping", type=int, default=None, help="stop after this many epochs without a better bound"
    )
    words.add_argument("--checkpoint", type=str, default=None, help="a file written after every epoch")
    words.add_argument("--resume", action="store_true", help="go on from the checkpoint")
    words.add_argument("--out", type=str, default=None, help="the run folder")
    return words


def run(args: Namespace) -> int:
    """Train, and write what came of it, even when the numbers blew up."""
    from aevb.build import build_objective, build_pair, check_standardized, dress
    from aevb.inference import EarlyStopping, Fit, NonFiniteError
    from aevb.scales import unequal_scales

    recipe = checked_recipe(args)
    options = block_options(args, "objective", args.objective)
    options |= {"adaptive_contrast": True} if args.adaptive_contrast else {}
    objective = build_objective(args.objective, options, parameter_prior=args.parameter_prior)
    check_standardized(recipe, objective)
    training = training_of(args)
    data = dress(load_dataset(args), recipe)
    model, guide = build_pair(recipe, data, seed=args.seed)
    print(data.description)
    scales = unequal_scales(data, getattr(model, "likelihood", None))
    if scales is not None:
        print(f"warning: {scales}")
    watchers = [] if args.early_stopping is None else [EarlyStopping(args.early_stopping)]
    try:
        fitted = Fit(
            model,
            guide if "guide" in objective.trains else None,
            data.train,
            training,
            objective=objective,
            validation=data.validation if len(data.validation) else None,
            observers=watchers,
        ).drain()
    except NonFiniteError as error:
        kept = "" if scales is None else f" Before anything else: {scales}"
        if args.out is not None:
            error.run.save(args.out, extra={"command": plain(args)})
            kept += f" The run up to there is in {args.out}."
        print(f"aevb: error: {error}{kept}", file=sys.stderr)
        return 1
    print(fitted.history.tail(1).to_string(index=False))
    for watcher in watchers:
        print(f"kept: the parameters of epoch {watcher.best_epoch}, whose {watcher.column} is {watcher.best:.4f}")
    return _write(args, fitted, data, scales)


def _write(args: Namespace, fitted: object, data: object, scales: str | None) -> int:
    from dataclasses import replace

    from aevb.data import Dataset
    from aevb.findings import examine, told
    from aevb.inference import Run, log_evidence
    from aevb.inference.diagnostics.latent_usage import latent_usage
    from aevb.inference.evidence import ELBO
    from aevb.publish import publish, rows
    from aevb.records import add_records
    from aevb.run_folder import RunFolder

    assert isinstance(fitted, Run) and isinstance(data, Dataset)
    records, split = [], "test"
    if not len(data.test):  # a table of posteriors has none for held-out data: its training data are shown
        data, split = replace(data, test=data.train, test_labels=data.train_labels), "train"
    if fitted.guide is not None and fitted.pair.has_density:
        bound = log_evidence(fitted.model, fitted.guide, data.test, ELBO(num_samples=100), seed=args.seed)
        records = [bound.record(split)]
        print(f"{split} bound {bound.mean:.2f} +- {bound.standard_error:.2f} nats per datapoint")
        usage = latent_usage(fitted.pair, rows(data.test, _LOOKED_AT), num_samples=20, seed=args.seed)
        # Latents that columns of unequal scale have put to sleep are mended by other scales, not by annealing.
        for warning in usage.warnings if scales is None else [scales]:
            print(f"warning: {warning}")
    findings = examine(fitted.pair, data.test, seed=args.seed)
    print("\n".join(map(told, findings)), end="\n" if findings else "")
    if args.out is not None:
        folder = RunFolder(fitted.save(args.out, extra={"command": plain(args)}))
        add_records(folder, records)
        folder.write_findings(findings)
        publish(fitted, data, folder)
        print(f"written: {Path(args.out)} (open report.html)")
    return 0
