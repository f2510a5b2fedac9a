"""The contract of a model/guide pair, checked once on a real batch before anything is computed with it.

Every rule ends in one :class:`~aevb.inference.pairs.pair.ContractError` that names the site, its shape and the mend.
"""

from __future__ import annotations

from copy import copy
from dataclasses import replace
from typing import Any

import torch
from pyro.distributions import MaskedDistribution, Unit
from pyro.infer.autoguide import AutoGuide
from torch import Tensor
from torch.distributions import constraints

from ..random_state import RandomState
from .data import Rows, Tensors
from .densities import Densities
from .draw_order import closed_form_holds
from .program import Program
from .sites import ContractError, Data, LatentSite, Learned, Sites, layers, site_has_density, site_log_prob
from .support import shared_support

__all__ = ["check_pair", "check_rows"]

_ROWS = 10_000  # looked at together
_DRAWS = 4  # enough draws per datapoint to meet a support that the guide leaves


def check_pair(pair: Densities, data: Data) -> Learned:
    """Check every rule of the contract and return what was learned of the pair.

    Raises:
        ContractError: The pair breaks a rule.
    """
    _check_data(data)
    _check_numbers(data)
    _check_amortized(pair)
    model_sites = _trace(pair, pair.model, data, None, "model")
    guide_sites = {} if pair.guide is None else _trace(pair, pair.guide, data, None, "guide")
    _check_sites(model_sites, guide_sites, len(data[0]), has_guide=pair.guide is not None)
    candidate = copy(pair)
    candidate.learned = _learn(model_sites, guide_sites, data)
    _check_broadcasting(candidate, data)
    return replace(candidate.learned, reads_data=_reading_data(candidate, model_sites, data))


def _check_sites(model_sites: Sites, guide_sites: Sites, batch: int, has_guide: bool) -> None:
    observed, latent = _observed_and_latent(model_sites)
    if not any(not isinstance(site["fn"], Unit) for site in observed.values()):
        raise ContractError(
            f"the model observes nothing: of its sites {sorted(model_sites)} none has obs=...; "
            'condition one on the data: pyro.sample("x", likelihood, obs=x).'
        )
    if not latent:
        raise ContractError(
            "the model has no latent site: every pyro.sample in it has obs=...; draw one that has none: "
            'z = pyro.sample("z", prior).'
        )
    every = [("model", *item) for item in model_sites.items()] + [("guide", *item) for item in guide_sites.items()]
    for role, name, site in every:
        _check_plate(role, name, site, batch)
    if has_guide:
        _check_same_sites(latent, guide_sites)
    for name, site in observed.items():
        if not isinstance(site["fn"], Unit):
            _check_data_support(name, site)
    for role, name, site in every:
        if site_has_density(site):
            _check_log_prob(role, name, site, batch)


def _check_amortized(pair: Densities) -> None:
    if pair.guide is not None and isinstance(pair.guide.fn, AutoGuide):
        raise ContractError(
            f"the guide is an {type(pair.guide.fn).__name__}, which keeps parameters for every single row that it was "
            "first run on and has no q(z|x) of other rows. Take a guide that is a function of x (guides.Normal), or "
            "guides.MeanField, which keeps a posterior per row number; under pyro.infer.SVI the automatic guide trains "
            "this model as it is."
        )


def _observed_and_latent(model_sites: Sites) -> tuple[Sites, Sites]:
    observed = {name: site for name, site in model_sites.items() if site["is_observed"]}
    return observed, {name: site for name, site in model_sites.items() if not site["is_observed"]}


def _learn(model_sites: Sites, guide_sites: Sites, data: Data) -> Learned:
    observed, latent = _observed_and_latent(model_sites)
    auxiliary = tuple(name for name in guide_sites if name not in latent)
    # One site without a density, or one that the model does not score, leaves the whole guide without.
    has_density = not auxiliary and all(site_has_density(site) for site in guide_sites.values())
    closed = closed_form_holds(latent, guide_sites or latent)
    frames = [frame for site in model_sites.values() for frame in site["cond_indep_stack"]]
    return Learned(
        max_plate_nesting=max(-frame.dim for frame in frames if frame.dim is not None),
        latents=tuple(
            LatentSite(
                name,
                shared_support(name, site["fn"]),
                site["fn"].event_shape,
                bool((guide_sites or latent)[name]["fn"].has_rsample),
                has_density,
                name in closed,
            )
            for name, site in latent.items()
        ),
        auxiliary=auxiliary,
        observed={n: _position(n, s["value"], data) for n, s in observed.items() if not isinstance(s["fn"], Unit)},
        example=tuple(part[:2].detach().clone() for part in data),
    )


