"""Build a pair from names: what the command's flags mean in Python.

A block's constructor is given what it asks for by name (``latent_dim``, ``data_dim``, ``image_shape``, ``encoder``,
``posterior``...); all other parameters are the user's options. Which blocks fit each other, and what the data are
dressed with, follows from what their classes declare (:mod:`aevb.partners`); no block is known here by its name.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn

from aevb import partners, registry
from aevb.data import Dataset
from aevb.data.beside import with_holes, with_labels, with_row_numbers
from aevb.inference import MAP
from aevb.inference.objectives import Objective
from aevb.models import likelihoods, networks
from aevb.scales import pixels, units, within_unit_interval

__all__ = [
    "Recipe",
    "build",
    "build_objective",
    "build_optimizer",
    "build_pair",
    "check_standardized",
    "dress",
    "with_samples",
]

Options = Mapping[str, Any]


@dataclass(frozen=True)
class Recipe:
    """The names and options a pair is built from; plain values, as they stand in ``config.json``."""

    latent_dim: int = 20
    model: str = "auto"
    model_args: Options = field(default_factory=dict)
    prior: str = "standard-normal"
    prior_args: Options = field(default_factory=dict)
    likelihood: str = "bernoulli"
    likelihood_args: Options = field(default_factory=dict)
    guide: str = "auto"
    guide_args: Options = field(default_factory=dict)
    network: str = "mlp"
    network_args: Options = field(default_factory=dict)
    hidden: tuple[int, ...] = (500,)
    activation: str = "tanh"
    init: str = "default"
    label_share: float | None = None
    missing_share: float = 0.0
    standardize: bool = False

    def __post_init__(self) -> None:
        """Say in full what "auto" leaves open: a guide or prior of one model only brings that model along."""
        if self.latent_dim < 1:
            raise ValueError(f"latent-dim {self.latent_dim} must be at least 1.")
        if not self.hidden or min(self.hidden) < 1:
            raise ValueError(f"hidden {list(self.hidden)} must be one or more positive widths.")
        model = partners.model_for(self.prior, self.guide) if self.model == "auto" else self.model
        guide = self.guide
        if guide == "auto":
            guide = partners.guide_for(model, labels=bool(self.label_share), holes=bool(self.missing_share))
        object.__setattr__(self, "model", model)
        object.__setattr__(self, "guide", guide)

    @property
    def beside(self) -> frozenset[str]:
        """The things the guide is shown beside the data, or in them: ``labels``, ``rows``, ``holes``."""
        return partners.declared("guides", self.guide).needs

    @property
    def labels(self) -> float | None:
        """The share of the training labels that the pair is given; None where it takes none."""
        if "labels" in self.beside:
            return 1.0 if self.label_share is None else self.label_share
        return None


def dress(data: Dataset, recipe: Recipe) -> Dataset:
    """Put beside the pixels what the pair of a recipe is given: labels, row numbers, holes.

    Raises:
        ValueError: The data have no labels, or a share that was asked for has no use in the recipe.
    """
    if recipe.missing_share and "holes" not in recipe.beside:
        shown = " or ".join(partners.guides_that_need("holes"))
        raise ValueError(f"missing-share is for --guide {shown}, and guide {recipe.guide} does not see holes.")
    if recipe.label_share is not None and recipe.labels is None:
        guides, models = partners.guides_that_need("labels"), partners.models_that_take("labels")
        raise ValueError(
            f"label-share is for pairs that are given labels, and model {recipe.model} with guide {recipe.guide} is "
            f"given none; take --guide {' or '.join(guides)}, with --model {' or '.join(models)}."
        )
    if recipe.labels is not None:
        return with_labels(data, recipe.labels)
    if "rows" in recipe.beside:
        return with_row_numbers(data)
    return with_holes(data, recipe.missing_share) if recipe.missing_share else data


def build_pair(recipe: Recipe, data: Dataset, seed: int = 0) -> tuple[nn.Module, nn.Module]:
    """Build the model and the guide of a recipe for a data set.

    Args:
        recipe: Names and options.
        data: The data set; its width, picture shape and a glance at its rows are what blocks may ask for.
        seed: Of the initial parameters; the global random state is left as it was found.

    Raises:
        ValueError: A name is unknown, an option does not exist, or prior and guide live on different spaces.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        partners.check_names(recipe.model, recipe.prior, recipe.guide)
        parts = _Parts(recipe, data)
        # A guide that refines itself on the model is built after it, a prior made of the guide's network after that.
        wants_model = "model" in inspect.signature(registry.find("guides", recipe.guide)).parameters
        if wants_model:
            model = parts.model({})
            guide = parts.guide({"model": model})
        else:
            guide = parts.guide({})
            model = parts.model({"posterior": getattr(guide, "posterior", None)})
        prior = getattr(model, "prior", None)
        if prior is not None:
            check_spaces(recipe, prior, guide)
            _start_from_data(prior, data)
    return model, guide


