r"""The best member of the guide's own family for each datapoint: variational inference without amortization.

    lambda*_i = argmax_lambda  E_{q(z; lambda)} [ log p(x_i, z) - log q(z; lambda) ],     q(z|x_i) = q(z; lambda_i)

The parameters lambda of every latent's distribution become tensors of their own, one per datapoint, that start at what
the encoder says and move in the unconstrained space, a location in units of its scale. Whatever plain Pyro guide
there is stays as it is; only its distributions are shifted on the way.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from pyro.distributions import Independent, MultivariateNormal, TransformedDistribution, constraints
from pyro.distributions.torch_distribution import MaskedDistribution
from torch import Tensor
from torch.distributions import AffineTransform, Distribution, transform_to

from ..pairs.pair import Pair
from ..pairs.sites import ContractError, Data
from ..pairs.unconstrained import like

__all__ = ["Fitted", "LocalGuide", "fit_local"]

_REDUNDANT = {"probs": "logits", "covariance_matrix": "scale_tril", "precision_matrix": "scale_tril"}
# Adam divides a gradient by its size; at an optimum that size is a rounding error, in nats, and must not be blown up.
_ROUNDING = 1e-2
_SHORTER = 5  # times are the rounds that follow the first one
_MOST_ROUNDS = 6
_JUDGES = 200  # draws per datapoint by which a round is judged
_MATTERS = 0.02  # nats a round must win

Take = Callable[[torch.Size], Tensor]


class LocalGuide:
    """Shifts of a guide's distributions, one set a datapoint of a batch.

    Args:
        pair: A checked pair whose latents have pathwise gradients and a density.
        data: The batch; the shifts belong to its rows.

    Raises:
        ContractError: A latent's distribution has no parameters that can be moved.
    """

    def __init__(self, pair: Pair, data: Data) -> None:
        stuck = [site.name for site in pair.latents if not (site.has_rsample and site.has_density)]
        if stuck:
            raise ContractError(
                f"a guide is fitted to single datapoints by pathwise gradients of its bound, but its {stuck} have no "
                "rsample or no density; relax the family, or take the gap as a whole from annealed importance sampling."
            )
        self.pair, self.data = pair, data
        self.shifts: dict[str, list[Tensor]] = {site.name: [] for site in pair.latents}
        kind = like(pair)
        probe = pair.with_guide_changed(lambda name, fn: moved(name, fn, _Recorder(self.shifts[name], kind)))
        probe.sample_guide(data, 1)
        for name, shifts in self.shifts.items():
            self._refuse_shared(name, shifts)

    @property
    def _place(self) -> int:
        """The dimension of a shift that holds the batch."""
        return self.pair.max_plate_nesting - 1

    def _refuse_shared(self, name: str, shifts: list[Tensor]) -> None:
        """Each shift has the batch in its place, or several datapoints would move together."""
        batch, place = len(self.data[0]), self._place
        for shift in shifts:
            if shift.dim() <= place or shift.shape[place] != batch:
                raise ContractError(
                    f"the guide's {name!r} has a parameter of shape {tuple(shift.shape)} for one draw, expected a "
                    f"dimension of {batch} datapoints at {place}: datapoints would share what is fitted to each; give "
                    "its distribution one entry per datapoint (expand, or parameters [batch, ...])."
                )

    def tensors(self) -> list[Tensor]:
        """Every shift, in one list."""
        return [shift for shifts in self.shifts.values() for shift in shifts]

    def climb(self, num_steps: int, num_samples: int, step_size: float) -> None:
        """Move the shifts by so many steps of Adam towards a higher bound."""
        shifts = self.tensors()
        # A far start has huge gradients, which a long memory of their squares would never let go of.
        adam = torch.optim.Adam(shifts, lr=step_size, betas=(0.9, 0.95), eps=_ROUNDING)
        falling = torch.optim.lr_scheduler.CosineAnnealingLR(adam, num_steps)
        moving, held = self.guide(), self.guide(held=True)
        for _ in range(num_steps):
            with torch.enable_grad():
                z = moving.sample_guide(self.data, num_samples)
                bound = (self.pair.log_joint(z, self.data) - held.log_guide(z, self.data)).sum() / num_samples
                slopes = torch.autograd.grad(-bound, shifts, allow_unused=True)
            for shift, slope in zip(shifts, slopes, strict=True):
                shift.grad = None if slope is None else torch.nan_to_num(slope, 0.0, 0.0, 0.0)
            adam.step()
            falling.step()

    def undo(self, rows: Tensor) -> None:
        """Take the datapoints ``[batch]`` back to where the encoder started them."""
        for shift in self.tensors():
            shift.detach().movedim(self._place, 0)[rows] = 0.0

    def guide(self, *, held: bool = False) -> Pair:
        """The pair with the shifted guide; ``held`` cuts the shifts off from the graph."""

        def change(name: str, fn: Distribution) -> Distribution:
            kept = iter(self.shifts[name])
            return moved(name, fn, lambda _: next(kept).detach() if held else next(kept))

        return self.pair.with_guide_changed(change)


class Fitted(NamedTuple):
    """The pair with the fitted guide, good for the very rows it was fitted to, and what that took a datapoint."""

    pair: Pair
    evaluations: int


def fit_local(pair: Pair, data: Data, *, num_steps: int = 500, num_samples: int = 10, step_size: float = 0.2) -> Fitted:
    """Fit the guide's family to every datapoint of a batch, all of them at once.

    Gradients are pathwise (sticking the landing): where the family holds the posterior their noise dies out. After the
    steps come shorter rounds of them, each from half that step again, until no datapoint's bound rises any more; one
    that ends below its start goes back to it.

    Args:
        pair: A checked pair in evaluation mode.
        data: The batch.
        num_steps: Adam's steps of the first round, their size falling to zero along a half cosine.
        num_samples: Draws a datapoint and step.
        step_size: The first step of a round, in units of a scale (a location) or of its logarithm (a scale).

    Returns:
        The pair with the fitted guide, good for these very rows in this order, and the evaluations of log p(x, z) a
        datapoint, gradients counted as one.

    References:
        Inference Suboptimality in Variational Autoencoders (Cremer, Li & Duvenaud, 2018), sec. 3,
        https://arxiv.org/abs/1801.03558; Sticking the Landing (Roeder, Wu & Duvenaud, 2017),
        https://arxiv.org/abs/1703.09194
    """
    local = LocalGuide(pair, data)
    fitted = local.guide(held=True)
    shorter = max(1, num_steps // _SHORTER)
    start = _height(fitted, data)
    local.climb(num_steps, num_samples, step_size)
    height = _height(fitted, data)
    evaluations = num_steps * num_samples + 2 * _JUDGES
    for _ in range(_MOST_ROUNDS):
        local.climb(shorter, num_samples, step_size / 2)
        before, height = height, _height(fitted, data)
        evaluations += shorter * num_samples + _JUDGES
        if not _rises(before, height):
            break
    local.undo(height[0] < start[0])
    return Fitted(fitted, evaluations)


def _height(pair: Pair, data: Data) -> tuple[Tensor, Tensor]:
    """The bound of every datapoint and its squared error, ``[batch]``."""
    log_weight = pair.cloud(data, _JUDGES).log_weight.double()
    return log_weight.mean(0), log_weight.var(0) / _JUDGES


def _rises(before: tuple[Tensor, Tensor], after: tuple[Tensor, Tensor]) -> bool:
    """Whether a bound has risen by more than chance, and by more than matters."""
    gain, error = after[0] - before[0], (before[1] + after[1]).sqrt()
    return bool((gain > _MATTERS + 2 * error).any())


class _Recorder:
    """Makes a zero shift for each parameter that asks, and keeps it."""

    def __init__(self, kept: list[Tensor], kind: Tensor) -> None:
        self.kept, self.kind = kept, kind

    def __call__(self, shape: torch.Size) -> Tensor:
        self.kept.append(self.kind.new_zeros(shape).requires_grad_(True))
        return self.kept[-1].detach()


def moved(name: str, fn: Any, take: Take) -> Any:
    """A distribution of the same family whose parameters are shifted by what ``take`` hands out.

    Args:
        name: The site, for the message.
        fn: A distribution with batch shape ``[num_samples or 1, ..., batch]``.
        take: From the shape of one datapoint's shifts ``[batch, ...]`` to the shifts.
    """
    if isinstance(fn, Independent):
        return moved(name, fn.base_dist, take).to_event(fn.reinterpreted_batch_ndims)
    if isinstance(fn, MaskedDistribution):
        return moved(name, fn.base_dist, take).mask(fn._mask)
    if isinstance(fn, MultivariateNormal):
        return _moved_normal(fn, take)
    named = list(_movable(fn))
    if named:
        return _rebuilt(fn, named, take)
    if isinstance(fn, torch.distributions.TransformedDistribution):
        return TransformedDistribution(moved(name, fn.base_dist, take), fn.transforms, validate_args=False)
    if fn.has_rsample and len(fn.event_shape) <= 1 and fn.support in (constraints.real, constraints.real_vector):
        return _carried(fn, take)
    raise ContractError(
        f"the guide's {name!r} is a {type(fn).__name__}, none of whose parameters can be moved for a datapoint by "
        "itself; write it as a distribution with tensors for parameters (Normal, Gamma, ...), or as one transformed."
    )


def _moved_normal(fn: Any, take: Take) -> Any:
    """N(m + L a, L C (L C)') with a free lower triangle C whose diagonal is positive: every normal there is."""
    factor = fn.scale_tril
    step, inner = take(fn.loc.shape[1:]), take(factor.shape[1:])
    relative = inner.tril(-1) + torch.diag_embed(inner.diagonal(dim1=-2, dim2=-1).exp())
    factor = factor @ relative
    loc = fn.loc + (factor @ step.unsqueeze(-1)).squeeze(-1)
    return MultivariateNormal(loc, scale_tril=factor, validate_args=False)


def _movable(fn: Any) -> Iterator[tuple[str, Any]]:
    """The parameters that the constructor takes and that live on a space with a map from the real line."""
    known = inspect.signature(type(fn).__init__).parameters
    for name, constraint in fn.arg_constraints.items():
        if name not in known or not isinstance(getattr(fn, name, None), Tensor):
            continue
        if _REDUNDANT.get(name) in fn.arg_constraints:
            continue
        if constraint is not constraints.sphere:
            try:
                transform_to(constraint)
            except NotImplementedError:
                continue
        yield name, constraint


def _rebuilt(fn: Any, named: list[tuple[str, Any]], take: Take) -> Any:
    known = inspect.signature(type(fn).__init__).parameters
    rest = [n for n, p in known.items() if n != "self" and p.default is p.empty and n not in dict(named)]
    given: dict[str, Any] = {name: getattr(fn, name) for name in rest if hasattr(fn, name)}
    # The location last: it moves in units of the scale as that has become, so that a guide far too narrow gets away.
    for name, constraint in sorted(named, key=lambda part: part[0] == "loc"):
        value: Tensor = getattr(fn, name)
        shift = take(value.shape[1:])
        if constraint is constraints.sphere:
            given[name] = torch.nn.functional.normalize(value + shift, dim=-1)
        elif name == "loc" and "scale" in given:
            given[name] = value + given["scale"] * shift
        else:
            to = transform_to(constraint)
            given[name] = to(to.inv(value) + shift)
    return type(fn)(**given, validate_args=False)


def _carried(fn: Any, take: Take) -> Any:
    """A distribution without parameters to be seen (a flow), carried along by a location and a scale of its own."""
    shape = torch.Size((*fn.batch_shape, *fn.event_shape))[1:]
    affine = AffineTransform(take(shape), take(shape).exp(), event_dim=len(fn.event_shape))
    return TransformedDistribution(fn, [affine], validate_args=False)