def check_rows(pair: Densities, data: Rows) -> None:
    """Check the rows beyond the first ones: every observed site's data, whole, against the site's support.

    A data set that draws afresh is taken at its first rows' word: looking at it would change it.

    Raises:
        ContractError: Some rows lie outside the support, or hold NaN that the model does not mask.
    """
    if not isinstance(data, Tensor | Tensors):
        return
    with RandomState(0, pair.example[0].device), pair.evaluation():
        sites = _trace(pair, pair.model, pair.example, None, "model")
    for name, position in pair.observed.items():
        if position is None or not _is_plain(sites[name], pair.example[position]):
            continue
        part = data if isinstance(data, Tensor) else data.parts[position]
        for rows in part.split(_ROWS):
            _check_support(name, sites[name]["fn"], rows)


def _is_plain(site: Any, part: Tensor) -> bool:
    """Whether a site observes an argument as it is, unmasked, under a support that is the same for every datapoint."""
    value, fn = site["value"], site["fn"]
    if value.data_ptr() != part.data_ptr() or value.shape != part.shape or isinstance(site["mask"], Tensor):
        return False
    if any(isinstance(layer, MaskedDistribution) for layer in layers(fn)):
        return False
    support = fn.support
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    return not any(isinstance(bound, Tensor) and bound.dim() for bound in vars(support).values())


def _check_data(data: Data) -> None:
    sizes = [len(part) for part in data]
    if len(set(sizes)) != 1 or sizes[0] == 0:
        raise ContractError(f"the data must be tensors with one common, non-zero number of rows; got {sizes} rows.")


def _check_numbers(data: Data) -> None:
    """Refuse infinite data outright; NaN is refused below unless the model masks it."""
    for position, part in enumerate(data):
        if part.is_floating_point() and bool(part.isinf().any()):
            raise ContractError(
                f"argument {position} of the programs (shape {tuple(part.shape)}) holds infinities; "
                "drop those rows, or clip the values."
            )


def _trace(pair: Densities, program: Program, data: Data, num_samples: int | None, role: str) -> Sites:
    try:
        return pair.trace(program, data, num_samples)
    except (ValueError, RuntimeError, AssertionError, IndexError) as error:
        if isinstance(error, ContractError):
            raise
        detail = " ".join(str(error).split())
        mend = _mend(pair, program, data, num_samples, detail)
        shapes = ", ".join(str(tuple(part.shape)) for part in data)
        raise ContractError(f"the {role} fails on data of shape {shapes}: {detail}. Mend: {mend}.") from error


def _mend(pair: Densities, program: Program, data: Data, num_samples: int | None, detail: str) -> str:
    """What would help: the data are blamed only where the program runs once they are changed."""
    filled = tuple(part.nan_to_num() for part in data)
    if any(bool(part.isnan().any()) for part in data) and _runs(pair, program, filled, num_samples):
        return "the data hold NaN: drop those rows, or take a guide and a model that mask missing entries"
    kind = next((p.dtype for p in pair.parameters() if p.is_floating_point()), torch.get_default_dtype())
    alike = tuple(part.to(kind) for part in data)
    for changed in (alike, (alike[0], *data[1:])):  # labels beside the data may have to stay whole numbers
        if any(part.dtype != kind for part in data) and _runs(pair, program, changed, num_samples):
            kinds = ", ".join(str(part.dtype).removeprefix("torch.") for part in data)
            wanted = str(kind).removeprefix("torch.")
            return (
                f"the data are {kinds}: cast them to the type of the parameters, {wanted}, or the parameters to theirs"
            )
    if "to satisfy the constraint" in detail:
        return "bound what the distribution is given (exp or softplus for a scale), and look for NaN in it"
    if num_samples is not None:
        return f"it runs on the batch alone but not with a sample dimension in front: {_broadcasting_mend(detail)}"
    return (
        "one pyro.plate of size len(x) at dim -1 must hold every site, and what belongs to one "
        "datapoint (pixels, latent dimensions) goes into the event: dist.Normal(loc, scale).to_event(1)"
    )


