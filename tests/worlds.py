r"""Small worlds whose log p(x) is known to the last digit, each awkward in a way of its own.

A world is a pair of programs, a few datapoints in float64, log p(x) of each of them, and what its guides lose:

    log p(x)        by conjugacy or by a fine sum over a grid, in NumPy and SciPy
    gap             log p(x) - E_q[log p(x, z) - log q(z|x)] = KL(q(z|x) || p(z|x)), zero where the guide is exact

The programs' numbers are parameters that start where the answers hold: training moves them, so ``make(name)`` builds a
world afresh at every call.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from scipy import special, stats
from torch import Tensor, nn
from torch.distributions import transforms

from aevb.models import distributions

__all__ = ["NAMES", "Guide", "World", "having", "make", "once"]

Statements = Callable[..., None]


@dataclass(frozen=True, eq=False)
class Guide:
    """A guide beside the good one: ``gap`` is what its bound loses on each row, ``[N]``, where it is known."""

    program: Callable[..., object]
    gap: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class World:
    """A pair with a known answer.

    Args:
        name: The world's.
        model: The program p(z) p(x|z).
        guide: A good guide; exact where ``gap`` is zero.
        data: The arguments of both, ``[N, ...]`` each, in float64.
        log_px: log p(x) of every row, ``[N]`` in nats and float64.
        gap: What the good guide's bound loses, ``[N]``; ``None`` where it is not known.
        others: Other guides by name: poor ones, and ones that draw the latents in another order.
        features: ``continuous`` or ``discrete``; ``paths`` (every latent is reparameterised); and what else is
            awkward in it.
        dim: Unconstrained latent dimensions of a datapoint; 0 of discrete ones.
        because: What does not apply to it, and why.
    """

    name: str
    model: Callable[..., object]
    guide: Callable[..., object]
    data: tuple[Tensor, ...]
    log_px: Tensor
    gap: np.ndarray | None = None
    others: Mapping[str, Guide] = field(default_factory=dict)
    features: frozenset[str] = frozenset()
    dim: int = 1
    because: Mapping[str, str] = field(default_factory=dict)

    @property
    def x(self) -> Tensor | tuple[Tensor, ...]:
        """The data as ``fit`` and ``log_evidence`` take them."""
        return self.data[0] if len(self.data) == 1 else self.data

    @property
    def exact(self) -> bool:
        """Whether the good guide is the posterior itself, so that every importance weight is p(x)."""
        return self.gap is not None and not np.any(self.gap)

    def rows(self, index: Tensor | slice | list[int]) -> tuple[Tensor, ...]:
        """Some rows of the data."""
        return tuple(part[index] for part in self.data)


class Numbers(nn.Module):
    """A program whose numbers are parameters: ``statements(self, *data)`` run in a plate over the data."""

    def __init__(self, statements: Statements, **numbers: object) -> None:
        super().__init__()
        self.statements = statements
        for name, value in numbers.items():
            setattr(self, name, nn.Parameter(_tensor(value)))

    def forward(self, *data: Tensor) -> None:
        with pyro.plate("data", len(data[0]), dim=-1):
            self.statements(self, *data)


def plain(statements: Statements, **numbers: object) -> Callable[..., None]:
    """The same as a plain function of ``pyro.param`` statements, in which the plate is the function's own."""

    class Params:
        def __getattr__(self, name: str) -> Tensor:
            return pyro.param(name, _tensor(numbers[name]))

    def program(*data: Tensor) -> None:
        with pyro.plate("data", len(data[0])):
            statements(Params(), *data)

    return program


_MAKERS: dict[str, Callable[[], World]] = {}


def world(maker: Callable[[], World]) -> Callable[[], World]:
    """Enter a world under its maker's name."""
    _MAKERS[maker.__name__] = maker
    return maker


def make(name: str) -> World:
    """Build the world of that name afresh."""
    return replace(_MAKERS[name](), name=name)


@cache
def once(name: str) -> World:
    """The world of that name, built once: to look at, not to train."""
    return make(name)


def having(*features: str, without: str = "") -> list[str]:
    """The names of the worlds that have all of these features, and none of those (words)."""
    return [n for n in NAMES if set(features) <= once(n).features and not set(without.split()) & once(n).features]


def _tensor(value: object) -> Tensor:
    return torch.from_numpy(np.array(value, dtype=float))  # a copy: training moves it


def _world(model: object, guide: object, data: object, log_px: object, features: str, **more: object) -> World:
    """A world; features are words, data one array or a tuple of them."""
    parts = data if isinstance(data, tuple) else (data,)
    data = tuple(part if isinstance(part, Tensor) else _tensor(part) for part in parts)
    kind = {"continuous"} if "discrete" not in features.split() else set()
    return World("", model, guide, data, _tensor(log_px), features=frozenset(features.split()) | kind, **more)


_X = np.array([-1.3, 0.2, 0.7, 2.1])
_ZERO = np.zeros(4)


def _normal(x: np.ndarray, mean: object, variance: object) -> np.ndarray:
    return stats.norm.logpdf(x, mean, np.sqrt(variance))


def _kl_normal(mean: np.ndarray, sd: object, to_mean: np.ndarray, to_sd: object) -> np.ndarray:
    """KL(N(mean, sd^2) || N(to_mean, to_sd^2))."""
    return np.log(to_sd / sd) + (sd**2 + (mean - to_mean) ** 2) / (2 * to_sd**2) - 0.5


def _sum(log_values: np.ndarray, points: np.ndarray) -> np.ndarray:
    """The logarithm of a trapezoidal sum of ``exp(log_values)`` ``[G, ...]`` over evenly spaced ``points`` ``[G]``."""
    return special.logsumexp(log_values, axis=0) + math.log(points[1] - points[0])


# ---------------------------------------------------------------------------------------------- one normal latent


def _draw_normal(p: object, x: Tensor) -> None:
    pyro.sample("z", dist.Normal(p.slope * x + p.shift, p.log_scale.exp()))


def _posterior_guide(
    slope: float, shift: float, scale: float, form: Callable[..., object] = Numbers
) -> Callable[..., object]:
    return form(_draw_normal, slope=slope, shift=shift, log_scale=math.log(scale))


