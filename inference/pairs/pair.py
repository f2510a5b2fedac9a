r"""A model/guide pair as densities: the one place where programs are run under Pyro's handlers.

A pair is run once under Pyro's effect handlers and becomes what every algorithm is written against:

    z ~ q(z|x),   log p(z),   log p(x|z),   log q(z|x)        each ``[num_samples, batch]``,

never summed over the batch. The contract of a program ``model(*data)`` or ``guide(*data)`` is short: one
``pyro.plate`` at dim -1 of size ``len(data[0])`` holds every sample site, and all of it broadcasts over
further dimensions on the left. Both draw the same latents, in any order. No site carries a scale: what it weighs
belongs to an objective.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyro
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn
from torch.distributions import Distribution, constraints, transform_to

__all__ = ["Cloud", "ContractError", "Data", "Divergence", "LatentSite", "Pair", "Program"]

Data = tuple[Tensor, ...]
Sites = dict[str, Any]
Change = Callable[[str, Distribution], Distribution]
_SAMPLE_PLATE = "_aevb_samples"


class ContractError(ValueError):
    """A model/guide pair breaks the contract; the message names the site, its shape and the mend."""


class Cloud(NamedTuple):
    """Latents drawn from the guide with their log-densities, one number a sample and a datapoint.

    ``z`` maps a site to its draws ``[num_samples, batch, *event]``; the three log-densities are
    ``[num_samples, batch]``, in nats.
    """

    z: dict[str, Tensor]
    log_prior: Tensor
    log_lik: Tensor
    log_q: Tensor

    @property
    def log_joint(self) -> Tensor:
        """The log-joint density log p(x, z)."""
        return self.log_prior + self.log_lik

    @property
    def log_weight(self) -> Tensor:
        """The log importance weight log p(x, z) - log q(z|x)."""
        return self.log_joint - self.log_q


@dataclass(frozen=True)
class LatentSite:
    """What the check of a pair learned about one latent.

    Without ``has_density`` the guide can only be drawn from; without ``has_closed_form`` the latent's share of the rate
    is log q - log p at its draws, whatever divergence is known between the two distributions.
    """

    name: str
    support: constraints.Constraint
    event_shape: torch.Size
    has_rsample: bool
    has_density: bool = True
    has_closed_form: bool = True


class Divergence(NamedTuple):
    """One latent's distributions at a cloud's draws, and whether KL(guide || model) is its share of the rate there."""

    guide: Distribution
    model: Distribution
    has_closed_form: bool


class _Parameters(Messenger):
    """Answers every ``pyro.param`` from a program's own parameters instead of the global store."""

    def __init__(self, program: Program) -> None:
        super().__init__()
        self.program = program

    def _pyro_param(self, msg: Any) -> None:
        init = msg["args"][1] if len(msg["args"]) > 1 else None
        if init is None and msg["name"] in pyro.get_param_store():
            return  # a PyroModule has just put its own parameter there
        constraint = msg["kwargs"].get("constraint", constraints.real)
        msg["value"] = self.program.parameter(msg["name"], init, constraint)
        msg["done"] = True


class _Dreaming(Messenger):
    """Draws every observed site, as ``poutine.uncondition`` does, and leaves computed ones as they are computed."""

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"] and not msg["infer"].get("_deterministic"):
            msg["is_observed"], msg["done"], msg["value"] = False, False, None


class _Detaching(Messenger):
    """Cuts every draw off from the parameters it was drawn by."""

    def _pyro_post_sample(self, msg: Any) -> None:
        msg["value"] = msg["value"].detach()


class _Changing(Messenger):
    """Puts another distribution in the place of each latent's; what is to be changed has all of ``dims`` in front."""

    def __init__(self, names: frozenset[str], change: Change, dims: int) -> None:
        super().__init__()
        self.names, self.change, self.dims = names, change, dims

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self.names:
            # The plate of samples is entered further out: what does not depend on another draw knows nothing of it.
            shape = torch.Size(msg["fn"].batch_shape)
            missing = (1,) * (self.dims - len(shape))
            msg["fn"] = self.change(msg["name"], msg["fn"].expand(missing + shape))


