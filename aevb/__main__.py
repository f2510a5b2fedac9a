"""The command ``aevb``: one verb a module of :mod:`aevb.commands`."""

import sys
from collections.abc import Sequence
from importlib import import_module
from types import ModuleType

from jsonargparse import ArgumentError, ArgumentParser, Namespace

__all__ = ["main"]

VERBS = ("fit", "evidence", "compare", "sample", "use", "report", "reproduce", "doctor", "list", "demo")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; bad input is one line on standard error and exit status 2.

    Args:
        argv: The words after ``aevb``; by default the process's own.

    Returns:
        The exit status.
    """
    verbs = {verb: _module(verb) for verb in VERBS}
    parser = ArgumentParser(
        prog="aevb",
        exit_on_error=False,
        description="Deep latent-variable models in Pyro: fit a pair, estimate its evidence, compare algorithms.",
        epilog="Start with: aevb fit digits --variant static --latent-dim 2 --hidden 200 --epochs 100 --out runs/first",
    )
    commands = parser.add_subcommands(dest="verb", metavar="VERB")
    for verb, module in verbs.items():
        commands.add_subcommand(verb, module.parser(), help=module.HELP)
    words = list(sys.argv[1:] if argv is None else argv)
    if not words:
        parser.print_help()
        return 0
    try:
        args = parser.parse_args(words)
        status: int = verbs[args.verb].run(_plain(args[args.verb]))
        return status
    except (ArgumentError, ValueError, NotImplementedError, OSError) as error:
        print(f"aevb: error: {_one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("aevb: interrupted; what was written so far is kept.", file=sys.stderr)
        return 130


def _module(verb: str) -> ModuleType:
    return import_module(f"aevb.commands.{verb}_command")


def _plain(args: Namespace) -> Namespace:
    args.pop("config", None)
    return args


def _one_line(error: BaseException) -> str:
    said = " ".join(str(error).split())
    for verb in VERBS:  # the parser names a word by its verb and a dot
        said = said.replace(f"required: {verb}.", "required: ")
    return said


if __name__ == "__main__":
    sys.exit(main())
