"""What an objective is: a generator of phases, each saying which player minimises which loss.

A trainer asks an objective for its phases on a batch, gives every named player the gradient of its own loss and
nothing else, and never asks which objective it runs. An algorithm that needs more than model and guide (a
critic, a table of Markov chains) keeps it in the memory it returns from :meth:`Objective.start`: a module whose
buffers are checkpointed and whose children are players of their own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple, Protocol

from torch import Tensor, nn

from ..pairs.data import Rows
from ..pairs.pair import Pair
from ..pairs.sites import Data

__all__ = ["Batch", "Objective", "Phase", "evaluations_per_visit"]


class Batch(NamedTuple):
    """A minibatch: the programs' arguments, its rows' numbers, the data set's size N and the steps done so far.

    ``rows`` is ``[batch]``; ``step`` is a scalar tensor, so a schedule that reads it stays a part of the graph.
    """

    data: Data
    rows: Tensor
    size: int
    step: Tensor


class Phase(NamedTuple):
    """One turn: ``losses`` maps a player to the scalar it minimises (nats per datapoint), ``report`` what to log."""

    losses: Mapping[str, Tensor]
    report: Mapping[str, Tensor] = {}


class Objective(Protocol):
    """An algorithm that trains a pair."""

    @property
    def trains(self) -> frozenset[str]:
        """The players it trains; a pair without a guide is enough where ``"guide"`` is not among them."""

    def start(self, pair: Pair, data: Rows) -> nn.Module:
        """Make the algorithm's own memory for a checked pair and a data set; an empty module if it needs none.

        Nothing that learns may move here, running statistics included: programs are run inside ``pair.evaluation()``.
        """

    def __call__(self, pair: Pair, batch: Batch, memory: nn.Module) -> Iterator[Phase]:
        """Yield the phases of one step; each is carried out before the next is asked for."""


def evaluations_per_visit(objective: Objective, memory: nn.Module | None = None) -> int:
    """Count the gradients of a datapoint's density that an objective takes at each visit of the datapoint.

    One, unless the objective, or the memory it has started, declares another number by a property of this name. It is
    the axis of the paper's Figure 3, on which a pass of Monte Carlo EM counts 15 for each datapoint.

    Example:
        >>> from aevb.inference import MCEM, SGVB
        >>> evaluations_per_visit(SGVB()), evaluations_per_visit(MCEM())
        (1, 15)

    References:
        Auto-Encoding Variational Bayes (Kingma & Welling, 2013), Figure 3.
    """
    declared = getattr(objective, "evaluations_per_visit", 1)
    return int(getattr(memory, "evaluations_per_visit", declared))
