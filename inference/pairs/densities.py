r"""A model/guide pair as densities.

A pair is run once under Pyro's effect handlers and becomes what every algorithm is written against:

    z ~ q(z|x),   log p(z),   log p(x|z),   log q(z|x)        each ``[num_samples, batch]``,

never summed over the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy
from typing import Any, Self

import pyro
import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from .handlers import Change, Changing, Detaching, Dreaming, conditioned, trace_sites
from .program import Program, as_program
from .sites import (
    Cloud,
    ContractError,
    Data,
    Divergence,
    LatentSite,
    Learned,
    Sites,
    as_data,
    masked,
    site_log_prob,
)

__all__ = ["Densities"]


class _Changed(Program):
    """A program whose latents' distributions are changed on the way; its parameters are that program's own."""

    def __init__(self, inner: Program, changing: Changing) -> None:
        super().__init__(inner)
        self._changing = changing

    def forward(self, *data: Tensor) -> Any:
        with self._changing:
            return self.fn(*data)


class Densities(nn.Module):
    """A model and, where there is one, its guide, with what the contract learned of them.

    Args:
        model: Any callable ``model(*data)`` with Pyro sample statements.
        guide: Any callable ``guide(*data)`` over the same latent sites, or ``None``.
    """

    def __init__(self, model: Callable[..., Any], guide: Callable[..., Any] | None = None) -> None:
        super().__init__()
        self.model = as_program(model)
        self.guide = None if guide is None else as_program(guide)
        if self.guide is not None:
            self.guide.share_parameters_with(self.model)
            self.model.share_parameters_with(self.guide)
        self.learned = Learned()

    # ------------------------------------------------------------------ what the contract learned

    @property
    def latents(self) -> tuple[LatentSite, ...]:
        """The latent sites, in the order that the model draws them."""
        return self.learned.latents

    @property
    def observed(self) -> dict[str, int | None]:
        """Every observed site with the position of its data among the arguments."""
        return self.learned.observed

    @property
    def auxiliary(self) -> tuple[str, ...]:
        """Names of what the guide alone draws."""
        return self.learned.auxiliary

    @property
    def reads_data(self) -> tuple[str, ...]:
        """The latents whose prior looks at an observed argument: r(a|z, x)."""
        return self.learned.reads_data

    @property
    def max_plate_nesting(self) -> int:
        """The number of plates an observed site lies in at most, the batch included."""
        return self.learned.max_plate_nesting

    @property
    def example(self) -> Data:
        """Two rows of the data that were looked at."""
        return self.learned.example

    # ------------------------------------------------------------------ what algorithms call

    def cloud(self, data: Tensor | Data, num_samples: int = 1) -> Cloud:
        """Draw ``num_samples`` latents per datapoint from the guide and score them.

        Args:
            data: The batch.
            num_samples: The number K of draws per datapoint.

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
        return cloud, {n: Divergence(masked(guide_sites[n]), masked(sites[n]), closed[n]) for n in z}

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
            num_samples: The number K of draws per datapoint.

        Returns:
            Site to draws ``[num_samples, batch, *event]``, and log q(z|x) ``[num_samples, batch]``, whose gradient is
            the score.
        """
        data = as_data(data)
        self.insist_on_density()
        with Detaching():
            sites = self.trace(self._guide(), data, num_samples)
        shape = torch.Size((num_samples, len(data[0])))
        return self._latent_values(sites), self._log_prob(sites, sites.keys(), shape)

    def sample_prior(self, data: Tensor | Data, num_samples: int = 1) -> dict[str, Tensor]:
        """Draw latents from p(z), as many datapoints as ``data`` has; its values are not looked at."""
        with Dreaming():
            return self._latent_values(self.trace(self.model, as_data(data), num_samples))

    def likelihoods(self, z: dict[str, Tensor], data: Tensor | Data) -> dict[str, Distribution]:
        """The distribution p(x|z) of every observed site at given latents; it scores what its mask keeps."""
        sites = self._run_at(self.model, z, as_data(data))
        return {name: masked(sites[name]) for name in self.observed}

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
        """True where log q(z|x) can be evaluated; an implicit guide can only be drawn from."""
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
                "importance sampling from the moments of its draws (start='moments') or the prior, which needs no more."
            )

    @property
    def births(self) -> int:
        """The number of parameters that the programs have adopted so far."""
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

    def with_guide_changed(self, change: Change) -> Self:
        """The same checked pair, but each latent of the guide is drawn from ``change(site, its distribution)``.

        The distribution that is handed over has batch shape ``[num_samples, batch]``, or ``[1, batch]`` where it is
        the same for every draw; model and parameters are shared.
        """
        changing = Changing(frozenset(site.name for site in self.latents), change, self.max_plate_nesting + 1)
        changed = copy(self)
        changed._modules = {**self._modules, "guide": _Changed(self._guide(), changing)}
        return changed

    def trace(self, program: Callable[..., Any], data: Data, num_samples: int | None) -> Sites:
        """Run a program and return its sample sites by name; ``None`` runs it without a sample plate."""
        return trace_sites(program, data, num_samples, self.max_plate_nesting)

    def latents_at(self, sites: Sites, data: Data) -> dict[str, Tensor]:
        """The log-density of each latent at the values of all sites, observed ones included, with these arguments."""
        values = {name: site["value"] for name, site in sites.items()}
        again = self.trace(conditioned(self.model, values), data, None)
        return {site.name: site_log_prob(again[site.name], self.max_plate_nesting) for site in self.latents}

    # ------------------------------------------------------------------ private

    def _run_at(self, program: Program, z: dict[str, Tensor], data: Data) -> Sites:
        num_samples, batch = self._shape(z, data)
        inner = (1,) * (self.max_plate_nesting - 1)  # plates of observed sites left of the batch
        values = {name: v.reshape(num_samples, *inner, batch, *v.shape[2:]) for name, v in z.items()}
        return self.trace(conditioned(program, values), data, num_samples)

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
