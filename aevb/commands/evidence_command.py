"""``aevb evidence``: estimate log p(x) of held-out data under a run."""

from jsonargparse import ArgumentParser, Namespace

from aevb.commands.words import add_block, block_options, dataset_of, new_parser
from aevb.plugins import trusted

_POINTS_OF_ALL = 100
HELP = "estimate the marginal likelihood of held-out data"


def parser() -> ArgumentParser:
    """The verb's words."""
    words = new_parser(
        "Estimate log p(x) of held-out data under a fitted run and add it to the run folder's evidence.json.",
        "Examples: aevb evidence runs/first --method importance --samples 5000\n"
        "          aevb evidence runs/first --method all --points 100",
    )
    words.add_argument("--config", action="config", help="a YAML file of these options")
    words.add_argument("run", type=str, help="a run folder")
    add_block(words, "method", "importance", note=", all")
    words.add_argument("--samples", type=int, default=None, help="samples per datapoint (default: the method's own)")
    words.add_argument("--split", type=str, default="test", help="train, validation or test")
    words.add_argument(
        "--points", type=int, default=None, help="only the first so many datapoints (default: all; of all methods, 100)"
    )
    words.add_argument("--seed", type=int, default=0, help="of the draws")
    words.add_argument("--data-dir", type=str, default=None, help="where files are (default: AEVB_DATA)")
    return words


def run(args: Namespace) -> int:
    """Estimate, print and add to the folder."""
    from aevb.build import build, with_samples
    from aevb.findings import examine, told
    from aevb.inference import load, log_evidence
    from aevb.judge import judge
    from aevb.publish import describe_evidence, publish_evidence, rows
    from aevb.records import add_records
    from aevb.run_folder import RunFolder

    folder = RunFolder(args.run)
    everything = args.method == "all"
    options = with_samples(args.method, args.samples, block_options(args, "method", args.method))
    estimator = None if everything else build("evidence", args.method, {}, options)
    fitted = load(folder.path, trust=trusted())
    data = dataset_of(folder.path, args.data_dir)
    if args.split not in ("train", "validation", "test"):
        raise ValueError(f"unknown split {args.split!r}; known: train, validation, test.")
    part = getattr(data, args.split)
    count = args.points or (_POINTS_OF_ALL if everything else None)
    points = part if count is None else rows(part, count)
    if estimator is None:
        judge(folder, fitted, points, split=args.split, options=options, seed=args.seed, image_shape=data.image_shape)
        return 0
    evidence = log_evidence(fitted.model, fitted.guide, points, estimator, seed=args.seed)
    print(describe_evidence(evidence, args.split))
    folder.write_findings(findings := examine(fitted.pair, points, seed=args.seed))
    print("\n".join(map(told, findings)), end="\n" if findings else "")
    records = add_records(folder, [evidence.record(args.split)])
    publish_evidence(folder, records, evidence)
    return 0
