"""Everything that can be asked for by name: this package's blocks, and those that a user registers.

A block is known by its class attribute ``name``. Of this package's rooms those in ``__all__`` are listed, in its order,
so that a new prior, likelihood, guide, network, objective or estimator is one file and one line there. Names are read
from the source: the command can then list its choices without importing torch.
"""

import ast
import inspect
import re
from collections.abc import Iterator
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from typing import Any

__all__ = ["KINDS", "UnknownNameError", "citation", "find", "own", "register", "summary"]

_HERE = Path(__file__).parent
_ROOMS = {
    "models": "models",
    "priors": "models.priors",
    "likelihoods": "models.likelihoods",
    "guides": "guides",
    "encoders": "models.networks",
    "decoders": "models.networks",
    "objectives": "inference.objectives",
    "evidence": "inference.evidence",
}
_SINGULAR = {kind: "estimator" if kind == "evidence" else kind.removesuffix("s") for kind in _ROOMS}


class UnknownNameError(ValueError):
    """Nothing of that name is known; the message lists what is."""


def _named(kind: str) -> Iterator[tuple[str, str]]:
    """The names of a room's public classes, each with the path that it is imported by."""
    room = _ROOMS[kind]
    inside = _tree(_HERE.joinpath(*room.split("."), "__init__.py"))
    homes = {
        alias.name: node.module
        for node in inside.body
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
    }
    for public in _constants(inside)["__all__"]:
        if public not in homes:
            continue
        module = _tree(_HERE.joinpath(*room.split("."), *homes[public].split(".")).with_suffix(".py"))
        classes = (node for node in module.body if isinstance(node, ast.ClassDef) and node.name == public)
        said = {name: value for block in classes for name, value in _constants(block).items()}
        if "name" in said and _SINGULAR[kind] in said.get("roles", (_SINGULAR[kind],)):
            yield said["name"], f"aevb.{room}:{public}"


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _constants(of: ast.Module | ast.ClassDef) -> dict[str, Any]:
    """What is assigned as a plain value, by name."""
    found: dict[str, Any] = {}
    for node in of.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            with_value = isinstance(node.value, ast.Constant | ast.List | ast.Tuple)
            found |= {node.targets[0].id: ast.literal_eval(node.value)} if with_value else {}
    return found


KINDS: dict[str, dict[str, Any]] = {kind: dict(_named(kind)) for kind in _ROOMS}
KINDS["optimizers"] = {
    "adam": "torch.optim:Adam",
    "adagrad": "torch.optim:Adagrad",
    "adamw": "torch.optim:AdamW",
    "rmsprop": "torch.optim:RMSprop",
    "sgd": "torch.optim:SGD",
}
MODELS, PRIORS, LIKELIHOODS, GUIDES = (KINDS[kind] for kind in ("models", "priors", "likelihoods", "guides"))
ENCODERS, DECODERS, OBJECTIVES, EVIDENCE, OPTIMIZERS = (
    KINDS[kind] for kind in ("encoders", "decoders", "objectives", "evidence", "optimizers")
)
_OWN = {kind: frozenset(known) for kind, known in KINDS.items()}


def register(kind: str, block: Any = None) -> Any:
    """Enter a block of one's own under its ``name``, as a function or as a decorator.

    It is then in ``aevb list``, in ``fit --prior NAME``, in ``compare`` and, if it is an estimator, in ``verdict``. The
    command learns of it by ``--plugin my_blocks.py``.

    Args:
        kind: What it is: ``"prior"``, ``"likelihood"``, ``"guide"``, ``"model"``, ``"encoder"``, ``"decoder"``,
            ``"objective"`` or ``"estimator"``.
        block: The class, with a class attribute ``name`` of small letters, digits and hyphens.

    Returns:
        The class.

    Raises:
        ValueError: The kind is unknown, the class has no name of its own, or the name is one of this package's.

    Example:
        >>> import pyro.distributions as dist, torch
        >>> @register("prior")
        ... class Cauchy(torch.nn.Module):
        ...     '''Independent Cauchy coordinates.'''
        ...     name = "cauchy"
        ...     support = "real"
        ...     def __init__(self, latent_dim: int) -> None:
        ...         super().__init__()
        ...         self.latent_dim = latent_dim
        ...     def forward(self) -> dist.TorchDistribution:
        ...         return dist.Cauchy(torch.zeros(self.latent_dim), 1.0).to_event(1)
        >>> find("priors", "cauchy") is Cauchy
        True
        >>> _ = KINDS["priors"].pop("cauchy")  # and is forgotten again
    """
    kinds = {one: several for several, one in _SINGULAR.items()}
    if kind not in kinds:
        raise ValueError(f"unknown kind {kind!r}; known: {', '.join(kinds)}.")
    if block is None:
        return partial(register, kind)
    name = vars(block).get("name") if inspect.isclass(block) else None
    if not (isinstance(name, str) and re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name)):
        raise ValueError(
            f"{kind} {getattr(block, '__name__', block)!s} must be a class with a name of its own, of small letters, "
            'digits and hyphens: a class attribute such as name = "my-block".'
        )
    if name in _OWN[kinds[kind]]:
        raise ValueError(f"{kind} {name!r} is one of aevb's own; choose another name.")
    KINDS[kinds[kind]][name] = block
    if kind == "estimator":  # a verdict asks them all, and inference knows nothing of this list
        import_module("aevb.inference.diagnostics.every_estimator").add_estimator(block)
    return block


def find(kind: str, name: str) -> Any:
    """Return the class registered under a name.

    Args:
        kind: One of :data:`KINDS`, e.g. ``"priors"``.
        name: The name as typed, e.g. ``"standard-normal"``.

    Raises:
        UnknownNameError: No such name; the message lists the known ones.

    Example:
        >>> find("objectives", "sgvb").__name__
        'SGVB'
    """
    known = KINDS[kind]
    if name not in known:
        one = kind if kind == "evidence" else kind.removesuffix("s")
        raise UnknownNameError(f"unknown {one} {name!r}; known: {', '.join(known)}.")
    if not isinstance(known[name], str):
        return known[name]
    module, _, attribute = known[name].partition(":")
    return getattr(import_module(module), attribute)


def own(kind: str) -> frozenset[str]:
    """The names of this package's own blocks, without those that were registered."""
    return _OWN[kind]


def summary(thing: Any) -> str:
    """The first line of a class's docstring."""
    return (inspect.getdoc(thing) or "").partition("\n")[0]


def citation(thing: Any) -> str:
    """The first entry of a class's "References" section, or nothing."""
    doc = inspect.getdoc(thing) or ""
    _, found, after = doc.partition("References:")
    if not found:
        return ""
    lines = [line.strip() for line in after.strip().splitlines()]
    return " ".join(line for line in lines[:3] if line).split("; ")[0].split("https://")[0].rstrip(" ,.;")
