"""What is timed: a workload is a net, a unit and the contenders that do the same work on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

__all__ = ["Advance", "Net", "Workload"]

Advance = Callable[[int], None]


@dataclass(frozen=True)
class Net:
    """data_dim-hidden-latent_dim and back, tanh, Bernoulli logits; or convolutions with relu."""

    data_dim: int = 784
    hidden: tuple[int, ...] = (500,)
    latent_dim: int = 20
    batch: int = 100
    rows: int = 20_000
    num_samples: int = 1  # above one, the importance-weighted bound of so many samples
    channels: tuple[int, ...] = ()

    def data(self) -> np.ndarray:
        """Binary pictures ``[rows, data_dim]``; their content does not matter to the clock."""
        return (np.random.default_rng(0).random((self.rows, self.data_dim)) < 0.3).astype(np.float32)

    @property
    def layers(self) -> list[tuple[int, int, int]]:
        """Every product of a pass: (rows, fan-in, fan-out), the encoder's first."""
        widths = [self.data_dim, *self.hidden]
        encoder = [*zip(widths, widths[1:], strict=False), (widths[-1], 2 * self.latent_dim)]
        back = [self.latent_dim, *reversed(self.hidden), self.data_dim]
        decoder = zip(back, back[1:], strict=False)
        rows = self.batch * self.num_samples
        return [(self.batch, i, o) for i, o in encoder] + [(rows, i, o) for i, o in decoder]


@dataclass(frozen=True)
class Workload:
    """A table of the page.

    Args:
        title: Its heading.
        net: What is computed.
        unit: What one step is called.
        module: Where the contenders are.
        contenders: Name to the function that makes it, in the order they are shown.
        reference: The contender that others are divided by.
        threads: With how many threads it is run.
        seconds: Length of a turn.
    """

    title: str
    net: Net
    unit: str
    module: str
    contenders: Mapping[str, str]
    reference: str
    threads: tuple[int, ...] = (1,)
    seconds: float = 0.6
    peers: frozenset[str] = field(default=frozenset({"NumPyro", "NumPyro, vmapped", "blackjax, vmapped"}))


_FIT = {
    "this pair, fit, graph": "fit_graph",
    "this pair, fit, compiled": "fit_compiled",
    "this pair, fit, compiled, bfloat16 products": "fit_bfloat16",
    "plain functions with pyro.param, fit, compiled": "fit_plain",
    "this pair, fit, uncaptured": "fit_uncaptured",
    "Pyro's example": "pyro_example",
    "bare PyTorch, fused Adam": "bare_torch",
    "bare PyTorch, compiled loss, fused Adam": "bare_torch_compiled",
    "NumPyro": "numpyro_scan",
    "floor: products + fused Adam": "products_and_adam",
    "floor: products": "products",
    "floor: products by oneDNN + fused Adam": "onednn_products_and_adam",
    "floor: products by oneDNN": "onednn_products",
}
_NETS = {
    "paper-100": ("The paper's pair, batch 100", Net(), (1, 2)),
    "paper-512": ("The paper's pair, batch 512", Net(batch=512, rows=20_480), (1,)),
    "paper-4096": ("The paper's pair, batch 4096", Net(batch=4096, rows=20_480), (1,)),
    "digits": ("A pair of the digits' size", Net(64, (100,), 5, 100, 1_700), (1,)),
    "iwae": ("784-200-200-50, importance-weighted bound of 50 samples, batch 20",
             Net(784, (200, 200), 50, 20, 2_000, num_samples=50), (1,)),
    "conv": ("A small convolutional pair, batch 100", Net(784, (), 20, 100, 2_000, channels=(16, 32)), (1,)),
}  # fmt: skip
_WITHOUT_FORM = {  # what a net has no such contender for
    "iwae": {"plain functions with pyro.param, fit, compiled"},
    "conv": {"plain functions with pyro.param, fit, compiled", "NumPyro"} | {name for name in _FIT if "floor" in name},
}
_DECODER = Net(batch=100, rows=100)

WORKLOADS = (
    {
        name: Workload(
            title=f"Training: {title}",
            net=net,
            unit="steps/s",
            module="training",
            contenders={k: v for k, v in _FIT.items() if k not in _WITHOUT_FORM.get(name, ())},
            reference="Pyro's example",
            threads=threads,
            seconds=1.2 if name in ("paper-4096", "iwae", "conv") else 0.5,
        )
        for name, (title, net, threads) in _NETS.items()
    }
    | {
        f"seeds-{name}": Workload(
            f"Five seeds at once: {title}",
            net,
            "steps of all five/s",
            "training",
            {
                "this pair, fit, compiled, one after another": "seeds_in_turn",
                "bare PyTorch, one after another": "seeds_in_turn_by_hand",
                "bare PyTorch, stacked (vmap)": "seeds_stacked_eager",
                "bare PyTorch, stacked (vmap), compiled": "seeds_stacked",
            },
            "this pair, fit, compiled, one after another",
        )
        for name, (title, net, _) in _NETS.items()
        if name in ("digits", "paper-100")
    }
    | {
        "importance": Workload(
            "Importance sampling, 100 points",
            _DECODER,
            "thousand pairs/s",
            "posterior",
            {
                "this pair, graph": "importance",
                "this pair, compiled": "importance_compiled",
                "this pair, compiled, bfloat16 products": "importance_bfloat16",
                "log_evidence as called, checks and k-hat included": "importance_whole",
                "Pyro, particle plate": "importance_pyro",
                "hand-written chunks": "importance_by_hand",
                "NumPyro, vmapped": "importance_numpyro",
                "bare decoder pass": "decoder_pass",
                "floor: products": "importance_products",
                "floor: products by oneDNN": "importance_onednn_products",
            },
            "hand-written chunks",
            seconds=1.0,
        ),
        "hmc": Workload(
            "HMC over z, 100 points, 10 leapfrog steps: proposals of all chains",
            _DECODER,
            "proposals/s",
            "posterior",
            {
                "this pair, graph": "hmc",
                "this pair, compiled": "hmc_compiled",
                "Pyro's HMC, a datapoint at a time": "hmc_pyro",
                "blackjax, vmapped": "hmc_blackjax",
                "bare decoder pass and gradient, ten times": "decoder_gradient",
                "floor: products": "hmc_products",
                "floor: products by oneDNN": "hmc_onednn_products",
            },
            "Pyro's HMC, a datapoint at a time",
            seconds=1.2,
        ),
        "ais": Workload(
            "Annealed importance sampling, 100 points: temperatures of all chains, 10 leapfrog steps each",
            _DECODER,
            "temperatures/s",
            "posterior",
            {
                "this pair, from the prior": "ais_prior",
                "this pair, from the guide": "ais_guide",
                "bare decoder pass and gradient, ten times": "decoder_gradient",
            },
            "bare decoder pass and gradient, ten times",
            seconds=3.0,
        ),
    }
)