def _broadcasting_mend(detail: str) -> str:
    if any(words in detail for words in ("running_mean", "more than 1 value per channel", "2D or 3D input")):
        return (
            "a batch norm takes rows of features alone: fold what is in front and unfold it again, "
            "norm(h.flatten(0, -2)).view_as(h), or take nn.LayerNorm"
        )
    return (
        "latents arrive as [num_samples, batch, ...], so index from the right (z[..., 0]) and keep leading dimensions "
        "in every reshape (h.reshape(*h.shape[:-1], ...))"
    )


def _runs(pair: Densities, program: Program, data: Data, num_samples: int | None) -> bool:
    try:
        pair.trace(program, data, num_samples)
    except (ValueError, RuntimeError, AssertionError, IndexError):
        return False
    return True


def _check_plate(role: str, name: str, site: Any, batch: int) -> None:
    frames = [frame for frame in site["cond_indep_stack"] if frame.vectorized]
    here = f"{role} site {name!r} (value {tuple(site['value'].shape)})"
    holder = next((frame for frame in frames if frame.dim == -1), None)
    if holder is None:
        raise ContractError(
            f"{here} lies outside a plate over the batch at dim -1, so its log-probability is not one number per "
            f'datapoint; put it inside: with pyro.plate("data", len(x)). '
            "A latent that all datapoints share is a parameter here, not a site."
        )
    if holder.size != batch or holder.full_size not in (None, batch):
        whole = "" if holder.full_size in (None, holder.size) else f", which stands for {holder.full_size} rows"
        raise ContractError(
            f"{here} lies in plate {holder.name!r} of size {holder.size}{whole}, but the batch has {batch} rows; "
            f"write pyro.plate({holder.name!r}, len(x)): a minibatch is the argument, and the trainer weighs it."
        )


def _check_same_sites(latent: Sites, guide_sites: Sites) -> None:
    # Of a guide that draws more, and says so, draws can be had, but no density.
    drawn = {n for n, s in guide_sites.items() if n in latent or not s["infer"].get("is_auxiliary")}
    missing, extra = sorted(latent.keys() - drawn), sorted(drawn - latent.keys())
    if missing or extra:
        said = [f"the guide does not sample {missing}"] if missing else []
        said += [f"the model does not sample {extra}"] if extra else []
        raise ContractError(
            f"model and guide must sample the same latents: {' and '.join(said)}; "
            f"the model has {sorted(latent)}, the guide {sorted(drawn)}. Give them the same names, "
            "or let the model draw as well what the guide draws beside its latents: after them, under any distribution "
            "r of it given z and x."
        )


def _check_data_support(name: str, site: Any) -> None:
    value: Tensor = site["value"]
    seen = value if site["mask"] is None or isinstance(site["mask"], bool) else value[site["mask"]]
    _check_support(name, site["fn"], seen)


def _check_support(name: str, fn: Any, seen: Tensor) -> None:
    support = fn.support
    if bool(torch.as_tensor(support.check(seen)).all()):
        return
    if bool(torch.isnan(seen.float()).any()):
        raise ContractError(
            f"observed site {name!r} (shape {tuple(seen.shape)}) holds NaN; drop those rows, or mask the "
            "missing entries in the model."
        )
    low, high = float(seen.min()), float(seen.max())
    raise ContractError(
        f"the data of observed site {name!r} (shape {tuple(seen.shape)}, values in [{low:g}, {high:g}]) leave "
        f"the support {support!r} of its {type(layers(fn)[-1]).__name__} likelihood; scale or binarise the "
        "data, or take a likelihood whose support holds them."
    )


def _check_log_prob(role: str, name: str, site: Any, batch: int) -> None:
    expected = {frame.dim: frame.size for frame in site["cond_indep_stack"] if frame.vectorized}
    try:
        log_prob = site_log_prob(site, 1)
    except (ValueError, RuntimeError) as error:
        value, law = tuple(site["value"].shape), tuple(site["fn"].shape())
        raise ContractError(
            f"{role} site {name!r} has a value of shape {value}, which its distribution of shape {law} cannot score "
            f"({' '.join(str(error).split())}); give the two one shape: as many outputs of the network as the data "
            "have columns."
        ) from error
    shape = tuple(log_prob.shape)
    allowed = tuple(expected.get(dim, 1) for dim in range(-max(-d for d in expected), 0))
    if shape != allowed:
        raise ContractError(
            f"{role} site {name!r} has a log-probability of shape {shape}, expected {allowed}: one number per "
            f"datapoint. Declare its last {max(len(shape) - len(allowed), 1)} dimension(s) as one event with "
            ".to_event(...), inside the plate."
        )


