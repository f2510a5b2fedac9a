"""The command ``aevb``: one verb a module of :mod:`aevb.commands`."""

import re
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module
from types import ModuleType

from jsonargparse import ArgumentError, ArgumentParser, Namespace

from aevb.plugins import load_plugins, named_in

__all__ = ["main"]

VERBS = ("fit", "evidence", "compare", "sample", "use", "report", "reproduce", "doctor", "list", "demo")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; bad input is one line on standard error and exit status 2.

    Args:
        argv: The words after ``aevb``; by default the process's own.

    Returns:
        The exit status.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    try:  # before anything is parsed, so that help names what plugins register
        load_plugins(named_in(words))
    except ValueError as error:
        print(f"aevb: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    verbs = {verb: _module(verb) for verb in VERBS}
    pages = {verb: module.parser() for verb, module in verbs.items()}
    parser = ArgumentParser(
        prog="aevb",
        exit_on_error=False,
        allow_abbrev=False,
        description="Deep latent-variable models in Pyro: fit a pair, estimate its evidence, compare algorithms.",
        epilog="Start with: aevb fit digits --variant static --latent-dim 2 --hidden 200 --epochs 100 --out runs/first",
    )
    commands = parser.add_subcommands(dest="verb", metavar="VERB")
    for verb, module in verbs.items():
        commands.add_subcommand(verb, pages[verb], help=module.HELP)
    if not words:
        parser.print_help()
        return 0
    try:
        args = parser.parse_args(words)
        load_plugins(args[args.verb].plugin)  # those that a --config file names
        status: int = verbs[args.verb].run(_plain(args[args.verb]))
        return status
    except (ArgumentError, ValueError, NotImplementedError, OSError) as error:
        print(f"aevb: error: {_one_line(error, words[0], pages.get(words[0]))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("aevb: interrupted; what was written so far is kept.", file=sys.stderr)
        return 130


def _module(verb: str) -> ModuleType:
    return import_module(f"aevb.commands.{verb}_command")


def _plain(args: Namespace) -> Namespace:
    args.pop("config", None)
    return args


def _one_line(error: BaseException, verb: str, page: ArgumentParser | None) -> str:
    """What is wrong, in one line that names the flag."""
    said = " ".join(str(error).split())
    said = said.replace(f"required: {verb}.", "required: ")  # the parser names a word by its verb and a dot
    said = re.sub(r"Expected a <class '(\w+)'>\. Got value: (.*)", r"expected \1, got '\2'", said)
    said = re.sub(r'Parser key "([\w.]+)"', lambda key: _flag(key[1]), said)
    stranger = re.search(r"unrecognized arguments: (\S+)|Subcommand '\w+' does not accept option '(\w+)'", said)
    if stranger is None or page is None:
        return said
    known = re.findall(r"--[a-z][\w.-]*", page.format_help())
    near = get_close_matches(stranger[1] or _flag(stranger[2]), known, n=1)
    return f"{said}; {f'did you mean {near[0]}?' if near else f'aevb {verb} --help shows what there is.'}"


def _flag(key: str) -> str:
    """A setting's name as it is typed."""
    name, dot, option = key.partition(".")
    return f"--{name.replace('_', '-')}{dot}{option}"


if __name__ == "__main__":
    sys.exit(main())
