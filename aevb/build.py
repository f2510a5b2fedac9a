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
from aevb.inference import MAP
from aevb.inference.objectives import Objective
from aevb.models import LatentVariableModel

__all__ = ["Recipe", "build", "build_objective", "build_optimizer", "build_pair"]

Options = Mapping[str, Any]


@dataclass(frozen=True)
class Recipe:
    """The names and options a pair is built from; plain values, as they stand in ``config.json``."""

    latent_dim: int = 20
    prior: str = "standard-normal"
    prior_args: Options = field(default_factory=dict)
    likelihood: str = "bernoulli"
    likelihood_args: Options = field(default_factory=dict)
    guide: str = "normal"
    guide_args: Options = field(default_factory=dict)
    network: str = "mlp"
    network_args: Options = field(default_factory=dict)
    hidden: tuple[int, ...] = (500,)
    activation: str = "tanh"
    init: str = "default"

    def __post_init__(self) -> None:
        if self.latent_dim < 1:
            raise ValueError(f"latent-dim {self.latent_dim} must be at least 1.")
        if not self.hidden or min(self.hidden) < 1:
            raise ValueError(f"hidden {list(self.hidden)} must be one or more positive widths.")


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
        rows = data.train[torch.arange(min(2, len(data.train)))]
        if not isinstance(rows, torch.Tensor):
            raise ValueError(
                f"{data.name} has several parts a datapoint, the command builds models of one; use Python."
            )
        parts = _Parts(recipe, rows, data.image_shape)
        # A guide that refines itself on the model is built after it, a prior made of the guide's network after that.
        wants_model = "model" in inspect.signature(registry.find("guides", recipe.guide)).parameters
        if wants_model:
            model = parts.model({})
            guide = parts.guide({"model": model})
        else:
            guide = parts.guide({})
            model = parts.model({"posterior": guide.posterior})
        check_partners(recipe, model.prior, guide)
    return model, guide


class _Parts:
    """The blocks of a recipe, each given what it asks for by name."""

    def __init__(self, recipe: Recipe, rows: torch.Tensor, image_shape: tuple[int, int, int] | None) -> None:
        self.recipe, self.width = recipe, int(rows.shape[-1])
        self.common: dict[str, Any] = {
            "latent_dim": recipe.latent_dim,
            "data_dim": self.width,
            "image_shape": image_shape,
            "hidden": list(recipe.hidden),
            "activation": recipe.activation,
            "init": recipe.init,
        }

    def model(self, shared: dict[str, Any]) -> LatentVariableModel:
        recipe = self.recipe
        likelihood = build("likelihoods", recipe.likelihood, self.common, recipe.likelihood_args)
        prior = build("priors", recipe.prior, self.common | shared, recipe.prior_args)
        outputs = {
            "in_features": recipe.latent_dim,
            "out_features": likelihood.num_params * self.width,
            "num_params": likelihood.num_params,
        }
        decoder = build("decoders", recipe.network, self.common | outputs, recipe.network_args)
        return LatentVariableModel(prior, decoder, likelihood)

    def guide(self, shared: dict[str, Any]) -> nn.Module:
        given = self.common | {"in_features": self.width}
        encoder = build("encoders", self.recipe.network, given, self.recipe.network_args)
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


def check_partners(recipe: Recipe, prior: nn.Module, guide: nn.Module) -> None:
    """Refuse a prior and a guide that live on different spaces, and name guides that fit."""
    try:
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
    fitting = [name for name in registry.GUIDES if _space(registry.find("guides", name)) == space]
    raise ValueError(
        f"prior {recipe.prior} lives on the {space}, guide {recipe.guide} on the {reached}; "
        f"guides for this prior: {', '.join(fitting) or 'none'}."
    )


def _space(block: Any) -> str | None:
    support = getattr(block, "support", None)
    return support if isinstance(support, str) else None


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