def _position(name: str, value: Tensor, data: Data) -> int | None:
    """Which argument of the program an observed site looks at; ``None`` where it cannot be told."""
    # Two arguments may be views of one table, so what lies at the same address comes before what shares a storage;
    # a model that fills or casts its data observes a copy.
    views = (
        lambda part: part.data_ptr() == value.data_ptr() and part.numel() == value.numel(),
        lambda part: part.untyped_storage().data_ptr() == value.untyped_storage().data_ptr(),
        lambda part: part.shape == value.shape and bool(((part == value) | (part != part)).all()),
        lambda part: len(data) == 1 and part.numel() == value.numel(),
    )
    for is_view in views:
        for position, part in enumerate(data):
            if is_view(part):
                return position
    return None


def _reading_data(pair: Densities, sites: Sites, data: Data) -> tuple[str, ...]:
    """The latents whose density moves when observed arguments change rows, and the sites' values do not."""
    observed = set(pair.observed.values())
    turned = tuple(part.roll(1, 0) if position in observed else part for position, part in enumerate(data))
    here, again, there = (pair.latents_at(sites, rows) for rows in (data, data, turned))
    # Two runs on one batch differ where something is drawn outside pyro.sample, which is another fault.
    return tuple(n for n in here if torch.equal(here[n], again[n]) and not torch.equal(here[n], there[n]))


def _check_broadcasting(pair: Densities, data: Data) -> None:
    batch = len(data[0])
    role, program = ("model", pair.model) if pair.guide is None else ("guide", pair.guide)
    sites = _trace(pair, program, data, _DRAWS, role)
    if pair.guide is not None:
        _check_supports(pair, sites)
    for site in pair.latents:
        shape = tuple(sites[site.name]["value"].shape)
        inner = (1,) * (pair.max_plate_nesting - 1)
        if shape != (_DRAWS, *inner, batch, *site.event_shape):
            raise ContractError(
                f"latent site {site.name!r} has shape {shape} under {_DRAWS} samples of a batch of {batch}; expected "
                f"[num_samples, batch, *event] = {(_DRAWS, batch, *site.event_shape)}: let it broadcast over the "
                "left, and make any plate of its own beside the batch an event dimension (.to_event)."
            )
    z = {site.name: sites[site.name]["value"].reshape(_DRAWS, batch, *site.event_shape) for site in pair.latents}
    try:
        log_prior, log_lik = pair.log_densities(z, data)
    except (ValueError, RuntimeError) as error:
        detail = " ".join(str(error).split())
        raise ContractError(
            f"the model fails with a sample dimension in front ([num_samples, batch, ...]): {detail}. "
            f"Mend: {_broadcasting_mend(detail)}."
        ) from error
    for what, value in (("log-prior", log_prior), ("log-likelihood", log_lik)):
        if not bool(torch.isfinite(value).all()):
            raise ContractError(
                f"the {what} of the first batch is not finite ({_worst(value)}); check the scales in the model "
                "(an unbounded log-variance, a scale of zero) and the range of the data."
            )


def _check_supports(pair: Densities, guide_sites: Sites) -> None:
    for site in pair.latents:
        value = guide_sites[site.name]["value"]
        if not bool(torch.as_tensor(site.support.check(value)).all()):
            guide_support: constraints.Constraint = guide_sites[site.name]["fn"].support
            raise ContractError(
                f"the guide draws latent {site.name!r} (shape {tuple(value.shape)}) outside the prior's support: "
                f"the prior lives on {site.support!r}, the guide on {guide_support!r}; choose a guide family on "
                "the prior's support, or transform the guide's draws into it."
            )


def _worst(value: Tensor) -> str:
    bad = value[~torch.isfinite(value)]
    return f"{bad.numel()} of {value.numel()} values, the first {float(bad.flatten()[0])}"
