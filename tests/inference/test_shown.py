"""What a person sees who types a name at a prompt: a sentence with its numbers, never a wall of tensors."""

import sys

import pyro
import pyro.distributions as dist
import pytest
import torch

from aevb.inference import Pair, elbo_surgery, fit, gaps, log_evidence, refine, verdict
from aevb.inference.evidence import ELBO, Exact, ImportanceSampling

X = torch.linspace(-2.0, 2.0, 6, dtype=torch.float64)


def model(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x / 2, pyro.param("scale", x.new_tensor(0.7))))


@pytest.fixture(scope="module")
def run():
    return fit(model, guide, X, steps=200, progress=False)


def test_a_run_says_what_it_spent_and_where_it_stands(run):
    assert repr(run).startswith("Run(SGVB(")
    assert f"{run.settings['steps']:,} steps" in repr(run) and f"bound {run.rows[-1]['bound']:.3f} nats" in repr(run)
    assert len(repr(run)) < 200


def test_evidence_says_direction_error_and_doubt():
    found = log_evidence(model, guide, X, ImportanceSampling(100))
    said = repr(found)
    assert f"{found.mean:.4g} +- {found.standard_error:.2g} nats" in said and "lower bound" in said
    assert "k-hat over 0.50 on 0%" in said
    assert "exact" in repr(log_evidence(model, guide, X, Exact()))


def test_diagnoses_say_their_sentences(run):
    pair = Pair(run.model, run.guide).check(X)
    lost, better, parts = gaps(pair, X, num_steps=20), refine(pair, X, num_steps=20), elbo_surgery(pair, X)
    assert lost.sentence in repr(lost) and better.sentence in repr(better) and parts.sentence in repr(parts)


def test_a_verdict_is_its_sentences(monkeypatch, run):
    module = sys.modules["aevb.inference.diagnostics.verdict"]
    monkeypatch.setattr(module, "QUESTIONS", {"one": lambda case: "An answer."})
    found = verdict(run, X, {"elbo": ELBO(10)})
    assert str(found).splitlines()[0] == "Verdict:" and all(sentence in str(found) for sentence in found.sentences)
    assert "An answer." in str(found) and "tensor" not in str(found)
