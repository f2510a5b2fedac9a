"""What every test may rely on: one thread, a random state of its own, an empty parameter store."""

import gc
import os

import pyro
import pytest
import torch

torch.set_num_threads(1)  # the tests run in as many processes as there are cores
os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")  # for the same reason: no pool of compilers beside them
gc.set_threshold(50_000, 20, 20)  # torch leaves little garbage; looking for it took a tenth of the time


def pytest_collection_modifyitems(items):
    """What takes longest begins first, so that no process is left with it alone."""
    items.sort(key=lambda item: "slow" not in item.keywords)


@pytest.fixture(autouse=True)
def _isolated():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        pyro.clear_param_store()
        yield
