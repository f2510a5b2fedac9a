"""The doctor: what is wrong with a model/guide pair, found before it is trained and said with the mend.

Each examination is a function from a pair and a few rows to findings. The contract of a pair comes first; where it is
broken the examinations that need a running pair wait. Per-datapoint densities are held to what they must obey:
duplicating a batch does not move them, permuting it permutes them, and a datapoint's company does not matter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pyro
import torch
from pyro.infer import Trace_ELBO
from torch import Tensor, nn

from ..objectives.objective import Batch
from ..objectives.pyro_elbo import surrogate_loss
from ..pairs.data import as_rows
from ..pairs.finding import Finding, grey_bernoulli
from ..pairs.pair import Pair
from ..pairs.sites import ContractError, Data, as_data
from ..random_state import RandomState
from .doctor_batch import batch_faults

__all__ = ["Finding", "doctor"]

_ROWS = 16
_NAMED = ("_keys", "_modules")  # what a program keeps of pyro.param, and of pyro.module
_STRETCH = 1e3  # how far inputs are thrown to see whether a scale follows them without bound
_CONTRACT = {  # a phrase of the contract's message to the name of the finding
    "outside a plate": "missing-plate",
    "lies in plate": "plate-size",
    "leave the support": "data-support",
    "within the support": "data-support",
    "must satisfy the constraint": "data-support",
    "outside the prior's support": "guide-support",
    "must sample the same latents": "site-names",
    "observes nothing": "nothing-observed",
    "no latent site": "no-latent",
    "log-probability of shape": "event-shape",
    "Shape mismatch": "event-shape",
    "holds NaN": "missing-values",
    "is not finite": "not-finite",
    "sample dimension": "broadcasting",
    "under 4 samples": "broadcasting",
    "carries a scale": "scaled-site",
    "no initial value": "parameter-without-value",
    "common, non-zero number of rows": "rows",
}


def doctor(model: Callable[..., Any], guide: Callable[..., Any] | None, x: Any, *, seed: int = 0) -> list[Finding]:
    """Examine a Pyro pair on a few rows of its data.

    Args:
        model: The model ``model(*data)``.
        guide: The guide, or ``None``.
        x: The data as :func:`~aevb.inference.fit` takes them; the first rows are looked at.
        seed: Of the draws; the global random state and the parameters are left as they were.

    Returns:
        Findings, errors first; an empty list is a clean bill of health.

    Example:
        >>> import pyro.distributions as dist
        >>> def model(x):
        ...     z = pyro.sample("z", dist.Normal(0.0, 1.0))  # no plate
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("x", dist.Normal(z, 1.0), obs=x)
        >>> def guide(x):
        ...     pyro.sample("z", dist.Normal(0.0, 1.0))
        >>> [finding.name for finding in doctor(model, guide, torch.zeros(3))]
        ['missing-plate']
    """
    pair = Pair(model, guide)
    device = next((p.device for p in pair.parameters()), None)
    rows = as_rows(x, "cpu" if device is None else device)
    data = as_data(rows[torch.arange(min(_ROWS, len(rows)))])
    kept = {name: value.detach().clone() for name, value in pair.state_dict().items()}
    with RandomState(seed, data[0].device):
        try:
            found = list(_examine(pair, data))
        finally:
            pair.load_state_dict(kept, strict=False)
    order = ("error", "warning", "note")
    return sorted(found, key=lambda finding: order.index(finding.severity))


def _examine(pair: Pair, data: Data) -> Iterator[Finding]:
    mixed = list(_mixtures(pair, data))
    yield from mixed
    try:
        with pair.evaluation():
            pair.check(data)
    except ContractError as error:
        if not mixed:
            yield _missing(data) or _swapped(pair, data) or Finding(_contract_name(str(error)), "error", str(error))
        return
    for examination in (_observed, _names, _latents, _scales, _weights, _gradients):
        yield from examination(pair, data)
    yield from (Finding(name, severity, sentence) for name, severity, sentence in batch_faults(pair, data))


# ---------------------------------------------------------------------- before the contract


def _mixtures(pair: Pair, data: Data) -> Iterator[Finding]:
    """Floating-point types or devices that meet in one program."""
    tensors = [p for p in (*data, *pair.parameters()) if p.is_floating_point()]
    dtypes, devices = {str(t.dtype) for t in tensors}, {str(t.device) for t in tensors}
    if len(dtypes) > 1:
        yield Finding(
            "dtype-mix",
            "error",
            f"data and parameters mix {sorted(dtypes)}: one operation on both fails or loses digits; convert the data "
            "(x.float()) or the programs (model.double()).",
        )
    if len(devices) > 1:
        yield Finding(
            "device-mix", "error", f"parameters and data lie on {sorted(devices)}; move all to one: module.to(device)."
        )


def _contract_name(message: str) -> str:
    return next((name for phrase, name in _CONTRACT.items() if phrase in message), "contract")


def _missing(data: Data) -> Finding | None:
    """NaN in the data of a pair that cannot bear it."""
    at = [i for i, part in enumerate(data) if part.is_floating_point() and bool(torch.isnan(part).any())]
    if not at:
        return None
    return Finding(
        "missing-values",
        "error",
        f"argument(s) {at} of the programs hold NaN, which the pair does not handle; drop those rows, or mask the "
        "missing entries in the model (poutine.mask) and fill them in for the guide (torch.nan_to_num).",
    )


def _swapped(pair: Pair, data: Data) -> Finding | None:
    """Two latents whose shapes or supports fit once their names are exchanged."""
    if pair.guide is None:
        return None
    try:
        with torch.no_grad(), pyro.validation_enabled(False):
            drawn, told = (pair.trace(program, data, None) for program in (pair.guide, pair.model))
    except Exception:  # the pair is broken some other way, which the contract has said
        return None
    kinds = [{n: _kind(s) for n, s in sites.items() if not s["is_observed"]} for sites in (told, drawn)]
    wrong = [name for name in kinds[0] if name in kinds[1] and kinds[0][name] != kinds[1][name]]
    for a in wrong:
        for b in wrong:
            if a < b and kinds[0][a] == kinds[1][b] and kinds[0][b] == kinds[1][a]:
                return Finding(
                    "swapped-sites",
                    "error",
                    f"the guide's latents {a!r} and {b!r} have each other's shape or support; exchange their names in "
                    "the guide.",
                )
    return None


def _kind(site: Any) -> tuple[Any, str]:
    return tuple(site["fn"].event_shape), repr(site["fn"].support)


# ---------------------------------------------------------------------- on a running pair


def _observed(pair: Pair, data: Data) -> Iterator[Finding]:
    """Data that a likelihood stretches by broadcasting, grey pixels under a Bernoulli."""
    with pair.evaluation():
        sites = pair.trace(pair.model, data, None)
    for name in pair.observed:
        site = sites[name]
        have, want = tuple(site["value"].shape), tuple(site["fn"].shape())
        if have != want:
            yield Finding(
                "obs-broadcast",
                "error",
                f"observed site {name!r} compares data of shape {have} with a distribution of shape {want}: the "
                "smaller is repeated in silence; make the shapes equal (decoder output, x.squeeze(-1)).",
            )
        yield from grey_bernoulli(name, site)


def _names(pair: Pair, data: Data) -> Iterator[Finding]:
    """Names that model and guide both give: one parameter, as in Pyro, or two modules that Pyro's store would mix."""
    if pair.guide is None:
        return
    params, modules = ([set(getattr(p, kind)) - {"fn"} for p in (pair.model, pair.guide)] for kind in _NAMED)
    if shared := sorted(params[0] & params[1]):
        yield Finding(
            "shared-parameter",
            "note",
            f"model and guide both name a parameter {shared}: it is one and the same, as in Pyro, and every phase "
            "moves it; give them different names if two were meant.",
        )
    clash = sorted(n for n in modules[0] & modules[1] if pair.model._modules[n] is not pair.guide._modules[n])
    if clash:
        yield Finding(
            "name-clash",
            "warning",
            f"model and guide register different modules under one name {clash}: here they are two, in Pyro's global "
            "store their parameters would be mixed; give them different names, or register one module in both.",
        )