def _simple(x: np.ndarray, form: Callable[..., object], features: str) -> dict[str, object]:
    """z ~ N(0, 1), x ~ N(1.5 z + 0.3, 0.5^2): posterior N(slope (x - .3), sd^2)."""

    def statements(p: object, x: Tensor) -> None:
        z = pyro.sample("z", dist.Normal(_zeros(x), 1.0))
        pyro.sample("x", dist.Normal(p.weight * z + p.bias, p.log_noise.exp()), obs=x)

    precision = 1 + 1.5**2 / 0.25
    slope, sd = 1.5 / 0.25 / precision, precision**-0.5
    mean = slope * (x - 0.3)
    others = {
        "prior": Guide(_posterior_guide(0.0, 0.0, 1.0), _kl_normal(0 * x, 1.0, mean, sd)),
        "shifted": Guide(_posterior_guide(slope, 0.2, sd), _kl_normal(mean + 0.2 + 0.3 * slope, sd, mean, sd)),
        "narrow": Guide(_posterior_guide(slope, -0.3 * slope, sd / 3), _kl_normal(mean, sd / 3, mean, sd)),
        "wide": Guide(_posterior_guide(slope, -0.3 * slope, 1.4 * sd), _kl_normal(mean, 1.4 * sd, mean, sd)),
    }
    return {
        "model": form(statements, weight=1.5, bias=0.3, log_noise=math.log(0.5)),
        "guide": _posterior_guide(slope, -0.3 * slope, sd, form),
        "data": x,
        "log_px": _normal(x, 0.3, 1.5**2 + 0.25),
        "features": f"{features} paths gaussian",
        "gap": 0 * x,
        "others": others,
    }


def _zeros(x: Tensor) -> Tensor:
    return torch.zeros(len(x), dtype=torch.float64)


@world
def normal() -> World:
    """A linear-Gaussian pair of modules."""
    return _world(**_simple(_X, Numbers, "module"))


@world
def plain_functions() -> World:
    """The same pair as plain functions of ``pyro.param``."""
    return _world(**_simple(_X, plain, "function"))


@world
def one_datapoint() -> World:
    """The same pair on a single row."""
    return _world(**_simple(np.array([0.9]), Numbers, "module single"))


@world
def many_rows() -> World:
    """The same pair on more rows than a batch, none of them alike."""
    return _world(**_simple(np.linspace(-3.0, 3.5, 37), Numbers, "module"))


# ------------------------------------------------------------------------------------------ two latents, two orders


def _chain_parts() -> dict[str, object]:
    """z2 ~ N(0, 1), z1 ~ N(2 z2, .3^2), x ~ N(z1, .5^2)."""

    def statements(p: object, x: Tensor) -> None:
        z2 = pyro.sample("z2", dist.Normal(_zeros(x), 1.0))
        z1 = pyro.sample("z1", dist.Normal(p.weight * z2, p.log_inner.exp()))
        pyro.sample("x", dist.Normal(z1, p.log_noise.exp()), obs=x)

    def upwards(p: object, x: Tensor) -> None:
        z1 = pyro.sample("z1", dist.Normal(p.slope1 * x, p.log_scale1.exp()))
        pyro.sample("z2", dist.Normal(p.slope2 * z1, p.log_scale2.exp()))

    def downwards(p: object, x: Tensor) -> None:
        z2 = pyro.sample("z2", dist.Normal(p.slope2 * x, p.log_scale2.exp()))
        loc = p.slope1 * x + p.weight1 * z2
        pyro.sample("z1", dist.Normal(loc, p.log_scale1.exp()))

    v1, n = 4 + 0.3**2, 0.5**2
    up = Numbers(
        upwards,
        slope1=v1 / (v1 + n),
        log_scale1=0.5 * math.log(v1 * n / (v1 + n)),
        slope2=2 / v1,
        log_scale2=0.5 * math.log(0.3**2 / v1),
    )
    gain = 0.3**2 / (0.3**2 + n)
    down = Numbers(
        downwards,
        slope2=2 / (v1 + n),
        log_scale2=0.5 * math.log((0.3**2 + n) / (v1 + n)),
        slope1=gain,
        weight1=2 * (1 - gain),
        log_scale1=0.5 * math.log(gain * n),
    )
    return {
        "model": Numbers(statements, weight=2.0, log_inner=math.log(0.3), log_noise=math.log(0.5)),
        "up": up,
        "down": down,
        "log_px": _normal(_X, 0.0, v1 + n),
    }


@world
def against_the_order() -> World:
    """A chain of two latents whose exact guide draws them in the other order than the model: q(z1|x) q(z2|z1)."""
    parts = _chain_parts()
    features = "module paths gaussian sites structured reversed"
    others = {"downwards": Guide(parts["down"], _ZERO)}
    return _world(parts["model"], parts["up"], _X, parts["log_px"], features, gap=_ZERO, others=others, dim=2)


@world
def in_the_order() -> World:
    """The same chain, whose exact guide draws them in the model's order: q(z2|x) q(z1|z2, x)."""
    parts = _chain_parts()
    features = "module paths gaussian sites structured"
    others = {"upwards": Guide(parts["up"], _ZERO)}
    return _world(parts["model"], parts["down"], _X, parts["log_px"], features, gap=_ZERO, others=others, dim=2)


@world
def collider() -> World:
    """Two latents independent under the prior and bound together by the data, x ~ N(z1 + 2 z2, .4^2)."""

    def statements(p: object, x: Tensor) -> None:
        z1 = pyro.sample("z1", dist.Normal(_zeros(x), 1.0))
        z2 = pyro.sample("z2", dist.Normal(_zeros(x), 1.0))
        pyro.sample("x", dist.Normal(z1 + p.weight * z2, p.log_noise.exp()), obs=x)

    def structured(p: object, x: Tensor) -> None:
        z2 = pyro.sample("z2", dist.Normal(p.slope2 * x, p.log_scale2.exp()))
        pyro.sample("z1", dist.Normal(p.slope1 * (x - p.weight1 * z2), p.log_scale1.exp()))

    def mean_field(p: object, x: Tensor) -> None:
        pyro.sample("z1", dist.Normal(p.slope1 * x, p.log_scale1.exp()))
        pyro.sample("z2", dist.Normal(p.slope2 * x, p.log_scale2.exp()))

    n = 0.4**2
    total = 1 + 4 + n
    guide = Numbers(
        structured,
        slope2=2 / total,
        log_scale2=0.5 * math.log((1 + n) / total),
        slope1=1 / (1 + n),
        weight1=2.0,
        log_scale1=0.5 * math.log(n / (1 + n)),
    )
    precision = np.eye(2) + np.outer([1, 2], [1, 2]) / n
    gap = 0.5 * (np.log(np.diag(precision)).sum() - np.linalg.slogdet(precision)[1])
    best = Numbers(
        mean_field,
        slope1=1 / total,
        slope2=2 / total,
        log_scale1=-0.5 * math.log(precision[0, 0]),
        log_scale2=-0.5 * math.log(precision[1, 1]),
    )
    return _world(
        Numbers(statements, weight=2.0, log_noise=math.log(0.4)),
        guide,
        _X,
        _normal(_X, 0.0, total),
        "module paths gaussian sites structured",
        gap=_ZERO,
        others={"mean-field": Guide(best, gap + _ZERO)},
        dim=2,
    )


