r"""The marginal likelihood of up to three latent dimensions by quadrature.

    p(x) = int p(x, u) du ~ h^D sum_grid p(x, u),

the trapezoidal rule in unconstrained coordinates, on a grid that is laid around each datapoint's own posterior. For a
smooth density that dies out inside the box the rule converges faster than any power of the grid spacing h.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..coordinates import flatten, log_density
from ..data import Dataset, chunks
from ..pair import Data, Pair
from .evidence import Evidence

__all__ = ["Quadrature"]

_ROWS = 20_000  # grid points of all datapoints of a chunk that are decoded at once
_REACH = 8.0  # half-width of a box in posterior standard deviations: room for an exponential tail
_NODES = {1: 65, 2: 41, 3: 21}  # grid points a dimension: spacing below one standard deviation
_ZOOMS = 3
_TOLERANCE = 1e-3  # nats by which halving the grid may move an answer before it is called rough


@dataclass(frozen=True)
class Quadrature:
    """Integrate the latents out on a grid; it needs no guide.

    The first box covers the prior; each following one is centred on the posterior mean with a width from its standard
    deviation, as the grid before saw them. The answer is compared with the one on every second grid point, and
    datapoints on which the two differ by more than a thousandth of a nat are counted in a note.

    Args:
        num_nodes: Grid points a dimension; ``None`` takes 65, 41 and 21 for one, two and three dimensions.

    Raises:
        ValueError: The model has more than three (unconstrained) latent dimensions, or ``num_nodes < 8``.

    References:
        The Exponentially Convergent Trapezoidal Rule (Trefethen & Weideman, 2014), SIAM Review 56(3)
    """

    num_nodes: int | None = None

    def __post_init__(self) -> None:
        if self.num_nodes is not None and self.num_nodes < 8:
            raise ValueError(f"num_nodes={self.num_nodes} must be at least 8.")

    def __call__(self, pair: Pair, data: Dataset) -> Evidence:
        """Integrate for every datapoint."""
        prior = flatten(pair, pair.sample_prior(pair.blank(2), 2000)).flatten(0, 1)
        if prior.shape[-1] not in _NODES:
            raise ValueError(
                f"quadrature takes up to three latent dimensions, but this model has {prior.shape[-1]}; use "
                "importance sampling, or annealed importance sampling, which do not mind."
            )
        nodes = self.num_nodes or _NODES[prior.shape[-1]]
        nodes += 1 - nodes % 2  # odd, so that every second point is a grid too
        points = max(1, _ROWS // nodes ** prior.shape[-1])
        answers = [self._integrate(pair, part, prior, nodes) for part in chunks(data, points)]
        fine, coarse = (torch.cat(parts) for parts in zip(*answers, strict=True))
        rough = int(((fine - coarse).abs() > _TOLERANCE).sum())
        notes = (f"{rough} datapoints moved by more than {_TOLERANCE} nats on half the grid",) if rough else ()
        return Evidence("quadrature", "exact", fine, nodes ** prior.shape[-1], notes=notes)

    def _integrate(self, pair: Pair, part: Data, prior: Tensor, nodes: int) -> tuple[Tensor, Tensor]:
        batch, dim = len(part[0]), prior.shape[-1]
        density = log_density(pair, part)
        centre = prior.mean(0).expand(batch, dim)
        spread = prior.std(0).expand(batch, dim)
        unit = torch.linspace(-1.0, 1.0, nodes, device=prior.device)
        grid = torch.cartesian_prod(*[unit] * dim).reshape(-1, 1, dim)
        for zoom in range(_ZOOMS + 1):
            half = _REACH * spread
            u = centre + half * grid  # [nodes^dim, batch, dim]
            values = torch.cat([density(rows) for rows in u.split(max(1, _ROWS // batch))]).double()
            if zoom < _ZOOMS:
                centre, spread = _moments(values, u, half / (nodes - 1) * 2)
        log_cell = (2.0 * half.double() / (nodes - 1)).log().sum(-1)
        every = _every_second(nodes, dim).to(values.device)
        fine = values.logsumexp(0) + log_cell
        return fine.cpu(), (values[every].logsumexp(0) + log_cell + dim * torch.tensor(2.0).double().log()).cpu()


def _moments(values: Tensor, u: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    """The posterior's mean and standard deviation as a grid sees them; never narrower than half a cell."""
    weight = values.softmax(0).to(u.dtype).unsqueeze(-1)
    mean = (weight * u).sum(0)
    deviation = (weight * (u - mean).square()).sum(0).sqrt()
    return mean, deviation.clamp(min=0.5 * cell)


def _every_second(nodes: int, dim: int) -> Tensor:
    index = torch.arange(nodes**dim).reshape([nodes] * dim)
    return index[(slice(None, None, 2),) * dim].reshape(-1)
