"""Build a pair from names: what the command's flags mean in Python.

A block's constructor is given what it asks for by name (``latent_dim``, ``data_dim``, ``image_shape``, ``encoder``,
``posterior``...); all other parameters are the user's options.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn

from aevb import registry
from aevb.data import Dataset
from aevb.data.beside import with_holes, with_labels, with_row_numbers
from aevb.inference import MAP
from aevb.inference.objectives import Objective
from aevb.models import likelihoods, networks
from aevb.models.priors import VampPrior
from aevb.scales import pixels, units, within_unit_interval

__all__ = ["Recipe", "build", "check_standardized", "build_objective", "build_optimizer", "build_pair", "dress"]

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
        model, guide = self.model, self.guide
        if model == "auto":
            brought = {"hierarchical": "hierarchical", "conditional-normal": "conditional"}.get(guide)
            model = brought or ("conditional" if self.prior == "class-conditional" else "latent-variable")
        if guide == "auto":
            labelled = model == "conditional" or (model == "clustering" and bool(self.label_share))
            missing = "masked-normal" if self.missing_share else "normal"
            guide = "conditional-normal" if labelled else "hierarchical" if model == "hierarchical" else missing
        object.__setattr__(self, "model", model)
        object.__setattr__(self, "guide", guide)

    @property
    def labels(self) -> float | None:
        """The share of the training labels that the pair is given; None where it takes none."""
        if self.guide == "conditional-normal":
            return 1.0 if self.label_share is None else self.label_share
        return None


def dress(data: Dataset, recipe: Recipe) -> Dataset:
    """Put beside the pixels what the pair of a recipe is given: labels, row numbers, holes.

    Raises:
        ValueError: The data have no labels, or a share that was asked for has no use in the recipe.
    """
    if recipe.missing_share and recipe.guide != "masked-normal":
        raise ValueError(f"missing-share is for --guide masked-normal, and guide {recipe.guide} does not see holes.")
    if recipe.label_share is not None and recipe.labels is None:
        raise ValueError(
            f"label-share is for pairs that are given labels, and model {recipe.model} with guide {recipe.guide} is "
            "given none; take --model conditional, or --model clustering with --guide conditional-normal."
        )
    if recipe.labels is not None:
        return with_labels(data, recipe.labels)
    if recipe.guide == "mean-field":
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
        check_words(recipe)
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
            check_partners(recipe, prior, guide)
            _start_from_data(prior, data)
    return model, guide


def _start_from_data(prior: nn.Module, data: Dataset) -> None:
    """Put pseudo-inputs on training rows: from noise they would have to find the data first."""
    if isinstance(prior, VampPrior):
        x = pixels(data.train[torch.randperm(len(data.train))[: prior.num_pseudo_inputs]])
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
            "top_dim": recipe.model_args.get("top_dim"),
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
            "in_features": recipe.latent_dim + (self.classes if recipe.model == "conditional" else 0),
            "out_features": likelihood.num_params * self.width,
            "num_params": likelihood.num_params,
            "hidden": list(reversed(recipe.hidden)),  # the decoder mirrors the encoder
        }
        decoder = build("decoders", recipe.network, self.common | outputs, recipe.network_args)
        blocks = {"prior": prior, "decoder": decoder, "likelihood": likelihood}
        options: dict[str, Any] = {"missing": recipe.guide == "masked-normal", "num_components": self.classes or None}
        # Labels that are withheld are summed out: so the datapoints without one teach the classes too.
        options |= {"unlabelled": "sum" if recipe.labels not in (None, 1.0) else None}
        model: nn.Module = build("models", recipe.model, self.common | options | blocks, recipe.model_args)
        return model

    def guide(self, shared: dict[str, Any]) -> nn.Module:
        beside = {"masked-normal": self.width, "conditional-normal": self.classes}
        given = self.common | {"in_features": self.width + beside.get(self.recipe.guide, 0)}
        encoder: Any = None
        if "encoder" in inspect.signature(registry.find("guides", self.recipe.guide)).parameters:
            encoder = build("encoders", self.recipe.network, given, self.recipe.network_args)
            if self.units is not None:
                masked = self.recipe.guide == "masked-normal"
                encoder = networks.Standardized(encoder, **self.units, masked=masked)
        options = self.recipe.guide_args
        guide: nn.Module = build("guides", self.recipe.guide, self.common | shared | {"encoder": encoder}, options)
        return guide


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


# What a block asks of its partners beyond a common space.
_NEEDS_MODEL = {"hierarchical": ("hierarchical",), "conditional-normal": ("conditional", "clustering")}
_OWN_PRIOR = {"hierarchical": "standard-normal", "clustering": "mixture-of-gaussians"}
_NOT_VAMP = ("semi-amortized", "mean-field", "conditional-normal")


def fitting_guides(prior: str, space: str | None = None) -> list[str]:
    """The guides that go with a prior: those on its space, which the VampPrior takes from its guide."""
    space = _space(registry.find("priors", prior)) if space is None else space
    if prior == "class-conditional":
        return ["conditional-normal"]
    if prior == "vamp-prior":
        implicit = ("implicit", "noise-basis", "hierarchical")
        return [name for name in registry.GUIDES if name not in (*_NOT_VAMP, *implicit)]
    alone = [name for name in registry.GUIDES if name != "hierarchical" or prior == "standard-normal"]
    return [name for name in alone if _space(registry.find("guides", name)) == space]


def check_words(recipe: Recipe) -> None:
    """Refuse names that cannot stand together, before anything is built.

    Raises:
        ValueError: The message names the two, and partners that fit.
    """
    prior, guide, model = recipe.prior, recipe.guide, recipe.model
    for kind, name in (("models", model), ("priors", prior), ("guides", guide)):
        registry.find(kind, name)
    partners = f"guides for prior {prior}: {', '.join(fitting_guides(prior))}."
    if prior == "vamp-prior" and guide in _NOT_VAMP:
        raise ValueError(
            f"prior {prior} is made of the posteriors of data alone, and guide {guide} has none; {partners}"
        )
    if model in _OWN_PRIOR and prior not in ("standard-normal", _OWN_PRIOR[model]):
        raise ValueError(
            f"model {model}, with guide {guide}, has a prior of its own in place of prior {prior}; {partners}"
        )
    if prior == "class-conditional" and guide != "conditional-normal":
        raise ValueError(f"prior {prior} is given labels, which guide {guide} does not see; {partners}")
    if (model == "hierarchical") != (guide == "hierarchical"):
        raise ValueError(
            f"model {model} and guide {guide} have different latents; --model hierarchical has its own guide."
        )
    if model == "conditional" and guide != "conditional-normal":
        raise ValueError(f"model {model} is given labels, which guide {guide} does not see; take conditional-normal.")
    if guide in _NEEDS_MODEL and model not in _NEEDS_MODEL[guide]:
        raise ValueError(f"guide {guide} goes with --model {' or '.join(_NEEDS_MODEL[guide])}, not with {model}.")


def check_partners(recipe: Recipe, prior: nn.Module, guide: nn.Module) -> None:
    """Refuse a prior and a guide that live on different spaces, and name guides that fit."""
    try:
        if not getattr(prior, "takes_label", False):
            law = prior()
            law.log_prob(law.sample())
    except NotImplementedError as error:
        raise ValueError(
            f"prior {recipe.prior} is made of its guide's density, but guide {recipe.guide} has none; guides that have "
            "one: normal, full-covariance-normal, flow, ..."
        ) from error
    space, reached = _space(prior), _space(guide)
    if space is None or reached is None or space == reached:
        return
    raise ValueError(
        f"prior {recipe.prior} lives on the {space}, guide {recipe.guide} on the {reached}; "
        f"guides for this prior: {', '.join(fitting_guides(recipe.prior, space)) or 'none'}."
    )


def _space(block: Any) -> str | None:
    support = getattr(block, "support", None)
    return support if isinstance(support, str) else None


def check_standardized(recipe: Recipe, objective: Objective) -> None:
    """Refuse a standardisation that does not reach every network.

    Raises:
        ValueError: The objective brings a critic, which is shown the data as they are.
    """
    if recipe.standardize and "critic" in objective.trains:
        raise ValueError(
            "standardize does not reach the critic of avb, which is shown the data as they are; write the standardised "
            "columns into the file, or take an objective without a critic."
        )


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