# --------------------------------------------------------------------------------------- linear and normal vectors


def _linear(weight: np.ndarray, noise: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """log p(x), posterior means ``[N, D]`` and precision ``[D, D]`` of z ~ N(0, I), x ~ N(W z, diag noise^2)."""
    log_px = stats.multivariate_normal(np.zeros(len(weight)), weight @ weight.T + np.diag(noise**2)).logpdf(x)
    precision = np.eye(weight.shape[1]) + weight.T / noise**2 @ weight
    return np.atleast_1d(log_px), x / noise**2 @ weight @ np.linalg.inv(precision), precision


_WEIGHT = np.array([[1.0, -0.5], [0.3, 0.8], [1.2, 0.6]])
_NOISE = np.array([0.5, 0.4, 0.7])
_ROWS = np.array([[0.5, 1.0, -0.2], [-1.5, 0.3, 0.4], [2.0, 1.1, 1.9], [0.1, -0.9, 0.0]])


def _linear_model(p: object, x: Tensor) -> None:
    z = pyro.sample("z", dist.Normal(torch.zeros(len(x), p.weight.shape[-1]).to(x), 1.0).to_event(1))
    pyro.sample("x", dist.Normal(z @ p.weight.T, p.log_noise.exp()).to_event(1), obs=x)


def _linear_guide(p: object, x: Tensor) -> None:
    factor = p.factor.tril(-1) + torch.diag_embed(p.factor.diagonal().exp())
    pyro.sample("z", dist.MultivariateNormal(x @ p.slope, scale_tril=factor))


def _linear_mean_field(p: object, x: Tensor) -> None:
    pyro.sample("z", dist.Normal(x @ p.slope, p.log_scale.exp()).to_event(1))


def _log_diagonal(factor: np.ndarray) -> np.ndarray:
    return np.tril(factor, -1) + np.diag(np.log(np.diag(factor)))


def _linear_parts(weight: np.ndarray, noise: np.ndarray, x: np.ndarray) -> dict[str, object]:
    log_px, _, precision = _linear(weight, noise, x)
    covariance = np.linalg.inv(precision)
    slope = (weight.T / noise**2).T @ covariance
    gap = 0.5 * (np.log(np.diag(precision)).sum() - np.linalg.slogdet(precision)[1])
    best = Numbers(_linear_mean_field, slope=slope, log_scale=-0.5 * np.log(np.diag(precision)))
    return {
        "model": Numbers(_linear_model, weight=weight, log_noise=np.log(noise)),
        "guide": Numbers(_linear_guide, slope=slope, factor=_log_diagonal(np.linalg.cholesky(covariance))),
        "data": x,
        "log_px": log_px,
        "gap": np.zeros(len(x)),
        "others": {"mean-field": Guide(best, np.full(len(x), gap))},
        "dim": weight.shape[1],
    }


@world
def linear_vector() -> World:
    """Factor analysis with a full-covariance guide; the best mean-field guide loses the same on every row."""
    return _world(**_linear_parts(_WEIGHT, _NOISE, _ROWS), features="module paths gaussian vector")


@world
def hundred_dimensions() -> World:
    """A hundred latents and as many data, z ~ N(0, I), x ~ N(z, .5^2)."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, 100)) * np.sqrt(1.25)

    def statements(p: object, x: Tensor) -> None:
        z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z * p.weight, p.log_noise.exp()).to_event(1), obs=x)

    def guide(p: object, x: Tensor) -> None:
        pyro.sample("z", dist.Normal(p.slope * x, p.log_scale.exp()).to_event(1))

    gap = np.full(3, 100 * _kl_normal(0.0, 1.1, 0.0, 1.0))
    exact = {"slope": np.full(100, 0.8), "log_scale": np.full(100, math.log(0.2**0.5))}
    wide = exact | {"log_scale": np.full(100, math.log(1.1 * 0.2**0.5))}
    return _world(
        Numbers(statements, weight=np.ones(100), log_noise=np.full(100, math.log(0.5))),
        Numbers(guide, **exact),
        x,
        stats.norm.logpdf(x, 0, math.sqrt(1.25)).sum(1),
        "module paths gaussian vector high",
        gap=np.zeros(3),
        others={"wide": Guide(Numbers(guide, **wide), gap)},
        dim=100,
    )


@world
def minus_a_million() -> World:
    """Log-densities of -1e6: a hundred data far from anything the one latent can say."""
    base = 141.0 * np.array([1.0, -1.0] * 50)
    x = np.stack([base, 0.9 * base + 0.5, base - 1.0])

    def statements(p: object, x: Tensor) -> None:
        z = pyro.sample("z", dist.Normal(_zeros(x), 1.0))
        loc = (p.weight * z).unsqueeze(-1).expand(*z.shape, x.shape[-1])
        pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

    def guide(p: object, x: Tensor) -> None:
        pyro.sample("z", dist.Normal(p.slope * x.sum(-1), p.log_scale.exp()))

    # In closed form through the sum: N(x; z 1, I) = N(mean; z, 1/100) times what does not hold z.
    square, total = (x**2).sum(1), x.sum(1)
    log_px = -50 * math.log(2 * math.pi) - 0.5 * math.log(101) - 0.5 * (square - total**2 / 101)
    sd = 101**-0.5
    return _world(
        Numbers(statements, weight=1.0),
        Numbers(guide, slope=1 / 101, log_scale=math.log(sd)),
        x,
        log_px,
        "module paths gaussian huge",
        gap=np.zeros(3),
        others={
            "wide": Guide(
                Numbers(guide, slope=1 / 101, log_scale=math.log(1.4 * sd)), np.full(3, _kl_normal(0.0, 1.4, 0.0, 1.0))
            )
        },
    )


@world
def gaps_of_many_sizes() -> World:
    """Rows whose gaps differ by factors: a mean-field guide, and a noise given for each datapoint."""
    noise = np.array([2.0, 0.5, 0.15, 0.05])
    weight = np.array([1.0, 1.5])

    def statements(p: object, x: Tensor, noise: Tensor) -> None:
        z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 2).to(x), 1.0).to_event(1))
        pyro.sample("x", dist.Normal((z * p.weight).sum(-1), noise), obs=x)

    def mean_field(p: object, x: Tensor, noise: Tensor) -> None:
        loc = p.weight_q * (x / (p.weight_q.square().sum() + noise**2)).unsqueeze(-1)
        precision = 1 + p.weight_q**2 / (noise**2).unsqueeze(-1)
        pyro.sample("z", dist.Normal(loc, (p.log_width - 0.5 * precision.log()).exp()).to_event(1))

    total = (weight**2).sum()
    gap = 0.5 * (np.log1p(weight[:, None] ** 2 / noise**2).sum(0) - np.log1p(total / noise**2))
    return _world(
        Numbers(statements, weight=weight),
        Numbers(mean_field, weight_q=weight, log_width=np.zeros(2)),
        (_X, noise),
        _normal(_X, 0.0, total + noise**2),
        "module paths gaussian vector beside mean-field",
        gap=gap,
        dim=2,
    )


@world
def unequal_sites() -> World:
    """A latent of one dimension beside one of three, the guide drawing the larger first."""

    def statements(p: object, x: Tensor) -> None:
        a = pyro.sample("a", dist.Normal(_zeros(x), 1.0))
        b = pyro.sample("b", dist.Normal(p.loc * a.unsqueeze(-1), p.log_spread.exp()).to_event(1))
        pyro.sample("x", dist.Normal(b, p.log_noise.exp()).to_event(1), obs=x)

    def guide(p: object, x: Tensor) -> None:
        factor = p.factor.tril(-1) + torch.diag_embed(p.factor.diagonal().exp())
        b = pyro.sample("b", dist.MultivariateNormal(x @ p.slope, scale_tril=factor))
        pyro.sample("a", dist.Normal(b @ p.back, p.log_scale.exp()))

    loc, spread, noise = np.array([1.0, -0.5, 2.0]), np.array([0.6, 0.3, 0.9]), _NOISE
    prior = np.outer(loc, loc) + np.diag(spread**2)
    total = prior + np.diag(noise**2)
    gain = np.linalg.solve(total, prior)  # [3, 3]: E[b|x] = x @ gain
    covariance = prior - prior @ gain
    precision = 1 + (loc**2 / spread**2).sum()
    return _world(
        Numbers(statements, loc=loc, log_spread=np.log(spread), log_noise=np.log(noise)),
        Numbers(
            guide,
            slope=gain,
            factor=_log_diagonal(np.linalg.cholesky(covariance)),
            back=loc / spread**2 / precision,
            log_scale=-0.5 * math.log(precision),
        ),
        _ROWS,
        stats.multivariate_normal(np.zeros(3), total).logpdf(_ROWS),
        "module paths gaussian sites structured reversed vector",
        gap=_ZERO,
        dim=4,
    )


@world
def holes() -> World:
    """Data with missing entries, NaN under a mask; the exact guide looks at what is there."""
    x = _ROWS.copy()
    x[0, 1] = x[2, 0] = x[2, 2] = np.nan

    def statements(p: object, x: Tensor) -> None:
        seen, filled = ~x.isnan(), x.nan_to_num(0.0)
        z = pyro.sample("z", dist.Normal(_zeros(x), 1.0))
        loc = z.unsqueeze(-1) * p.weight
        pyro.sample("x", dist.Normal(loc, p.log_noise.exp()).mask(seen).to_event(1), obs=filled)

    def guide(p: object, x: Tensor) -> None:
        seen = (~x.isnan()).to(x)
        precision = 1 + seen @ (p.weight_q / p.log_noise_q.exp()) ** 2
        loc = x.nan_to_num(0.0) @ (p.weight_q / (2 * p.log_noise_q).exp()) / precision
        pyro.sample("z", dist.Normal(loc, p.log_width.exp() * precision**-0.5))

    weight = np.array([1.0, 0.3, 1.2])
    log_px = []
    for row in x:
        seen = ~np.isnan(row)
        covariance = np.outer(weight[seen], weight[seen]) + np.diag(_NOISE[seen] ** 2)
        log_px.append(stats.multivariate_normal(np.zeros(seen.sum()), covariance).logpdf(row[seen]))
    return _world(
        Numbers(statements, weight=weight, log_noise=np.log(_NOISE)),
        Numbers(guide, weight_q=weight, log_noise_q=np.log(_NOISE), log_width=0.0),
        x,
        log_px,
        "module paths gaussian masked",
        gap=_ZERO,
        because={"dreams": "the model observes a filled copy of the data, whose place no dream can take"},
    )


@world
def inner_plate() -> World:
    """Pixels in a plate of their own, left of the batch."""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(_tensor([1.0, 0.3, 1.2]))
            self.log_noise = nn.Parameter(_tensor(np.log(_NOISE)))

        def forward(self, x: Tensor) -> None:
            with pyro.plate("data", len(x), dim=-1):
                z = pyro.sample("z", dist.Normal(_zeros(x), 1.0))
                with pyro.plate("pixels", 3, dim=-2):
                    noise = self.log_noise.exp().unsqueeze(-1)
                    pyro.sample("x", dist.Normal(self.weight.unsqueeze(-1) * z, noise), obs=x.T)

    def guide(p: object, x: Tensor) -> None:
        pyro.sample("z", dist.Normal(x @ p.slope, p.log_scale.exp()))

    weight = np.array([[1.0], [0.3], [1.2]])
    log_px, _, precision = _linear(weight, _NOISE, _ROWS)
    return _world(
        Model(),
        Numbers(guide, slope=weight[:, 0] / _NOISE**2 / precision[0], log_scale=-0.5 * math.log(precision[0, 0])),
        _ROWS,
        log_px,
        "module paths gaussian plates",
        gap=_ZERO,
    )


@world
def batch_norm() -> World:
    """A guide whose encoder normalises by the batch while training, and by what it has seen when it is judged."""
    parts = _linear_parts(_WEIGHT, _NOISE, _ROWS)

    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(3).double()
            with torch.no_grad():
                self.norm.running_mean.copy_(_tensor([0.4, -0.2, 1.0]))
                self.norm.running_var.copy_(_tensor([2.0, 0.5, 1.5]))
                scale = (self.norm.running_var + self.norm.eps).sqrt()
                self.norm.weight.copy_(scale)
                self.norm.bias.copy_(self.norm.running_mean)
            exact = parts["guide"]
            self.slope, self.factor = nn.Parameter(exact.slope.detach()), nn.Parameter(exact.factor.detach())

        def forward(self, x: Tensor) -> None:
            with pyro.plate("data", len(x), dim=-1):
                _linear_guide(self, self.norm(x))

    return _world(
        parts["model"],
        Encoder(),
        _ROWS,
        parts["log_px"],
        "module paths gaussian vector batch-norm",
        gap=_ZERO,
        dim=2,
        because={"training mode": "a batch-norm couples the rows of a batch while it trains"},
    )


@world
def labelled() -> World:
    """A label beside each datapoint chooses the prior's mean."""
    label = torch.tensor([0, 1, 2, 1])

    def statements(p: object, x: Tensor, label: Tensor) -> None:
        z = pyro.sample("z", dist.Normal(p.means[label], 0.7))
        pyro.sample("x", dist.Normal(p.weight * z, p.log_noise.exp()), obs=x)

    def guide(p: object, x: Tensor, label: Tensor) -> None:
        pyro.sample("z", dist.Normal(p.slope * x + p.shifts[label], p.log_scale.exp()))

    means = np.array([-1.0, 0.0, 2.0])
    precision = 1 / 0.49 + 1 / 0.09
    return _world(
        Numbers(statements, means=means, weight=1.0, log_noise=math.log(0.3)),
        Numbers(
            guide, slope=1 / 0.09 / precision, shifts=means / 0.49 / precision, log_scale=-0.5 * math.log(precision)
        ),
        (_tensor(_X), label),
        _normal(_X, means[label.numpy()], 0.49 + 0.09),
        "module paths gaussian beside",
        gap=_ZERO,
    )


@world
def auxiliary() -> World:
    """An auxiliary variable of the guide, a ~ q(a|x), z ~ q(z|a, x), that the model knows as r(a|z)."""

    def statements(p: object, x: Tensor) -> None:
        z = pyro.sample("z", dist.Normal(_zeros(x), 1.0))
        pyro.sample("a", dist.Normal(p.weight_a * z, p.log_noise_a.exp()))
        pyro.sample("x", dist.Normal(z, p.log_noise.exp()), obs=x)

    def guide(p: object, x: Tensor) -> None:
        loc = p.slope_a * x
        a = pyro.sample("a", dist.Normal(loc, p.log_scale_a.exp()), infer={"is_auxiliary": True})
        pyro.sample("z", dist.Normal(p.slope * x + p.weight * a, p.log_scale.exp()))

    # Given x: z ~ N(.8 x, .2), a = z + N(0, .5^2), so a ~ N(.8 x, .45) and z | a by the gain .2 / .45.
    gain = 0.2 / 0.45
    return _world(
        Numbers(statements, weight_a=1.0, log_noise_a=math.log(0.5), log_noise=math.log(0.5)),
        Numbers(
            guide,
            slope_a=0.8,
            log_scale_a=0.5 * math.log(0.45),
            slope=0.8 * (1 - gain),
            weight=gain,
            log_scale=0.5 * math.log(0.2 * (1 - gain)),
        ),
        _X,
        _normal(_X, 0.0, 1.25),
        "module paths gaussian sites structured reversed auxiliary",
        gap=_ZERO,
        dim=2,
    )


# ------------------------------------------------------------------------------------------- modes and heavy tails


def _mixture(loc: Tensor, scale: Tensor) -> dist.MixtureSameFamily:
    """Two normals, equally likely, at +-loc."""
    both = torch.stack([loc, -loc], dim=-1)
    return dist.MixtureSameFamily(
        dist.Categorical(logits=torch.zeros_like(both)), dist.Normal(both, scale.unsqueeze(-1))
    )


def _square(x: np.ndarray, noise: float) -> np.ndarray:
    """log p(x) of z ~ N(0, 1), x ~ N(z^2, noise^2), by a sum over half a line, twice."""
    z = np.linspace(0.0, 6.0, 120_001)
    log_joint = stats.norm.logpdf(z)[:, None] + stats.norm.logpdf(x, (z**2)[:, None], noise)
    log_joint[0] -= math.log(2)
    return _sum(log_joint, z) + math.log(2)


@world
def two_modes() -> World:
    """x ~ N(z^2, .05^2): two narrow modes a mile apart; a guide that knows one of them loses log 2."""
    x = np.array([0.8, 1.5, 2.4, 3.3])

    def statements(p: object, x: Tensor) -> None:
        z = pyro.sample("z", dist.Normal(_zeros(x), 1.0))
        pyro.sample("x", dist.Normal(p.weight * z**2, p.log_noise.exp()), obs=x)

    def guide(p: object, x: Tensor) -> None:
        root = (x + p.shift).clamp(min=0.01).sqrt()
        pyro.sample("z", _mixture(root, p.log_width.exp() / root))

    def one_mode(p: object, x: Tensor) -> None:
        root = (x + p.shift).clamp(min=0.01).sqrt()
        pyro.sample("z", dist.Normal(root, p.log_width.exp() / root))

    numbers = {"shift": -0.00125, "log_width": math.log(0.0265)}
    return _world(
        Numbers(statements, weight=1.0, log_noise=math.log(0.05)),
        Numbers(guide, **numbers),
        x,
        _square(x, 0.05),
        "module modes",
        others={"one-mode": Guide(Numbers(one_mode, **numbers))},
    )


@world
def four_modes() -> World:
    """Two such latents side by side: four modes in the plane."""
    x = np.array([[0.8, 1.5], [2.4, 1.1], [1.7, 1.7]])

    def statements(p: object, x: Tensor) -> None:
        z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z**2 * p.weight, p.log_noise.exp()).to_event(1), obs=x)

    def guide(p: object, x: Tensor) -> None:
        root = (x + p.shift).clamp(min=0.01).sqrt()
        pyro.sample("z", _mixture(root, p.log_width.exp() / root).to_event(1))

    return _world(
        Numbers(statements, weight=np.ones(2), log_noise=np.full(2, math.log(0.1))),
        Numbers(guide, shift=-0.005, log_width=math.log(0.053)),
        x,
        _square(x.ravel(), 0.1).reshape(x.shape).sum(1),
        "module modes vector",
        dim=2,
    )


