"""What every test may rely on: one thread, a random state of its own, an empty parameter store."""

import pyro
import pytest
import torch

torch.set_num_threads(1)  # the tests run in as many processes as there are cores


@pytest.fixture(autouse=True)
def _isolated():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        pyro.clear_param_store()
        yield