def _latents(pair: Pair, data: Data) -> Iterator[Finding]:
    """Latents without a pathwise gradient or without a density."""
    stuck = [site.name for site in pair.latents if not site.has_rsample]
    if stuck and pair.guide is not None:
        yield Finding(
            "no-pathwise-gradient",
            "note",
            f"the guide's {stuck} cannot be reparameterised: SGVB falls to the score function, whose variance is high, "
            "and IWAE refuses; use ReweightedWakeSleep, enumerate, or relax the family.",
        )
    if not pair.has_density:
        yield Finding("no-density", "note", "the guide has no density: train it with AdversarialVB.")


def _scales(pair: Pair, data: Data) -> Iterator[Finding]:
    """Scales that follow an input without bound: exp of an unbounded network output overflows."""
    if pair.guide is None:
        return
    with pair.evaluation():
        far = tuple(part * _STRETCH if part.is_floating_point() else part for part in data)
        try:
            drawn = pair.trace(pair.guide, far, None)
            z = {name: value * _STRETCH for name, value in pair.sample_guide(data).items()}
            told = pair.likelihoods(z, data)
        except (ValueError, RuntimeError, IndexError):
            return  # not every program bears values so far out, and none has to
    for role, fns in (("guide", {n: s["fn"] for n, s in drawn.items()}), ("model", told)):
        for name, fn in fns.items():
            scale = _scale(fn)
            if scale is not None and not bool((scale < 1e12).all()):
                yield Finding(
                    "unbounded-scale",
                    "warning",
                    f"the scale of {role} site {name!r} reaches {float(scale.max()):.1g} on inputs {_STRETCH:g} times "
                    "as large: one outlier overflows the loss. Bound it (tanh features, softplus, "
                    "log_scale.clamp(-7, 7)), or standardise the data.",
                )


