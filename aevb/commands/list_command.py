"""``aevb list``: what can be asked for by name."""

from jsonargparse import ArgumentParser, Namespace

from aevb import registry
from aevb.commands.words import new_parser
from aevb.data.names import DATASETS

HELP = "show what there is: priors, likelihoods, guides, objectives, evidence, datasets, ..."
_KINDS = (*registry.KINDS, "datasets")


def parser() -> ArgumentParser:
    """The verb's words."""
    words = new_parser("Show what can be asked for by name, a line each.", "Example: aevb list priors")
    words.add_argument("kind", type=str, help=", ".join(_KINDS))
    return words


def run(args: Namespace) -> int:
    """Print the list."""
    if args.kind not in _KINDS:
        raise ValueError(f"unknown kind {args.kind!r}; known: {', '.join(_KINDS)}.")
    if args.kind == "datasets":
        lines = list(DATASETS.items())
    else:
        lines = [(name, _entry(args.kind, name)) for name in registry.KINDS[args.kind]]
    width = max(len(name) for name, _ in lines)
    for name, line in lines:
        print(f"{name:<{width}}  {line}")
    return 0


def _entry(kind: str, name: str) -> str:
    found = registry.find(kind, name)
    cited = registry.citation(found)
    return registry.summary(found) + (f" [{cited}]" if cited else "")