class Program(nn.Module):
    """A callable of Pyro statements that carries its own parameters.

    A plain function's ``pyro.param`` and ``pyro.module`` statements are adopted as parameters and submodules
    of this module the first time they run, so two programs never share a store by accident and
    ``parameters()``, ``state_dict()`` and ``to()`` mean what they mean for any module.

    Args:
        fn: A plain function, a bound method or an ``nn.Module``.
    """

    def __init__(self, fn: Callable[..., Any]) -> None:
        super().__init__()
        self.fn = fn
        self.births = 0  # how many parameters were adopted: a trainer sees late ones by it
        self._constraints: dict[str, constraints.Constraint] = {}
        self._keys: dict[str, str] = {}
        self._peer: tuple[Program, ...] = ()  # a tuple, so that the peer is no submodule
        self._put_to_rest: list[nn.Module] = []  # adopted in training mode while this program was in evaluation mode

    def forward(self, *data: Tensor) -> Any:
        """Run the program; its parameters are this module's."""
        # A PyroModule hands its parameters through the global store: it finds an empty one here, and what it leaves
        # in it is adopted, so nothing outlives the call and no other program's parameter is met by name.
        with pyro.get_param_store().scope() as store, self._adopting(), _Parameters(self):
            result = self.fn(*data)
        self._adopt_left_behind(store)
        return result

    def parameter(self, name: str, init: Any, constraint: constraints.Constraint) -> Tensor:
        """Return the (constrained) value of the parameter ``name``, adopting it when it is new."""
        if isinstance(init, Tensor) and any(init is known for known in self.parameters()):
            return init  # pyro.module hands its parameters through, or what stands in for them
        if isinstance(init, nn.Parameter):
            self._adopt(name, init)
            return init
        if name not in self._keys and not self._borrow(name):
            if init is None:
                raise ContractError(
                    f"pyro.param({name!r}) has no initial value and no parameter of that name exists; "
                    "give it one: pyro.param(name, init)."
                )
            value = init() if callable(init) else init
            with torch.no_grad():
                free = transform_to(constraint).inv(value.detach()).clone()
            self._adopt(name, nn.Parameter(free))
            self._constraints[name] = constraint
        free = getattr(self, self._keys[name])
        return transform_to(self._constraints[name])(free)

    def meet(self, peer: Program) -> None:
        """Share from now on the ``pyro.param`` names of a pair's other program, as Pyro's one store does."""
        if peer is not self:
            self._peer = (peer,)

    def wake(self) -> None:
        """Give back the training mode that modules adopted in evaluation mode came with."""
        for module in self._put_to_rest:
            module.training = True
        self._put_to_rest.clear()

    def values(self) -> dict[str, Tensor]:
        """Map every parameter's own name to its constrained value."""
        found: dict[str, Tensor] = {}
        own = {key: name for name, key in self._keys.items()}
        for key, value in self.named_parameters():
            name = own.get(key)
            if name is None:
                name, constrained = _module_value(self, key, value)
            else:
                constrained = transform_to(self._constraints.get(name, constraints.real))(value)
            found[name] = constrained.detach()
        return found

    def _borrow(self, name: str) -> bool:
        """Adopt a peer's parameter of this name, if there is one."""
        for peer in self._peer:
            if name in peer._constraints and name in peer._keys:
                self._adopt(name, getattr(peer, peer._keys[name]))
                self._constraints[name] = peer._constraints[name]
                return True
        return False

    def _adopt_left_behind(self, store: Any) -> None:
        if not store["params"]:
            return
        known = {id(parameter) for parameter in self.parameters()}
        for name, value in store["params"].items():
            if isinstance(value, nn.Parameter) and id(value) not in known and name not in self._keys:
                self._adopt(name, value)
                self._constraints[name] = store["constraints"][name]

    def _adopt(self, name: str, value: nn.Parameter) -> None:
        key = name.replace(".", "/")
        self._keys[name] = key
        self.register_parameter(key, value)
        self.births += 1

    @contextmanager
    def _adopting(self) -> Iterator[None]:
        # pyro.module announces the parameters of a module but not the module, whose buffers (batch-norm
        # statistics) belong to the program as well: so the announcement itself is overheard.
        announce = pyro.module

        def overhear(name: str, nn_module: nn.Module, *args: Any, **kwargs: Any) -> nn.Module:
            key = name.replace(".", "/")
            if key not in self._modules:
                self.add_module(key, nn_module)
                self.births += 1
                if not self.training:
                    self._put_to_rest += [module for module in nn_module.modules() if module.training]
                    nn_module.eval()
            return announce(name, nn_module, *args, **kwargs)

        pyro.module = overhear
        try:
            yield
        finally:
            pyro.module = announce


