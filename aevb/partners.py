"""Which blocks go together, by what their classes declare.

A class of a block may say, by attributes:

    support       "real", "sphere" or "simplex": where a prior's and a guide's latents live
    needs         what it is given beside the data ("labels", "rows": their numbers), or in them ("holes": NaN)
    takes         what of this a model's program accepts
    latents       the sites that a model and its guide draw, ("z",) where nothing is said
    extra_inputs  what stands beside the inputs of a guide's encoder or a model's decoder: "labels", "mask"
    own_prior     the prior that a model brings along
    has_density   False of a guide that can only be drawn from
"""

import inspect
from typing import Any, NamedTuple

from aevb import registry

__all__ = [
    "Declared",
    "check_names",
    "declared",
    "guide_for",
    "guides_for",
    "guides_that_need",
    "model_for",
    "models_that_take",
    "space",
]


class Declared(NamedTuple):
    """The needs that a block declares; those it does not declare are as here."""

    needs: frozenset[str] = frozenset()
    takes: frozenset[str] = frozenset()
    latents: tuple[str, ...] = ("z",)
    extra_inputs: tuple[str, ...] = ()
    own_prior: str | None = None
    has_density: bool = True


def declared(kind: str, name: str) -> Declared:
    """Look up what the class of a name declares.

    Raises:
        UnknownNameError: There is none of that name.
    """
    block = registry.find(kind, name)
    said: dict[str, Any] = {field: getattr(block, field, other) for field, other in Declared._field_defaults.items()}
    return Declared(**said)


def space(block: Any) -> str | None:
    """The space that a block lives on, where it says so; a mixture of posteriors knows it only when it is built."""
    support = getattr(block, "support", None)
    return support if isinstance(support, str) else None


def guides_that_need(what: str) -> list[str]:
    """The guides that are shown labels, row numbers or holes."""
    return [name for name in registry.GUIDES if what in declared("guides", name).needs]


def models_that_take(what: str) -> list[str]:
    """The models whose programs accept them."""
    return [name for name in registry.MODELS if what in declared("models", name).takes]


def model_for(prior: str, guide: str) -> str:
    """The first model that goes with a prior and a guide (or any guide, "auto"); the first of all where none does."""
    for name in registry.MODELS:
        if guide == "auto":
            model = declared("models", name)
            fits = declared("priors", prior).needs <= model.takes and _prior_is_used(model, prior)
        else:
            fits = mismatch(name, prior, guide) is None
        if fits:
            return name
    return next(iter(registry.MODELS))


def guide_for(model: str, *, labels: bool, holes: bool) -> str:
    """The first guide that draws a model's latents and is shown what the model is, or what was asked for.

    Args:
        model: The model's name.
        labels: Whether labels are asked for, where the model may be given some.
        holes: Whether data with holes are.

    Raises:
        ValueError: There is none.
    """
    wanted = declared("models", model)
    shown = wanted.needs or (wanted.takes & {"labels"} if labels else None) or frozenset({"holes"} if holes else ())
    for name in registry.GUIDES:
        guide = declared("guides", name)
        if guide.latents == wanted.latents and guide.needs == shown:
            return name
    raise ValueError(f"no guide goes with model {model} and is shown {_and(shown) or 'the data alone'}; name one.")


def guides_for(prior: str, lives_on: str | None = None) -> list[str]:
    """The guides that go with a prior: those on its space, which a mixture of posteriors takes from its guide."""
    lives_on = space(registry.find("priors", prior)) if lives_on is None else lives_on
    fitting = [name for name in registry.GUIDES if mismatch(model_for(prior, name), prior, name) is None]
    return [name for name in fitting if lives_on in (None, space(registry.find("guides", name)))]


def check_names(model: str, prior: str, guide: str) -> None:
    """Refuse names that cannot stand together, before anything is built.

    Raises:
        ValueError: The message names the two, and partners that fit.
    """
    said = mismatch(model, prior, guide)
    if said is not None:
        raise ValueError(f"{said}; guides for prior {prior}: {', '.join(guides_for(prior)) or 'none'}.")


def mismatch(model: str, prior: str, guide: str) -> str | None:
    """Say why a model, a prior and a guide do not go together, or nothing."""
    of_model, of_prior, of_guide = declared("models", model), declared("priors", prior), declared("guides", guide)
    if _is_made_of_posteriors(prior) and not _has_posteriors(guide):
        return f"prior {prior} is made of the posteriors of data alone and their densities, and guide {guide} has none"
    if not _prior_is_used(of_model, prior):
        return f"model {model}, with guide {guide}, has a prior of its own in place of prior {prior}"
    if of_model.latents != of_guide.latents:
        return (
            f"model {model} draws {_and(of_model.latents)} and guide {guide} {_and(of_guide.latents)}, which are "
            f"different latents; guide {guide} goes with --model {_fitting_models(of_guide)}"
        )
    for kind, name, needs in (("prior", prior, of_prior.needs), ("model", model, of_model.needs)):
        if unseen := needs - of_guide.needs:
            shown = " or ".join(guides_that_need(min(unseen)))
            return f"{kind} {name} is given {_and(unseen)}, which guide {guide} does not see; take {shown}"
    if of_guide.needs - of_model.takes:
        return f"guide {guide} goes with --model {_fitting_models(of_guide)}, not with {model}"
    return None


def _fitting_models(guide: Declared) -> str:
    known = ((name, declared("models", name)) for name in registry.MODELS)
    return " or ".join(n for n, m in known if m.latents == guide.latents and m.needs <= guide.needs <= m.takes)


def _prior_is_used(model: Declared, prior: str) -> bool:
    """Whether a prior that was asked for is the model's: the first of all is what nobody asked for."""
    return model.own_prior in (None, prior) or prior == next(iter(registry.PRIORS))


def _is_made_of_posteriors(prior: str) -> bool:
    return "posterior" in inspect.signature(registry.find("priors", prior)).parameters


def _has_posteriors(guide: str) -> bool:
    """Whether a guide has a density q(z|x) that is a function of x alone, and not of the model whose prior asks."""
    block, said = registry.find("guides", guide), declared("guides", guide)
    of_x = said.needs <= {"holes"} and said.has_density and hasattr(block, "posterior")
    return of_x and "model" not in inspect.signature(block).parameters


def _and(words: Any) -> str:
    return " and ".join(sorted(words))
