"""The nearest-neighbour divergence against the closed form of Gaussians."""

import math

import pytest
import torch
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from aevb.inference import sample_divergence


def _repeated(p, q, n, k, repeats=8):
    values = torch.tensor([sample_divergence(p.sample((n,)), q.sample((n,)), k=k) for _ in range(repeats)])
    return float(values.mean()), float(values.std() / math.sqrt(repeats))


@pytest.mark.parametrize(("shift", "scale"), [(0.0, 1.0), (1.0, 1.0), (0.0, 2.0), (1.0, 1.5)])
def test_agrees_with_the_closed_form_in_one_dimension(shift, scale):
    torch.manual_seed(1)
    p, q = Normal(torch.zeros(1), torch.ones(1)), Normal(torch.full((1,), shift), torch.full((1,), scale))
    mean, error = _repeated(p, q, n=2000, k=5)
    assert abs(mean - float(kl_divergence(p, q))) < 4 * error + 0.02


def test_agrees_with_the_closed_form_for_correlated_gaussians():
    torch.manual_seed(2)
    p = MultivariateNormal(torch.zeros(3), torch.tensor([[1.0, 0.5, 0.0], [0.5, 1.0, 0.3], [0.0, 0.3, 0.5]]))
    q = MultivariateNormal(torch.tensor([0.5, 0.0, -0.5]), torch.eye(3))
    mean, error = _repeated(p, q, n=4000, k=5, repeats=4)
    assert abs(mean - float(kl_divergence(p, q))) < 4 * error + 0.05


def test_the_first_argument_is_the_one_averaged_over():
    torch.manual_seed(3)
    p, q = 0.3 * torch.randn(3000, 2), torch.randn(3000, 2)
    exact = 2 * (math.log(1 / 0.3) + 0.09 / 2 - 0.5)
    assert abs(sample_divergence(p, q, k=5) - exact) < 0.15
    assert sample_divergence(q, p, k=5) > exact + 0.3  # 7.7 exactly, too low where the narrow set has no draws


def test_sees_a_missing_mode():
    torch.manual_seed(4)
    both = torch.randn(4000, 2) + torch.tensor([4.0, 0.0]) * torch.randn(4000, 1).sign()
    one = torch.randn(4000, 2) + torch.tensor([4.0, 0.0])
    assert sample_divergence(one, both, k=5) == pytest.approx(math.log(2), abs=0.08)


@pytest.mark.parametrize(
    ("p", "q", "k", "said"),
    [
        (torch.randn(5, 2), torch.randn(5, 3), 1, "same D"),
        (torch.randn(5), torch.randn(5), 1, "same D"),
        (torch.randn(5, 2), torch.randn(5, 2), 5, "k=5"),
        (torch.zeros(5, 2), torch.randn(5, 2), 1, "repeated"),
    ],
)
def test_refuses_what_it_cannot_answer(p, q, k, said):
    with pytest.raises(ValueError, match=said):
        sample_divergence(p, q, k=k)
