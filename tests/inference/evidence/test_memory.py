"""Memory: what an estimator holds at once is a few chunks, however many datapoints and samples there are."""

import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from aevb import guides
from aevb.inference import log_evidence
from aevb.inference.evidence import AnnealedImportanceSampling, DensityFit, ImportanceSampling
from aevb.models import LatentVariableModel, likelihoods, networks, priors

WIDTH = 100
LIMIT = (
    16 * 2**20
)  # bytes beside data and parameters; the pixels of all samples at once would be five times that and more


class LiveBytes(TorchDispatchMode):
    """Follows every storage that an operation makes until it is freed."""

    def __init__(self):
        super().__init__()
        self.live, self.now, self.peak = set(), 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                storage = leaf.untyped_storage()
                key, size = storage._cdata, storage.nbytes()
                if key not in self.live:
                    self.live.add(key)
                    self.now += size
                    self.peak = max(self.peak, self.now)
                    weakref.finalize(storage, self._freed, key, size)
        return result

    def _freed(self, key, size):
        self.live.discard(key)
        self.now -= size


def _peak(estimator, points):
    torch.manual_seed(0)
    model = LatentVariableModel(priors.StandardNormal(2), networks.MLP(2, WIDTH, hidden=[10]), likelihoods.Bernoulli())
    guide = guides.Normal(2, networks.MLP(WIDTH, hidden=[10]))
    x = torch.rand(points, WIDTH).round()
    log_evidence(model, guide, x[:2], estimator)  # what is made once is not counted
    with LiveBytes() as bytes_alive:
        evidence = log_evidence(model, guide, x, estimator)
    assert len(evidence.log_px) == points
    return bytes_alive.peak


@pytest.mark.parametrize(
    ("few", "many"),
    [
        (ImportanceSampling(300), ImportanceSampling(1500)),
        (
            AnnealedImportanceSampling(2, num_chains=5, num_tuning=1, num_leapfrog=1, rows=500),
            AnnealedImportanceSampling(2, num_chains=25, num_tuning=1, num_leapfrog=1, rows=500),
        ),
        (
            DensityFit(num_samples=10, num_chains=5, warmup=3, thin=1, rows=500),
            DensityFit(num_samples=10, num_chains=5, warmup=3, thin=9, rows=500),
        ),
    ],
)
def test_neither_points_nor_samples_make_it_grow(few, many):
    one, more_points, more_samples = _peak(few, 100), _peak(few, 300), _peak(many, 100)
    assert max(one, more_points, more_samples) < LIMIT
    assert more_points < 1.5 * one