def _start_from_data(prior: Any, data: Dataset) -> None:
    """Put what is learned in the space of the data on training rows: from noise it would have to find them first."""
    if hasattr(prior, "initialize_from"):
        x = pixels(data.train[torch.randperm(len(data.train))[: prior.initial_rows]])
        prior.initialize_from(torch.where(x.isnan(), x.nanmean(0).nan_to_num(0.5), x))


class _Parts:
    """The blocks of a recipe, each given what it asks for by name."""

    def __init__(self, recipe: Recipe, data: Dataset) -> None:
        first = data.train[torch.zeros(1, dtype=torch.long)]
        self.recipe = recipe
        self.width = int(pixels(first).shape[-1])
        self.units = units(data) if recipe.standardize else None
        labels = data.train_labels
        self.classes = 0 if labels is None else int(labels.max()) + 1
        self.common: dict[str, Any] = {
            "latent_dim": recipe.latent_dim,
            "data_dim": self.width,
            "image_shape": data.image_shape,
            "hidden": list(recipe.hidden),
            "activation": recipe.activation,
            "init": recipe.init,
            "num_points": len(data.train),
            "levels": data.levels,
            "bounded": within_unit_interval(data),
            "num_classes": self.classes or None,
        }

    def model(self, shared: dict[str, Any]) -> nn.Module:
        recipe = self.recipe
        # A likelihood's classes are its own, not the labels'.
        common = {name: value for name, value in self.common.items() if name != "num_classes"}
        likelihood = build("likelihoods", recipe.likelihood, common, recipe.likelihood_args)
        if self.units is not None:
            likelihood = likelihoods.Standardized(likelihood, **self.units)
        prior = build("priors", recipe.prior, self.common | shared, recipe.prior_args)
        outputs = {
            "in_features": recipe.latent_dim + self.columns(partners.declared("models", recipe.model).extra_inputs),
            "out_features": likelihood.num_params * self.width,
            "num_params": likelihood.num_params,
            "hidden": list(reversed(recipe.hidden)),  # the decoder mirrors the encoder
        }
        decoder = build("decoders", recipe.network, self.common | outputs, recipe.network_args)
        blocks = {"prior": prior, "decoder": decoder, "likelihood": likelihood}
        options: dict[str, Any] = {"missing": "holes" in recipe.beside, "num_components": self.classes or None}
        # Labels that are withheld are summed out: so the datapoints without one teach the classes too.
        options |= {"unlabelled": "sum" if recipe.labels not in (None, 1.0) else None}
        model: nn.Module = build("models", recipe.model, self.common | options | blocks, recipe.model_args)
        return model

    def guide(self, shared: dict[str, Any]) -> nn.Module:
        extra = partners.declared("guides", self.recipe.guide).extra_inputs
        given = self.common | {"in_features": self.width + self.columns(extra)}
        encoder: Any = None
        if "encoder" in inspect.signature(registry.find("guides", self.recipe.guide)).parameters:
            encoder = build("encoders", self.recipe.network, given, self.recipe.network_args)
            if self.units is not None:
                encoder = networks.Standardized(encoder, **self.units, masked="mask" in extra)
        options = self.recipe.guide_args
        # What was set of the model alone (the width of its upper layer) holds for its guide as well.
        common = {**self.recipe.model_args, **self.common, **shared, "encoder": encoder}
        guide: nn.Module = build("guides", self.recipe.guide, common, options)
        return guide

    def columns(self, extra_inputs: tuple[str, ...]) -> int:
        """Count the columns that stand beside a network's own inputs."""
        known = {"labels": self.classes, "mask": self.width}
        if unknown := set(extra_inputs) - known.keys():
            raise ValueError(f"extra_inputs {sorted(unknown)} are unknown; known: {', '.join(known)}.")
        return sum(known[extra] for extra in extra_inputs)


