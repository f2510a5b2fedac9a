"""``aevb list``: what can be asked for by name."""

from jsonargparse import ArgumentParser, Namespace

from aevb import registry
from aevb.commands.words import new_parser
from aevb.data.names import DATASETS

HELP = "show what there is: priors, likelihoods, guides, objectives, evidence, datasets, ..."
_KINDS = (*registry.KINDS, "datasets")


def parser() -> ArgumentParser:
    """The verb's words."""
    words = new_parser("Show what can be asked for by name, one per line.", "Example: aevb list priors")
    words.add_argument("kind", type=str, nargs="?", default=None, help=f"{', '.join(_KINDS)}; all of them by default")
    return words


def run(args: Namespace) -> int:
    """Print one list, or all."""
    if args.kind not in (None, *_KINDS):
        raise ValueError(f"unknown kind {args.kind!r}; known: {', '.join(_KINDS)}.")
    for kind in _KINDS if args.kind is None else [args.kind]:
        if args.kind is None:
            print(f"\n{kind}")
        _print(list(DATASETS.items()) if kind == "datasets" else _entries(kind))
    return 0


def _entries(kind: str) -> list[tuple[str, str]]:
    return [(name, _entry(kind, name)) for name in registry.KINDS[kind]]


def _print(lines: list[tuple[str, str]]) -> None:
    width = max(len(name) for name, _ in lines)
    for name, line in lines:
        print(f"{name:<{width}}  {line}")


def _entry(kind: str, name: str) -> str:
    found = registry.find(kind, name)
    cited = registry.citation(found)
    return registry.summary(found) + (f" [{cited}]" if cited else "")
