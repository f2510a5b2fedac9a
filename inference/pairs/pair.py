"""A model/guide pair: its densities, held to a contract, and its dreams.

The contract of a program ``model(*data)`` or ``guide(*data)`` is short: one
``pyro.plate`` at dim -1 of size ``len(data[0])`` holds every sample site, and all of it broadcasts over
further dimensions on the left. Both draw the same latents, in any order. No site carries a scale: what it weighs
belongs to an objective.
"""

from __future__ import annotations

import pyro
import torch
from torch import Tensor

from .contract import check_pair
from .densities import Densities
from .handlers import Dreaming
from .sites import ContractError, Data, Sites, as_data, kept_entries

__all__ = ["Pair"]


class Pair(Densities):
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

    def dream(self, data: Tensor | Data, num_samples: int = 1) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Draw latents and observations from the model.

        Args:
            data: A batch that says how many datapoints; only what is conditioned on (a label) is read.
            num_samples: The number K of draws per datapoint.

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
            kept = kept_entries(sites[name])
            if kept is not None and position is not None:
                rows = kept.movedim(self.max_plate_nesting, 0).reshape(data[position].shape)
                simulated[position] = torch.where(rows, simulated[position], data[position])
        return self._latent_values(sites), tuple(simulated)

    def blank(self, num_points: int) -> Data:
        """Arguments for ``num_points`` datapoints when only their number matters (:meth:`dream`)."""
        if not self.example:
            raise ContractError("the pair has not seen data yet; call check(data) first.")
        return tuple(part[:1].expand(num_points, *part.shape[1:]).clone() for part in self.example)

    def check(self, data: Tensor | Data) -> Pair:
        """Run the pair once, validated, and learn its sites.

        Args:
            data: A few rows are enough; what they are is kept as the example.

        Returns:
            The pair itself.

        Raises:
            ContractError: The pair breaks the contract; the message names the site and the mend.
        """
        # In evaluation mode: a check moves no running statistics.
        with self.evaluation(), pyro.validation_enabled(True):
            self.learned = check_pair(self, as_data(data))
        return self

    def _dreamt_sites(self, data: Data, num_samples: int) -> Sites:
        if self.reads_data:
            names, sites = list(self.reads_data), sorted(self.observed)
            raise ContractError(
                f"the model draws {names} given the argument that its {sites} observes, so a dream would draw them "
                f"given the data at hand. Draw them after {sites}, given what that statement returns: "
                "x = pyro.sample(..., obs=x)."
            )
        with Dreaming():
            return self.trace(self.model, data, num_samples)