def build(kind: str, name: str, given: Options, options: Options) -> Any:
    """Call a registered class with what it asks for by name, and the user's options.

    Raises:
        ValueError: The name is unknown, an option is none of the class's, or something it needs is missing.
    """
    found = registry.find(kind, name)
    wanted = {n: p for n, p in inspect.signature(found).parameters.items()}
    own = sorted(n for n in wanted if n not in given)
    strange = sorted(set(options) - set(wanted))
    if strange:
        raise ValueError(f"{name} has no option {', '.join(strange)}; it has {', '.join(own) or 'none'}.")
    arguments = {n: v for n, v in given.items() if n in wanted and v is not None} | dict(options)
    lacking = [n for n, p in wanted.items() if p.default is p.empty and n not in arguments]
    if lacking:
        raise ValueError(f"{name} needs {', '.join(lacking)}, which these data or options do not give.")
    try:
        return found(**arguments)
    except TypeError as error:
        raise ValueError(f"{name} cannot take {dict(options)}: {error}.") from error


def check_spaces(recipe: Recipe, prior: nn.Module, guide: nn.Module) -> None:
    """Refuse a prior and a guide that live on different spaces, and name guides that fit."""
    try:
        if not partners.declared("priors", recipe.prior).needs:
            law = prior()
            law.log_prob(law.sample())
    except NotImplementedError as error:
        raise ValueError(
            f"prior {recipe.prior} is made of its guide's density, but guide {recipe.guide} has none; guides that have "
            f"one: {', '.join(partners.guides_for(recipe.prior))}."
        ) from error
    space, reached = partners.space(prior), partners.space(guide)
    if space is None or reached is None or space == reached:
        return
    raise ValueError(
        f"prior {recipe.prior} lives on the {space}, guide {recipe.guide} on the {reached}; "
        f"guides for this prior: {', '.join(partners.guides_for(recipe.prior, space)) or 'none'}."
    )


def check_standardized(recipe: Recipe, objective: Objective) -> None:
    """Refuse a standardisation that does not reach every network.

    Raises:
        ValueError: The objective brings a critic, which is shown the data as they are.
    """
    if recipe.standardize and "critic" in objective.trains:
        raise ValueError(
            "standardize does not reach the objective's critic, which is shown the data as they are; write the "
            "standardised columns into the file, or take an objective without a critic."
        )


def with_samples(method: str, samples: int | None, options: Options, *, flag: str = "method-args") -> dict[str, Any]:
    """An estimator's options with ``--samples`` among them: the draws of a datapoint, its ``num_samples``.

    Args:
        method: The estimator's name, or ``"all"``: then it is of all that have the option.
        samples: What was asked for, if anything.
        options: The others.
        flag: By which they are given, for the message.

    Raises:
        ValueError: The estimator has no such option, or it is given twice.
    """
    if samples is None:
        return dict(options)
    takes = {} if method == "all" else inspect.signature(registry.find("evidence", method)).parameters
    if method != "all" and "num_samples" not in takes:
        own = ", ".join(f"--{flag}.{name}" for name in takes)
        instead = f"what it costs is set by {own}" if own else "it has no options"
        raise ValueError(f"--samples is how many samples of a datapoint are drawn, and {method} draws none; {instead}.")
    if "num_samples" in options:
        raise ValueError(f"--samples and --{flag}.num_samples are one and the same option; give one of them.")
    return {**options, "num_samples": samples}


def build_objective(name: str, options: Options, *, parameter_prior: bool = False) -> Objective:
    """Build an objective by name, under the paper's N(0, I) prior on the model's parameters if asked."""
    objective: Objective = build("objectives", name, {}, options)
    return MAP(objective) if parameter_prior else objective


def build_optimizer(name: str, lr: float) -> Callable[[list[nn.Parameter]], torch.optim.Optimizer]:
    """Build what makes a torch optimiser out of parameters; fused where torch has it.

    Raises:
        ValueError: The name is unknown or the learning rate is not positive.
    """
    if lr <= 0.0:
        raise ValueError(f"lr {lr} must be positive.")
    found = registry.find("optimizers", name)
    fused = {"fused": True} if "fused" in inspect.signature(found).parameters else {}
    make: Callable[[list[nn.Parameter]], torch.optim.Optimizer] = partial(found, lr=lr, **fused)
    return make