def _scale(fn: Any) -> Tensor | None:
    while not isinstance(getattr(fn, "scale", None), Tensor):
        if not hasattr(fn, "base_dist"):
            return None
        fn = fn.base_dist
    scale: Tensor = fn.scale
    return scale


def _weights(pair: Pair, data: Data) -> Iterator[Finding]:
    """One sample's weight against Pyro's own bound on the same draw."""
    if pair.guide is None or not pair.has_density:
        return
    state = torch.get_rng_state()
    with pair.evaluation():
        weight = pair.cloud(data, 1).log_weight.sum()
        torch.set_rng_state(state)
        sites = pair.trace(pair.model, data, None).values()
        torch.set_rng_state(state)
        bound = -float(Trace_ELBO(max_plate_nesting=pair.max_plate_nesting).loss(pair.model, pair.guide, *data))
    if any(isinstance(site["scale"], Tensor) or site["scale"] != 1.0 for site in sites):
        return  # said already, and then the two differ by the scale
    if abs(float(weight) - bound) > 1e-3 * max(1.0, abs(bound)):
        yield Finding(
            "bound-mismatch",
            "error",
            f"one sample's log-weight sums to {float(weight):.4g} but Pyro's bound on the same draw is {bound:.4g}: "
            "the programs draw something besides their sites, or behave otherwise under a sample plate; keep every "
            "draw in a pyro.sample inside the plate.",
        )


def _gradients(pair: Pair, data: Data) -> Iterator[Finding]:
    """Parameters that the bound does not move, and tensors it would move that nobody owns."""
    if pair.guide is None or not pair.has_density:
        return
    with pair.evaluation(), torch.enable_grad():
        rows = torch.arange(len(data[0]))
        batch = Batch(data, rows, len(rows), torch.tensor(0))
        loss = surrogate_loss(Trace_ELBO(max_plate_nesting=pair.max_plate_nesting), pair, batch)
    reached = _leaves(loss)
    own = {id(p): name for name, p in pair.named_parameters() if p.requires_grad}
    idle = sorted(name.replace(".fn.", ".") for key, name in own.items() if key not in reached)
    if idle:
        yield Finding(
            "no-gradient",
            "warning",
            f"the bound does not depend on {idle}: they will never be trained. Use them, delete them, or look for a "
            "detach() or no_grad() on the way.",
        )
    strays = [leaf for key, leaf in reached.items() if key not in own]
    if strays:
        shapes = [tuple(leaf.shape) for leaf in strays]
        yield Finding(
            "unregistered-parameters",
            "error",
            f"the programs use {len(strays)} trainable tensors of shapes {shapes} that they do not own, so no "
            'optimiser will move them; register their module inside the program: pyro.module("decoder", decoder), '
            "or make the program an nn.Module that holds it.",
        )


def _leaves(loss: Tensor) -> dict[int, nn.Parameter]:
    """The leaf tensors at the ends of a loss's graph."""
    found: dict[int, Any] = {}
    seen, stack = set(), [loss.grad_fn]
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        leaf = getattr(node, "variable", None)
        if leaf is not None:
            found[id(leaf)] = leaf
        stack.extend(parent for parent, _ in node.next_functions)
    return found
