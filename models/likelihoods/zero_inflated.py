r"""Extra zeros in counts: p(x) = g 1[x = 0] + (1 - g) p_0(x), g = sigmoid(gate logit)."""

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

__all__ = ["ZeroInflated"]


class ZeroInflated(dist.ZeroInflatedDistribution):
    """Pyro's zero-inflated law, evaluated by the logit of its gate wherever it has been used before.

    Pyro's computes and keeps the gate's probability when it is sampled or asked for its mean; from
    then on its log-density is infinite where the gate rounds to one, and it cannot be expanded.

    Args:
        base_dist: the law of the counts, with an empty event shape.
        gate_logits: the log-odds of an extra zero, which broadcast against its batch.
    """

    def __init__(
        self,
        base_dist: dist.Distribution,
        gate_logits: Tensor,
        validate_args: bool | None = None,
    ) -> None:
        super().__init__(base_dist, gate_logits=gate_logits, validate_args=validate_args)

    @property
    def gate(self) -> Tensor:
        """The probability of an extra zero."""
        return self.gate_logits.sigmoid()

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-probability of ``value``, in nats."""
        if self._validate_args:
            self._validate_sample(value)
        log_count = logsigmoid(-self.gate_logits) + self.base_dist.log_prob(value)
        log_zero = torch.logaddexp(logsigmoid(self.gate_logits), log_count)
        return torch.where(value == 0, log_zero, log_count)