def _module_value(program: nn.Module, key: str, value: Tensor) -> tuple[str, Tensor]:
    """The user's name and constrained value of a parameter that lives in a module."""
    name = key.removeprefix("fn.")
    if name.endswith("_unconstrained"):  # a PyroParam: its module knows the constraint
        owner, _, leaf = key.removesuffix("_unconstrained").rpartition(".")
        with pyro.get_param_store().scope():
            return name.removesuffix("_unconstrained"), getattr(program.get_submodule(owner), leaf)
    return name, value


class _Changed(Program):
    """A program whose latents' distributions are changed on the way; its parameters are that program's own."""

    def __init__(self, inner: Program, changing: _Changing) -> None:
        super().__init__(inner)
        self._changing = changing

    def forward(self, *data: Tensor) -> Any:
        with self._changing:
            return self.fn(*data)


class Pair(nn.Module):
    r"""A Pyro model p(z)p(x|z) and, where there is one, its guide q(z|x), as per-datapoint densities.

    Args:
        model: Any callable ``model(*data)`` with Pyro sample statements.
        guide: Any callable ``guide(*data)`` over the same latent sites, or ``None``.

    Data are a tuple of tensors that share their first dimension, the batch; a lone tensor is allowed.

    Example:
        >>> import pyro.distributions as dist
        >>> def model(x):
        ...     with pyro.plate("data", len(x)):
        ...         z = pyro.sample("z", dist.Normal(0.0, 1.0))
        ...         pyro.sample("x", dist.Normal(z, 1.0), obs=x)
        >>> def guide(x):
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("z", dist.Normal(x / 2, 0.5**0.5))
        >>> x = torch.tensor([0.0, 1.0])
        >>> cloud = Pair(model, guide).check(x).cloud(x, num_samples=3)
        >>> cloud.log_weight.shape  # the guide is exact: every weight is log p(x)
        torch.Size([3, 2])
        >>> torch.allclose(cloud.log_weight, dist.Normal(0.0, 2**0.5).log_prob(x))
        True
    """

    def __init__(self, model: Callable[..., Any], guide: Callable[..., Any] | None = None) -> None:
        super().__init__()
        self.model = _as_program(model)
        self.guide = None if guide is None else _as_program(guide)
        if self.guide is not None:
            self.guide.meet(self.model)
            self.model.meet(self.guide)
        self.max_plate_nesting = 1
        self.latents: tuple[LatentSite, ...] = ()
        self.auxiliary: tuple[str, ...] = ()  # what the guide alone draws
        self.reads_data: tuple[str, ...] = ()  # latents whose prior looks at an observed argument: r(a|z, x)
        self.observed: dict[str, int | None] = {}  # observed site -> the position of its data
        self.example: Data = ()

    # ------------------------------------------------------------------ what algorithms call

    def cloud(self, data: Tensor | Data, num_samples: int = 1) -> Cloud:
        """Draw ``num_samples`` latents a datapoint from the guide and score them.

        Args:
            data: The batch.
            num_samples: The number K of draws a datapoint.

        Returns:
            The cloud, its log-densities ``[num_samples, batch]``.
        """
        data = as_data(data)
        self.insist_on_density()
        guide_sites = self.trace(self._guide(), data, num_samples)
        z = self._latent_values(guide_sites)
        log_prior, log_lik = self.log_densities(z, data)
        shape = torch.Size((num_samples, len(data[0])))
        return Cloud(z, log_prior, log_lik, self._log_prob(guide_sites, guide_sites.keys(), shape))

    def divergences(self, data: Tensor | Data, num_samples: int = 1) -> tuple[Cloud, dict[str, Divergence]]:
        """The cloud together with each latent's distributions at the draws, those of masked sites masked."""
        data = as_data(data)
        self.insist_on_density()
        guide_sites = self.trace(self._guide(), data, num_samples)
        z = self._latent_values(guide_sites)
        sites = self._run_at(self.model, z, data)
        rest = [name for name in sites if name not in z]
        shape = torch.Size((num_samples, len(data[0])))
        log_prior, log_lik = self._log_prob(sites, z.keys(), shape), self._log_prob(sites, rest, shape)
        cloud = Cloud(z, log_prior, log_lik, self._log_prob(guide_sites, guide_sites.keys(), shape))
        closed = {site.name: site.has_closed_form for site in self.latents}
        return cloud, {n: Divergence(_masked(guide_sites[n]), _masked(sites[n]), closed[n]) for n in z}

    def log_densities(self, z: dict[str, Tensor], data: Tensor | Data) -> tuple[Tensor, Tensor]:
        """The log-prior log p(z) and the log-likelihood log p(x|z) at given latents.

        Args:
            z: Site to values ``[num_samples, batch, *event]``.
            data: The batch.

        Returns:
            Two tensors ``[num_samples, batch]``, in nats.
        """
        data = as_data(data)
        shape = self._shape(z, data)
        sites = self._run_at(self.model, z, data)
        rest = [name for name in sites if name not in z]
        return self._log_prob(sites, z.keys(), shape), self._log_prob(sites, rest, shape)

    def log_joint(self, z: dict[str, Tensor], data: Tensor | Data) -> Tensor:
        """The log-joint density log p(x, z), ``[num_samples, batch]``."""
        log_prior, log_lik = self.log_densities(z, data)
        return log_prior + log_lik

    def log_guide(self, z: dict[str, Tensor], data: Tensor | Data) -> Tensor:
        """The guide's log-density log q(z|x) at given latents, ``[num_samples, batch]``."""
        data = as_data(data)
        self.insist_on_density()
        sites = self._run_at(self._guide(), z, data)
        return self._log_prob(sites, sites.keys(), self._shape(z, data))

    def sample_guide(self, data: Tensor | Data, num_samples: int = 1) -> dict[str, Tensor]:
        """Draw latents from q(z|x): site to ``[num_samples, batch, *event]``."""
        return self._latent_values(self.trace(self._guide(), as_data(data), num_samples))

    def scored_draws(self, data: Tensor | Data, num_samples: int = 1) -> tuple[dict[str, Tensor], Tensor]:
        """Draw latents from q(z|x), cut off from its parameters, and score them in the run that drew them.

        Args:
            data: The batch.
            num_samples: The number K of draws a datapoint.

        Returns:
            Site to draws ``[num_samples, batch, *event]``, and log q(z|x) ``[num_samples, batch]``, whose gradient is
            the score.
        """
        data = as_data(data)
        self.insist_on_density()
        with _Detaching():
            sites = self.trace(self._guide(), data, num_samples)
        shape = torch.Size((num_samples, len(data[0])))
        return self._latent_values(sites), self._log_prob(sites, sites.keys(), shape)

    def sample_prior(self, data: Tensor | Data, num_samples: int = 1) -> dict[str, Tensor]:
        """Draw latents from p(z), as many datapoints as ``data`` has; its values are not looked at."""
        with _Dreaming():
            return self._latent_values(self.trace(self.model, as_data(data), num_samples))

    def dream(self, data: Tensor | Data, num_samples: int = 1) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Draw latents and observations from the model.

        Args:
            data: A batch that says how many datapoints; only what is conditioned on (a label) is read.
            num_samples: The number K of draws a datapoint.

        Returns:
            Latent site to ``[num_samples, batch, *event]``, observed site likewise.

        Raises:
            ContractError: A latent is drawn given the data at hand, and not given those that are dreamt.
        """
        sites = self._dreamt_sites(as_data(data), num_samples)
        return self._latent_values(sites), {name: sites[name]["value"] for name in self.observed}

    def dreamt_data(self, data: Tensor | Data, observed: dict[str, Tensor]) -> Data:
        """Put one dream (observed sites of ``num_samples = 1``) where the programs take their data."""
        dreamt = list(as_data(data))
        for name, position in self.observed.items():
            if position is None:
                raise ContractError(
                    f"observed site {name!r} cannot be matched with one of the {len(dreamt)} arguments, so a dream "
                    "cannot take its place; observe an argument itself: pyro.sample(..., obs=x)."
                )
            like = dreamt[position]
            # Plates of an observed site lie left of the batch, where its data have dimensions right of it.
            rows = observed[name].movedim(self.max_plate_nesting, 0)
            if rows.numel() != like.numel():
                raise ContractError(
                    f"observed site {name!r} holds {rows.numel()} numbers of the {like.numel()} of its argument (shape "
                    f"{tuple(like.shape)}), so its dream cannot take the argument's place; pass that part as an "
                    "argument of its own: model(x, y)."
                )
            dreamt[position] = rows.reshape(like.shape).to(like.dtype)
        return tuple(dreamt)

    def simulate(self, data: Tensor | Data) -> tuple[dict[str, Tensor], Data]:
        """Draw latents and, in the place of each datapoint, one of the model's own with the same holes.

        What is conditioned on (a label) stays as it is. So does what a mask leaves out of the likelihood: there the
        data keep their own value, the NaN or the -1 that stands for a missing one. Where the mask is a matter of the
        datapoint's place and not of its latents (missing at random), the latents are exact posterior draws of what
        comes back.

        Args:
            data: The batch.

        Returns:
            Latent site to ``[1, batch, *event]``, and data of the shapes given.

        Raises:
            ContractError: An observed site is no argument of the programs, so a dream cannot take its place; or a
                latent is drawn given the data at hand.
        """
        data = as_data(data)
        sites = self._dreamt_sites(data, 1)
        simulated = list(self.dreamt_data(data, {name: sites[name]["value"] for name in self.observed}))
        for name, position in self.observed.items():
            kept = _kept(sites[name])
            if kept is not None and position is not None:
                rows = kept.movedim(self.max_plate_nesting, 0).reshape(data[position].shape)
                simulated[position] = torch.where(rows, simulated[position], data[position])
        return self._latent_values(sites), tuple(simulated)

    def likelihoods(self, z: dict[str, Tensor], data: Tensor | Data) -> dict[str, Distribution]:
        """The distribution p(x|z) of every observed site at given latents; it scores what its mask keeps."""
        sites = self._run_at(self.model, z, as_data(data))
        return {name: _masked(sites[name]) for name in self.observed}

    def blank(self, num_points: int) -> Data:
        """Arguments for ``num_points`` datapoints when only their number matters (:meth:`dream`)."""
        if not self.example:
            raise ContractError("the pair has not seen data yet; call check(data) first.")
        return tuple(part[:1].expand(num_points, *part.shape[1:]).clone() for part in self.example)

    def players(self) -> dict[str, list[nn.Parameter]]:
        """The trainable parameters of each player, ``"model"`` and (where there is one) ``"guide"``."""
        programs = {"model": self.model, "guide": self.guide}
        return {
            name: [p for p in program.parameters() if p.requires_grad]
            for name, program in programs.items()
            if program is not None
        }

    @property
    def has_density(self) -> bool:
        """Whether log q(z|x) can be evaluated; an implicit guide can only be drawn from."""
        return all(site.has_density for site in self.latents)

    def insist_on_density(self) -> None:
        """Refuse a guide whose log q(z|x) cannot be evaluated.

        Raises:
            ContractError: It draws from an implicit distribution, or something beside the model's latents.
        """
        if self.auxiliary:
            names = list(self.auxiliary)
            raise ContractError(
                f"the guide draws {names} and the model does not, so log q(z|x) is an integral over {names} that "
                "nobody has worked out: there is no bound, and there are no importance weights. Let the model draw "
                f"them too, after its latents, under any distribution r given z and x: pyro.sample({names[0]!r}, r). "
                "AdversarialVB, and annealed importance sampling from the prior or from moments, need draws alone."
            )
        without = [site.name for site in self.latents if not site.has_density]
        if without:
            raise ContractError(
                f"the guide has no density log q(z|x) at {without} (an implicit distribution), so there is no bound "
                "and there are no importance weights; train it with AdversarialVB, and take its evidence by annealed "
                "importance sampling, which needs draws alone."
            )

    @property
    def births(self) -> int:
        """How many parameters the programs have adopted so far."""
        return self.model.births + (0 if self.guide is None else self.guide.births)

    @contextmanager
    def evaluation(self) -> Iterator[None]:
        """Run what follows without gradients or Pyro's validation, every module in evaluation mode."""
        training = {module: module.training for module in self.modules()}
        self.eval()
        try:
            with torch.no_grad(), pyro.validation_enabled(False):
                yield
        finally:
            for module, mode in training.items():
                module.training = mode
            for program in (self.model, self.guide):
                if program is not None and program.training:  # not when one evaluation lies inside another
                    program.wake()

    def with_guide_changed(self, change: Change) -> Pair:
        """The same checked pair, but each latent of the guide is drawn from ``change(site, its distribution)``.

        The distribution that is handed over has batch shape ``[num_samples, batch]``, or ``[1, batch]`` where it is
        the same for every draw; model and parameters are shared.
        """
        changing = _Changing(frozenset(site.name for site in self.latents), change, self.max_plate_nesting + 1)
        changed = copy(self)
        changed._modules = {**self._modules, "guide": _Changed(self._guide(), changing)}
        return changed

    # ------------------------------------------------------------------ the contract

    def check(self, data: Tensor | Data) -> Pair:
        """Run the pair once, validated, and learn its sites.

        Args:
            data: A few rows are enough; what they are is kept as the example.

        Returns:
            The pair itself.

        Raises:
            ContractError: The pair breaks the contract; the message names the site and the mend.
        """
        from .contract import check_pair  # the rules read better on a page of their own

        # In evaluation mode: a check moves no running statistics.
        with self.evaluation(), pyro.validation_enabled(True):
            check_pair(self, as_data(data))
        return self

    def trace(self, program: Callable[..., Any], data: Data, num_samples: int | None) -> Sites:
        """Run a program and return its sample sites by name; ``None`` runs it without a sample plate."""
        with poutine.trace() as recorder:
            if num_samples is None:
                program(*data)
            else:
                plate_dim = -1 - self.max_plate_nesting
                with pyro.plate(_SAMPLE_PLATE, num_samples, dim=plate_dim):
                    program(*data)
        return {
            name: site
            for name, site in recorder.trace.nodes.items()
            if site["type"] == "sample"
            and not site_is_subsample(site)
            and not (site["infer"] or {}).get("_deterministic")
        }

    def latents_at(self, sites: Sites, data: Data) -> dict[str, Tensor]:
        """The log-density of each latent at the values of all sites, observed ones included, with these arguments."""
        values = {name: site["value"] for name, site in sites.items()}
        again = self.trace(poutine.condition(self.model, data=values), data, None)
        return {site.name: site_log_prob(again[site.name], self.max_plate_nesting) for site in self.latents}

    # ------------------------------------------------------------------ private

    def _dreamt_sites(self, data: Data, num_samples: int) -> Sites:
        if self.reads_data:
            names, sites = list(self.reads_data), sorted(self.observed)
            raise ContractError(
                f"the model draws {names} given the argument that its {sites} observes, so a dream would draw them "
                f"given the data at hand. Draw them after {sites}, given what that statement returns: "
                "x = pyro.sample(..., obs=x)."
            )
        with _Dreaming():
            return self.trace(self.model, data, num_samples)

    def _run_at(self, program: Program, z: dict[str, Tensor], data: Data) -> Sites:
        num_samples, batch = self._shape(z, data)
        inner = (1,) * (self.max_plate_nesting - 1)  # plates of observed sites left of the batch
        values = {name: v.reshape(num_samples, *inner, batch, *v.shape[2:]) for name, v in z.items()}
        return self.trace(poutine.condition(program, data=values), data, num_samples)

    def _guide(self) -> Program:
        if self.guide is None:
            raise ContractError("this pair has no guide q(z|x); pass one, or fit one to the model.")
        return self.guide

    def _latent_values(self, sites: Sites) -> dict[str, Tensor]:
        values = {site.name: sites[site.name]["value"] for site in self.latents}
        if self.max_plate_nesting == 1:
            return values
        inner = tuple(range(1, self.max_plate_nesting))
        return {name: value.squeeze(inner) for name, value in values.items()}

    @staticmethod
    def _shape(z: dict[str, Tensor], data: Data) -> torch.Size:
        return torch.Size((next(iter(z.values())).shape[0], len(data[0])))

    def _log_prob(self, sites: Sites, names: Any, shape: torch.Size) -> Tensor:
        terms = [site_log_prob(sites[name], self.max_plate_nesting) for name in names]
        return sum(terms[1:], terms[0]).expand(shape)


