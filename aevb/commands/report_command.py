"""``aevb report``: write a folder's page."""

from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from aevb.commands.words import new_parser

HELP = "write one self-contained page of tables and figures"


def parser() -> ArgumentParser:
    """The verb's words."""
    words = new_parser(
        "Write report.html, one page that holds everything, into a run folder or a comparison folder.",
        "Example: aevb report runs/first",
    )
    words.add_argument("folder", type=str, help="a run folder or a comparison folder")
    return words


def run(args: Namespace) -> int:
    """Write the page."""
    from aevb.report import write_report

    print(f"written: {write_report(Path(args.folder))}")
    return 0
