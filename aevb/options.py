"""A block's own options on the command line: told by ``--prior.help NAME``, and held to their types before any work.

The flags are made by jsonargparse out of the block's constructor; ``--prior-args.NAME VALUE`` is one of them.
"""

import inspect
import json
import re
from collections.abc import Mapping
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from jsonargparse import SUPPRESS, ArgumentError, ArgumentParser

from aevb import registry

__all__ = ["FLAGS", "describe", "typed"]

FLAGS = {
    "model": ("models",),
    "prior": ("priors",),
    "likelihood": ("likelihoods",),
    "guide": ("guides",),
    "network": ("encoders", "decoders"),
    "objective": ("objectives",),
    "evidence": ("evidence",),
    "method": ("evidence",),
}
"""The flags that name a block, and what kinds of block they name."""

_OF_DATA = frozenset(("data_dim", "image_shape", "num_points", "levels", "bounded"))
_OF_FLAGS = frozenset(("latent_dim", "hidden", "activation", "init"))
_OF_PARTNERS = frozenset(
    ("posterior", "encoder", "decoder", "prior", "likelihood", "model", "missing", "unlabelled")
    + ("in_features", "out_features", "num_params", "num_classes")
)

# What a block is given by the data, by other flags and by the blocks beside it, where it asks for it by name.
GIVEN = {kind: _OF_DATA | _OF_FLAGS | _OF_PARTNERS for kind in ("models", "priors", "guides", "encoders", "decoders")}
GIVEN |= {"likelihoods": (_OF_DATA | _OF_FLAGS | _OF_PARTNERS) - {"num_classes"}, "objectives": frozenset()}
GIVEN |= {"evidence": frozenset()}
_SEE = {flag: f"See: aevb {'evidence' if flag == 'method' else 'fit'} --{flag}.help" for flag in FLAGS}
_SEE["evidence"] = "See: aevb compare --evidence.help"

_MANY = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def describe(flag: str, name: str) -> str:
    """Tell what a block is, and which options a person sets.

    Raises:
        UnknownNameError: No block of that name is known.
    """
    return "\n".join(dict.fromkeys(_page(flag, _block(kind, name), GIVEN[kind]) for kind in FLAGS[flag]))


def typed(flag: str, name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Read the options of a block as the types that its constructor names.

    Args:
        flag: The flag that names the block, without its hyphens.
        name: The block.
        options: Words as they were typed, or values of a configuration file.

    Returns:
        The options, typed.

    Raises:
        ValueError: The block has no such option, or the value is of another type; the message names flag and mend.
    """
    see, read = f"{_SEE[flag]} {name}", dict[str, Any]()
    for kind in FLAGS[flag]:
        block = _block(kind, name)
        for option, value in options.items():
            hints = _plain_options(block)
            if option not in hints:
                own = ", ".join(hint for hint in hints if hint not in GIVEN[kind]) or "none"
                raise ValueError(f"--{flag}-args.{option}: {name} has no option {option}; it has {own}. {see}")
            read[option] = _read(f"--{flag}-args.{option}", hints[option], value, see)
    return read


def _block(kind: str, name: str) -> Any:
    """A block by its name; every estimator at once, as a verdict asks them, has options of its own."""
    if (kind, name) != ("evidence", "all"):
        return registry.find(kind, name)
    from aevb.inference.diagnostics.every_estimator import every_estimator

    return every_estimator


def _read(flag: str, hint: Any, value: Any, see: str) -> Any:
    """A word as a type; jsonargparse knows how each is written."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--value", type=hint)
    word = value if isinstance(value, str) else json.dumps(value)
    try:
        return parser.parse_args([f"--value={word}"]).value
    except ArgumentError as error:
        raise ValueError(f"{flag}: expected {_told(hint)}, got {word!r}. {see}") from error


def _page(flag: str, block: Any, given: frozenset[str]) -> str:
    """The page of help of one block."""
    about, _, rest = (inspect.getdoc(block) or "").partition("\nArgs:\n")
    lines, defaults = _documented(rest), inspect.signature(block).parameters
    parser = ArgumentParser(usage=SUPPRESS, add_help=False, exit_on_error=False)
    own = {name: hint for name, hint in _plain_options(block).items() if name not in given}
    for name, hint in own.items():
        default = defaults[name].default
        needed = {"required": True} if default is inspect.Parameter.empty else {"default": default}
        parser.add_argument(f"--{flag}-args.{name}", type=hint, help=lines.get(name), metavar="VALUE", **needed)
    return f"{about.strip()}\n\n{parser.format_help() if own else 'no options of its own'}".rstrip() + "\n"


def _documented(text: str) -> dict[str, str]:
    """What the section "Args" of a docstring says of each argument."""
    section = re.split(r"\n\S", text)[0]
    entries = re.findall(r"^ {4}(\w+): (.*(?:\n {5,}.*)*)", section, flags=re.MULTILINE)
    return {name: " ".join(words.split()) for name, words in entries}


def _plain_options(block: Any) -> dict[str, Any]:
    """The arguments of a block that are plain values, with their types."""
    build = block.__init__ if inspect.isclass(block) else block
    try:
        hints = get_type_hints(build)
    except NameError:  # a user's own block, with types that are only there for a type checker
        hints = {}
    wanted = (p.name for p in inspect.signature(block).parameters.values() if p.kind not in _MANY)
    return {name: hint for name in wanted if _is_plain(hint := hints.get(name, Any))}


def _is_plain(hint: Any) -> bool:
    """Whether a type is of numbers, words, switches and lists of them; no configuration names a class to be built."""
    if get_origin(hint) is Literal:
        return True
    parts = get_args(hint)
    return all(map(_is_plain, parts)) if parts else hint in (bool, int, float, str, type(None), Any, ...)


def _told(hint: Any) -> str:
    """A type as a person reads it."""
    if get_origin(hint) is Literal:
        return " or ".join(map(repr, get_args(hint)))
    if get_origin(hint) in (Union, UnionType):
        return " or ".join(map(_told, get_args(hint)))
    if parts := get_args(hint):
        return f"[{', '.join(dict.fromkeys(map(_told, parts)))}, ...]"
    return {type(None): "null"}.get(hint, getattr(hint, "__name__", str(hint)))
