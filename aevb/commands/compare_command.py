"""``aevb compare``: the same pair under several objectives."""

from jsonargparse import ArgumentParser, Namespace

from aevb.commands.comparing import compare_and_tell, comparison_parser

HELP = "train one pair with several objectives and put them in a table"


def parser() -> ArgumentParser:
    """The verb's words."""
    return comparison_parser()


def run(args: Namespace) -> int:
    """Compare."""
    compare_and_tell(args)
    return 0
