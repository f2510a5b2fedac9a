"""``aevb reproduce``: a figure or table of a paper, beside the published one."""

from importlib import import_module
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from aevb.commands.words import new_parser
from aevb.reproductions import NAMES

HELP = "run an experiment of a paper and put its numbers beside the published ones"
BUDGETS = ("quick", "paper")


def parser() -> ArgumentParser:
    """The verb's words."""
    words = new_parser(
        "Run an experiment of a paper: the folder gets table.csv (quantity, published, ours, error, budget), the "
        "figure and report.html.",
        "Example: aevb reproduce avb-toy --budget quick --out runs/toy",
    )
    words.add_argument("name", type=str, nargs="?", help=", ".join(NAMES))
    words.add_argument("--list", action="store_true", help="show what can be reproduced")
    words.add_argument("--budget", type=str, default="quick", help="quick (minutes on a CPU) or paper (as published)")
    words.add_argument("--data-dir", type=str, default=None, help="where files are (default: AEVB_DATA)")
    words.add_argument("--out", type=str, default=None, help="the folder (default: runs/NAME)")
    return words


def run(args: Namespace) -> int:
    """Run it, print the table, write the page."""
    if args.list or args.name is None:
        for name in NAMES:
            print(f"{name:<20}  {(import_module(NAMES[name].partition(':')[0]).__doc__ or '').partition(chr(10))[0]}")
        return 0
    if args.name not in NAMES:
        raise ValueError(f"unknown reproduction {args.name!r}; known: {', '.join(NAMES)}.")
    if args.budget not in BUDGETS:
        raise ValueError(f"unknown budget {args.budget!r}; known: {', '.join(BUDGETS)}.")
    from aevb.report import write_report

    module, _, function = NAMES[args.name].partition(":")
    out = Path(args.out or f"runs/{args.name}")
    out.mkdir(parents=True, exist_ok=True)
    table = getattr(import_module(module), function)(args.budget, out, args.data_dir)
    print(table.to_string(index=False))
    print(f"written: {write_report(out)}")
    return 0