def site_has_density(site: Any) -> bool:
    """Whether a site's distribution can be evaluated, and not only drawn from."""
    fn = site["fn"]
    while hasattr(fn, "base_dist"):
        fn = fn.base_dist
    return bool(getattr(fn, "has_density", True))


def site_log_prob(site: Any, max_plate_nesting: int) -> Tensor:
    """A site's log-density, its inner plates summed: ``[num_samples, batch]`` or broadcastable.

    A mask says which entries exist, and is kept. A scaled log-density is no density: what is made of it is no bound of
    any model, so a scale is refused.
    """
    if isinstance(site["scale"], Tensor) or site["scale"] != 1.0:
        raise ContractError(
            f"site {site['name']!r} carries a scale (poutine.scale, or a plate that subsamples), and a scaled "
            "log-density is no density. Leave the scale out: losses are means per datapoint already, the trainer "
            "weighs minibatches, and KLAnnealing(beta=...) weighs the rate."
        )
    log_prob = site["fn"].log_prob(site["value"])
    mask = site["mask"]
    if isinstance(mask, Tensor):
        log_prob = torch.where(mask, log_prob, log_prob.new_zeros(()))
    elif mask is False:
        log_prob = torch.zeros_like(log_prob)
    while max_plate_nesting > 1 and log_prob.dim() > 2:
        log_prob = log_prob.sum(-2)
    return log_prob