def _in_one_dimension(prior: object, likelihood: object, q: object, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """log p(x) and the guide's gap by a sum over ``z``; the three densities take ``z[:, None]`` to ``[G, N]``."""
    log_joint = prior(z[:, None]) + likelihood(z[:, None])
    log_px = _sum(log_joint, z)
    log_q = q(z[:, None])
    gap = (np.exp(log_q) * (log_q - log_joint + log_px)).sum(0) * (z[1] - z[0])
    return log_px, gap


@world
def outlying() -> World:
    """A Student-t prior with heavy tails, z ~ t_2, x ~ N(z, .1^2), and data far outside of it."""
    x = np.array([0.3, 4.0, -30.0, 60.0])

    def statements(p: object, x: Tensor) -> None:
        z = pyro.sample("z", dist.StudentT(torch.full((len(x),), 2.0).to(x)))
        pyro.sample("x", dist.Normal(p.weight * z, p.log_noise.exp()), obs=x)

    def guide(p: object, x: Tensor) -> None:
        pyro.sample("z", dist.Normal(p.slope * x, p.log_scale.exp()))

    offset = np.linspace(-1.2, 1.2, 4001)
    log_px, gap = _in_one_dimension(
        lambda d: stats.t.logpdf(x + d, 2),
        lambda d: stats.norm.logpdf(d, 0, 0.1),
        lambda d: stats.norm.logpdf(d, 0, 0.1),
        offset,
    )
    return _world(
        Numbers(statements, weight=1.0, log_noise=math.log(0.1)),
        Numbers(guide, slope=1.0, log_scale=math.log(0.1)),
        x,
        log_px,
        "module paths heavy",
        gap=gap,
    )


@world
def heavy_noise() -> World:
    """Student-t noise round a normal latent, x ~ t_2(z, .5): the posterior of an outlying x spreads over both."""
    x = np.array([-0.5, 1.0, 5.0, 8.0])

    def statements(p: object, x: Tensor) -> None:
        z = pyro.sample("z", dist.Normal(_zeros(x), 1.0))
        pyro.sample("x", dist.StudentT(_zeros(x) + 2.0, p.weight * z, p.log_noise.exp()), obs=x)

    def guide(p: object, x: Tensor) -> None:
        pyro.sample("z", dist.StudentT(_zeros(x) + 5.0, p.slope * x.clamp(-2.0, 2.0), p.log_scale.exp()))

    z = np.linspace(-60.0, 60.0, 240_001)
    log_px, gap = _in_one_dimension(
        stats.norm.logpdf,
        lambda z: stats.t.logpdf(x, 2, z, 0.5),
        lambda z: stats.t.logpdf(z, 5, 0.5 * x.clip(-2, 2), 0.8),
        z,
    )
    return _world(
        Numbers(statements, weight=1.0, log_noise=math.log(0.5)),
        Numbers(guide, slope=0.5, log_scale=math.log(0.8)),
        x,
        log_px,
        "module paths heavy",
        gap=gap,
    )


@world
def funnel() -> World:
    """Neal's funnel, v ~ N(0, 1.5^2), z ~ N(0, e^v), x ~ N(z, 1); z is drawn exactly, given v."""
    x = np.array([-0.5, 1.0, 3.0, 6.0])

    def statements(p: object, x: Tensor) -> None:
        v = pyro.sample("v", dist.Normal(_zeros(x), 1.5))
        z = pyro.sample("z", dist.Normal(_zeros(x), (0.5 * v).exp()))
        pyro.sample("x", dist.Normal(p.weight * z, p.log_noise.exp()), obs=x)

    def guide(p: object, x: Tensor) -> None:
        v = pyro.sample("v", dist.Normal(p.shift + p.slope * x.abs(), p.log_scale.exp()))
        gain = 1 / (1 + (-v).exp())
        pyro.sample("z", dist.Normal(gain * x * p.weight_q, gain.sqrt()))

    v = np.linspace(-14.0, 16.0, 6001)
    shift, slope, scale = -0.7, 0.5, 1.3
    log_px, gap = _in_one_dimension(
        lambda v: stats.norm.logpdf(v, 0, 1.5),
        lambda v: stats.norm.logpdf(x, 0, np.sqrt(1 + np.exp(v))),
        lambda v: stats.norm.logpdf(v, shift + slope * np.abs(x), scale),
        v,
    )
    return _world(
        Numbers(statements, weight=1.0, log_noise=0.0),
        Numbers(guide, shift=shift, slope=slope, log_scale=math.log(scale), weight_q=1.0),
        x,
        log_px,
        "module paths sites structured heavy",
        gap=gap,
        dim=2,
    )


# ---------------------------------------------------------------------------------------------- constrained latents


@world
def beta_binomial() -> World:
    """z ~ Beta(2, 3), x ~ Binomial(10, z)."""
    x = np.array([0.0, 3.0, 7.0, 10.0])

    def statements(p: object, x: Tensor) -> None:
        a, b = p.log_a.exp().expand(len(x)), p.log_b.exp().expand(len(x))
        z = pyro.sample("z", dist.Beta(a, b))
        pyro.sample("x", dist.Binomial(10, z), obs=x)

    def guide(p: object, x: Tensor) -> None:
        pyro.sample("z", dist.Beta(p.log_a_q.exp() + x, p.log_b_q.exp() + 10 - x))

    return _world(
        Numbers(statements, log_a=math.log(2.0), log_b=math.log(3.0)),
        Numbers(guide, log_a_q=math.log(2.0), log_b_q=math.log(3.0)),
        x,
        stats.betabinom.logpmf(x, 10, 2, 3),
        "module paths constrained counts",
        gap=_ZERO,
    )


@world
def gamma_poisson() -> World:
    """z ~ Gamma(3, 2), x ~ Poisson(z)."""
    x = np.array([0.0, 1.0, 4.0, 9.0])

    def statements(p: object, x: Tensor) -> None:
        z = pyro.sample("z", dist.Gamma(p.log_shape.exp().expand(len(x)), p.log_rate.exp()))
        pyro.sample("x", dist.Poisson(z), obs=x)

    def guide(p: object, x: Tensor) -> None:
        pyro.sample("z", dist.Gamma(p.log_shape_q.exp() + x, p.log_rate_q.exp() + 1))

    numbers = {"log_shape": math.log(3.0), "log_rate": math.log(2.0)}
    return _world(
        Numbers(statements, **numbers),
        Numbers(guide, **{f"{name}_q": value for name, value in numbers.items()}),
        x,
        stats.nbinom.logpmf(x, 3, 2 / 3),
        "module paths constrained counts",
        gap=_ZERO,
    )


@world
def dirichlet_multinomial() -> World:
    """z ~ Dirichlet(1, 2, 3), x ~ Multinomial(z), eight balls."""
    x = np.array([[8.0, 0.0, 0.0], [2.0, 3.0, 3.0], [0.0, 1.0, 7.0]])

    def statements(p: object, x: Tensor) -> None:
        z = pyro.sample("z", dist.Dirichlet(p.log_alpha.exp().expand(len(x), 3)))
        pyro.sample("x", dist.Multinomial(8, z), obs=x)

    def guide(p: object, x: Tensor) -> None:
        pyro.sample("z", dist.Dirichlet(p.log_alpha_q.exp() + x))

    alpha = np.array([1.0, 2.0, 3.0])
    log_px = special.gammaln(9) - special.gammaln(x + 1).sum(1) + special.gammaln(6) - special.gammaln(14)
    return _world(
        Numbers(statements, log_alpha=np.log(alpha)),
        Numbers(guide, log_alpha_q=np.log(alpha)),
        x,
        log_px + (special.gammaln(alpha + x) - special.gammaln(alpha)).sum(1),
        "module paths constrained counts vector",
        gap=np.zeros(3),
        dim=2,
    )


@world
def log_normal() -> World:
    """z ~ LogNormal(0, 1), x ~ N(log z, .5^2): normal on the real line; the guide is a transformed normal."""

    def statements(p: object, x: Tensor) -> None:
        z = pyro.sample("z", dist.LogNormal(_zeros(x), 1.0))
        pyro.sample("x", dist.Normal(p.weight * z.log(), p.log_noise.exp()), obs=x)

    def guide(p: object, x: Tensor) -> None:
        base = dist.Normal(p.slope * x, p.log_scale.exp())
        pyro.sample("z", dist.TransformedDistribution(base, [transforms.ExpTransform()]))

    shifted = Numbers(guide, slope=0.6, log_scale=0.5 * math.log(0.2))
    return _world(
        Numbers(statements, weight=1.0, log_noise=math.log(0.5)),
        Numbers(guide, slope=0.8, log_scale=0.5 * math.log(0.2)),
        _X,
        _normal(_X, 0.0, 1.25),
        "module paths constrained transformed",
        gap=_ZERO,
        others={"shifted": Guide(shifted, _kl_normal(0.6 * _X, 0.2**0.5, 0.8 * _X, 0.2**0.5))},
    )


@world
def precision() -> World:
    """Normal data of unknown mean and precision, t ~ Gamma(3, 2), m ~ N(0, 1 / t), four numbers per datapoint."""
    x = np.array([[0.5, 1.0, -0.2, 0.3], [3.0, 2.5, 3.5, 3.2], [-4.0, 5.0, 0.1, 1.0]])

    def statements(p: object, x: Tensor) -> None:
        t = pyro.sample("t", dist.Gamma(p.log_shape.exp().expand(len(x)), p.log_rate.exp()))
        m = pyro.sample("m", dist.Normal(_zeros(x), t**-0.5))
        loc, scale = m.unsqueeze(-1).expand(*m.shape, 4), (t**-0.5).unsqueeze(-1)
        pyro.sample("x", dist.Normal(loc, scale).to_event(1), obs=x)

    def guide(p: object, x: Tensor) -> None:
        mean, square = x.mean(-1), (x - x.mean(-1, keepdim=True)).square().sum(-1)
        rate = p.log_rate_q.exp() + 0.5 * square + 0.5 * 4 / 5 * mean.square()
        t = pyro.sample("t", dist.Gamma(p.log_shape_q.exp() + 2, rate))
        pyro.sample("m", dist.Normal(p.slope * mean, (5 * t) ** -0.5))

    spread = ((x - x.mean(1, keepdims=True)) ** 2).sum(1)
    rate = 2 + 0.5 * spread + 0.5 * 4 / 5 * x.mean(1) ** 2
    log_px = special.gammaln(5) - special.gammaln(3) + 3 * math.log(2) - 5 * np.log(rate)
    numbers = {"log_shape": math.log(3.0), "log_rate": math.log(2.0)}
    return _world(
        Numbers(statements, **numbers),
        Numbers(guide, slope=0.8, **{f"{name}_q": value for name, value in numbers.items()}),
        x,
        log_px - 0.5 * math.log(5) - 2 * math.log(2 * math.pi),
        "module paths constrained sites structured heavy",
        gap=np.zeros(3),
        dim=2,
    )


@world
def uniform_interval() -> World:
    """z ~ Uniform(0, 2), x ~ N(z, .3^2), some data at the very edge; a Beta guide that is not exact."""
    x = np.array([-0.1, 0.5, 1.4, 2.2])

    def statements(p: object, x: Tensor) -> None:
        z = pyro.sample("z", dist.Uniform(_zeros(x), 2.0))
        pyro.sample("x", dist.Normal(p.weight * z, p.log_noise.exp()), obs=x)

    def guide(p: object, x: Tensor) -> None:
        middle = (x / 2).clamp(0.1, 0.9)
        base = dist.Beta(p.log_size.exp() * middle, p.log_size.exp() * (1 - middle))
        pyro.sample("z", dist.TransformedDistribution(base, [transforms.AffineTransform(0.0, 2.0)]))

    log_px = np.log(stats.norm.cdf(2, x, 0.3) - stats.norm.cdf(0, x, 0.3)) - math.log(2)
    return _world(
        Numbers(statements, weight=1.0, log_noise=math.log(0.3)),
        Numbers(guide, log_size=math.log(10.0)),
        x,
        log_px,
        "module paths constrained transformed",
    )


@world
def angle() -> World:
    """A direction, z ~ VonMises(.5, 2), x ~ VonMises(z, 4)."""
    x = np.array([-3.0, -0.4, 1.1, 3.1])

    def statements(p: object, x: Tensor) -> None:
        z = pyro.sample("z", dist.VonMises(_zeros(x) + p.loc, p.log_prior.exp()))
        pyro.sample("x", dist.VonMises(z, p.log_noise.exp()), obs=x)

    def guide(p: object, x: Tensor) -> None:
        k0, k = p.log_prior_q.exp(), p.log_noise_q.exp()
        across, along = k0 * p.loc_q.sin() + k * x.sin(), k0 * p.loc_q.cos() + k * x.cos()
        pyro.sample("z", dist.VonMises(torch.atan2(across, along), torch.hypot(across, along)))

    length = np.abs(2 * np.exp(0.5j) + 4 * np.exp(1j * x))
    log_px = np.log(special.i0(length) / (2 * math.pi * special.i0(2) * special.i0(4)))
    numbers = {"loc": 0.5, "log_prior": math.log(2.0), "log_noise": math.log(4.0)}
    return _world(
        Numbers(statements, **numbers),
        Numbers(guide, **{f"{name}_q": value for name, value in numbers.items()}),
        x,
        log_px,
        "module circle",
        gap=_ZERO,
    )


@world
def sphere() -> World:
    """A direction in space, z uniform on the sphere, x ~ vMF(z, 3); no bijection reaches the sphere."""
    x = np.array([[1.0, 0.0, 0.0], [0.0, 0.6, 0.8], [-0.6, 0.0, 0.8]])

    def statements(p: object, x: Tensor) -> None:
        z = pyro.sample("z", distributions.UniformSphere(torch.zeros_like(x)))
        pyro.sample("x", distributions.VonMisesFisher(z, p.log_kappa.exp().expand(z.shape[:-1])), obs=x)

    def guide(p: object, x: Tensor) -> None:
        pyro.sample("z", distributions.VonMisesFisher(x, p.log_kappa_q.exp().expand(len(x))))

    return _world(
        Numbers(statements, log_kappa=math.log(3.0)),
        Numbers(guide, log_kappa_q=math.log(3.0)),
        x,
        np.full(3, -math.log(4 * math.pi)),
        "module paths constrained vector sphere",
        gap=np.zeros(3),
        dim=2,
        because={"chains": "no bijection maps the sphere to the real line"},
    )


# ------------------------------------------------------------------------------------------------- discrete latents


@world
def coin() -> World:
    """A coin decides between two normals."""

    def statements(p: object, x: Tensor) -> None:
        z = pyro.sample("z", dist.Bernoulli(logits=p.logit.expand(len(x))))
        pyro.sample("x", dist.Normal(p.low + (p.high - p.low) * z, 0.8), obs=x)

    def guide(p: object, x: Tensor) -> None:
        pyro.sample("z", dist.Bernoulli(logits=p.shift + p.slope * x))

    logit = math.log(0.3 / 0.7)
    both = np.stack([math.log(0.3) + stats.norm.logpdf(_X, 1.5, 0.8), math.log(0.7) + stats.norm.logpdf(_X, -1, 0.8)])
    return _world(
        Numbers(statements, logit=logit, low=-1.0, high=1.5),
        Numbers(guide, shift=logit - (1.5**2 - 1) / 2 / 0.64, slope=2.5 / 0.64),
        _X,
        special.logsumexp(both, axis=0),
        "module discrete",
        gap=_ZERO,
        dim=0,
    )


@world
def clusters() -> World:
    """Three clusters in the plane."""
    x = np.array([[0.0, 0.2], [2.0, -1.0], [-1.5, 1.4], [0.5, 0.5]])

    def statements(p: object, x: Tensor) -> None:
        z = pyro.sample("z", dist.Categorical(logits=p.logits.expand(len(x), 3)))
        pyro.sample("x", dist.Normal(p.means[z], 0.9).to_event(1), obs=x)

    def guide(p: object, x: Tensor) -> None:
        pyro.sample("z", dist.Categorical(logits=p.shifts + x @ p.slopes))

    share, means = np.array([0.5, 0.2, 0.3]), np.array([[0.0, 0.0], [1.5, -1.0], [-1.0, 1.5]])
    each = np.log(share) + stats.norm.logpdf(x[:, None], means, 0.9).sum(-1)
    return _world(
        Numbers(statements, logits=np.log(share), means=means),
        Numbers(guide, shifts=np.log(share) - (means**2).sum(1) / 2 / 0.81, slopes=means.T / 0.81),
        x,
        special.logsumexp(each, axis=1),
        "module discrete",
        gap=_ZERO,
        dim=0,
    )


@world
def two_switches() -> World:
    """Two discrete latents, the second's odds hanging on the first; the exact guide draws the second one first."""
    first, second = np.array([0.6, 0.4]), np.array([[0.1, 0.6, 0.3], [0.5, 0.2, 0.3]])
    loc = np.array([[-2.0, 0.0, 1.0], [0.5, -1.0, 2.5]])
    log_joint = (
        np.log(first)[:, None, None] + np.log(second)[:, :, None] + stats.norm.logpdf(_X, loc[:, :, None], 0.7)
    )  # [a, b, N]
    log_px = special.logsumexp(log_joint, axis=(0, 1))
    table = (log_joint - log_px).transpose(2, 1, 0)  # [N, b, a]

    def statements(p: object, x: Tensor) -> None:
        a = pyro.sample("a", dist.Bernoulli(logits=p.logit.expand(len(x))))
        b = pyro.sample("b", dist.Categorical(logits=p.second[a.long()]))
        pyro.sample("x", dist.Normal(p.loc[a.long(), b], 0.7), obs=x)

    def guide(p: object, x: Tensor) -> None:
        rows = (x.unsqueeze(-1) - _tensor(_X)).abs().argmin(-1)
        b = pyro.sample("b", dist.Categorical(logits=p.table.logsumexp(-1)[rows]))
        odds = p.table[..., 1] - p.table[..., 0]
        pyro.sample("a", dist.Bernoulli(logits=odds[rows, b]))

    return _world(
        Numbers(statements, logit=math.log(0.4 / 0.6), second=np.log(second), loc=loc),
        Numbers(guide, table=table),
        _X,
        log_px,
        "module discrete sites structured reversed",
        gap=_ZERO,
        dim=0,
    )


@world
def switched() -> World:
    """A discrete latent beside a continuous one that hangs on it: nothing here enumerates and integrates at once."""

    def statements(p: object, x: Tensor) -> None:
        s = pyro.sample("s", dist.Bernoulli(logits=p.logit.expand(len(x))))
        z = pyro.sample("z", dist.Normal(p.high * (2 * s - 1), 0.5))
        pyro.sample("x", dist.Normal(z, p.log_noise.exp()), obs=x)

    def guide(p: object, x: Tensor) -> None:
        s = pyro.sample("s", dist.Bernoulli(logits=p.shift + p.slope * x))
        pyro.sample("z", dist.Normal(p.gain * x + p.pull * (2 * s - 1), p.log_scale.exp()))

    # x | s ~ N(+-1.5, .5^2 + .6^2); z | s, x by the gain.
    total, logit = 0.25 + 0.36, math.log(0.4 / 0.6)
    both = np.stack([math.log(0.4) + _normal(_X, 1.5, total), math.log(0.6) + _normal(_X, -1.5, total)])
    gain = 0.25 / total
    return _world(
        Numbers(statements, logit=logit, high=1.5, log_noise=math.log(0.6)),
        Numbers(
            guide, shift=logit, slope=3 / total, gain=gain, pull=1.5 * (1 - gain), log_scale=0.5 * math.log(gain * 0.36)
        ),
        _X,
        special.logsumexp(both, axis=0),
        "module discrete mixed sites structured",
        gap=_ZERO,
        dim=1,
        because={"exact": "its latents are discrete and continuous at once"},
    )


NAMES: tuple[str, ...] = tuple(_MAKERS)