def _masked(site: Any) -> Distribution:
    """A site's distribution with the mask that handlers put on it."""
    return site["fn"] if site["mask"] is None else site["fn"].mask(site["mask"])


def _kept(site: Any) -> Tensor | None:
    """Which entries of a site's value its masks let into the likelihood, in the value's shape; ``None``: all."""
    fn: Any = _masked(site)
    shape, kept = site["value"].shape, None
    while True:
        mask = getattr(fn, "_mask", None)
        if mask is not None:
            mask = torch.as_tensor(mask, device=site["value"].device)
            mask = mask.reshape(*mask.shape, *(1,) * fn.event_dim).expand(shape)
            kept = mask if kept is None else kept & mask
        if not hasattr(fn, "base_dist"):
            return kept
        fn = fn.base_dist


def layers(fn: Any) -> list[Any]:
    """A distribution and the ones it wraps, the outermost first."""
    found = [fn]
    while hasattr(found[-1], "base_dist"):
        found.append(found[-1].base_dist)
    return found


def _as_program(fn: Callable[..., Any]) -> Program:
    # The programs of a run are taken as they are: their parameters are already their own.
    return fn if isinstance(fn, Program) else Program(fn)


def as_data(data: Tensor | Data) -> Data:
    """A lone tensor as the tuple of arguments that programs take."""
    return (data,) if isinstance(data, Tensor) else tuple(data)
