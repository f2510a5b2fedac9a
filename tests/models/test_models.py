"""Models: programs that keep the contract, and closed forms held against SciPy and Pyro."""

import inspect
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pyro
import pytest
import torch
from pyro.infer import Trace_ELBO, TraceEnum_ELBO
from scipy import stats
from torch import Tensor, nn

from aevb import guides, models
from aevb.inference.pairs.pair import Pair
from aevb.models import (
    ClusteringModel,
    ConditionalModel,
    GaussianMixture,
    HierarchicalModel,
    LatentVariableModel,
    ProbabilisticPCA,
    likelihoods,
    networks,
    priors,
)

STANDARD_ERRORS = 4.5
P, D, B, K = 6, 2, 5, 4


@pytest.fixture(autouse=True)
def _float64_and_seed():
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(torch.float32)


def decoder(in_features: int = D, num_params: int = 1) -> nn.Module:
    return networks.MLP(in_features, num_params * P, hidden=[7])


def encoder(in_features: int = P) -> nn.Module:
    return networks.MLP(in_features, hidden=[7])


def normal_guide() -> nn.Module:
    return guides.Normal(D, encoder())


LABELS = torch.tensor([0, 1, 2, -1, 0])
PAIRS: dict[str, tuple[Callable[[], nn.Module], Callable[[], nn.Module], tuple[Tensor, ...]]] = {
    "latent-variable": (
        lambda: LatentVariableModel(priors.StandardNormal(D), decoder(), likelihoods.Bernoulli()),
        normal_guide,
        (),
    ),
    "two-parameters": (
        lambda: LatentVariableModel(
            priors.LearnedNormal(D), decoder(num_params=2), likelihoods.Normal(scale="per-pixel")
        ),
        normal_guide,
        (),
    ),
    "sphere": (
        lambda: LatentVariableModel(priors.UniformSphere(D), decoder(), likelihoods.Bernoulli()),
        lambda: guides.VonMisesFisher(D, encoder()),
        (),
    ),
    "probabilistic-pca": (lambda: ProbabilisticPCA(P, D), normal_guide, ()),
    "hierarchical": (
        lambda: HierarchicalModel(D, decoder(), likelihoods.Bernoulli(), hidden=[7]),
        lambda: guides.Hierarchical(D, encoder(), hidden=[7]),
        (),
    ),
    "clustering": (
        lambda: ClusteringModel(D, decoder(), likelihoods.Bernoulli(), 3),
        normal_guide,
        (),
    ),
    "conditional": (
        lambda: ConditionalModel(priors.StandardNormal(D), decoder(D + 3), likelihoods.Bernoulli(), 3),
        lambda: guides.ConditionalNormal(D, encoder(P + 3), 3),
        (LABELS,),
    ),
    "summed-labels": (
        lambda: ConditionalModel(priors.ClassConditional(D, 3), decoder(D + 3), likelihoods.Bernoulli(), 3, "sum"),
        lambda: guides.ConditionalNormal(D, encoder(P + 3), 3),
        (LABELS,),
    ),
    "class-conditional-prior": (
        lambda: ConditionalModel(priors.ClassConditional(D, 3), decoder(D + 3), likelihoods.Bernoulli(), 3),
        lambda: guides.ConditionalNormal(D, encoder(P + 3), 3),
        (LABELS,),
    ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_pair_keeps_the_contract_and_trains_every_parameter(name):
    make_model, make_guide, more = PAIRS[name]
    model, guide = make_model(), make_guide()
    data = (torch.rand(B, P), *more)
    pair = Pair(model, guide).check(data)
    cloud = pair.cloud(data, num_samples=K)
    assert cloud.log_weight.shape == (K, B) and cloud.log_weight.isfinite().all()
    cloud.log_weight.mean().backward()
    for block in (model, guide):
        for parameter, value in block.named_parameters():
            assert value.grad is not None and value.grad.isfinite().all(), parameter
            assert value.grad.abs().max() > 0, parameter


@pytest.mark.parametrize("name", PAIRS)
def test_datapoints_are_independent_in_the_model(name):
    """Permuting the batch permutes the log-joint; a datapoint alone has the same."""
    make_model, make_guide, more = PAIRS[name]
    data = (torch.rand(B, P), *more)
    pair = Pair(make_model(), make_guide()).check(data)
    z = pair.sample_guide(data, K)
    log_joint = pair.log_joint(z, data)
    order = torch.tensor([3, 0, 4, 1, 2])
    moved = {site: value[:, order] for site, value in z.items()}
    permuted = pair.log_joint(moved, tuple(part[order] for part in data))
    torch.testing.assert_close(permuted, log_joint[:, order])


@pytest.mark.parametrize("name", [n for n in models.__all__ if n[0].isupper()])
def test_every_model_names_its_source(name):
    doc = inspect.getdoc(getattr(models, name))
    assert "References:" in doc and "Example:" in doc


# --------------------------------------------------------------- LatentVariableModel


@pytest.mark.parametrize("width", [1, P - 1, 2 * P])
def test_decoder_of_the_wrong_width_is_named_with_the_mend(width):
    model = LatentVariableModel(priors.StandardNormal(D), nn.Linear(D, width), likelihoods.Bernoulli())
    message = f"decoder: expected an output of {P} columns.*Bernoulli.*num_params = 1.*got {width}.*out_features={P}"
    with pytest.raises(ValueError, match=message):
        model(torch.rand(B, P))


def test_log_joint_is_the_programs():
    model = LatentVariableModel(priors.Laplace(D), decoder(), likelihoods.Bernoulli())
    x, z = torch.rand(B, P), torch.randn(K, B, D)
    pair = Pair(model, normal_guide()).check(x)
    torch.testing.assert_close(model.log_joint(z, x), pair.log_joint({"z": z}, x))


def test_missing_entries_leave_the_likelihood():
    model = LatentVariableModel(priors.StandardNormal(D), decoder(), likelihoods.Bernoulli(), missing=True)
    x, z = torch.rand(B, P), torch.randn(K, B, D)
    x[0, :3], x[2] = torch.nan, torch.nan
    observed = ~x.isnan()
    pixels = likelihoods.Bernoulli()(model.decoder(z)).base_dist.log_prob(x.nan_to_num())
    expected = model.prior().log_prob(z) + torch.where(observed, pixels, 0).sum(-1)
    torch.testing.assert_close(model.log_joint(z, x), expected)
    model.log_joint(z, x).sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_missing_program_with_the_masked_guide():
    model = LatentVariableModel(
        priors.StandardNormal(D),
        decoder(num_params=2),
        likelihoods.Normal(scale="per-pixel"),
        missing=True,
    )
    guide = guides.MaskedNormal(D, encoder(2 * P))
    x = torch.randn(B, P)
    x[torch.rand(B, P) < 0.4] = torch.nan
    loss = Trace_ELBO().differentiable_loss(model, guide, x)
    loss.backward()
    assert loss.isfinite()
    for parameter in (*model.parameters(), *guide.parameters()):
        assert parameter.grad.isfinite().all()


def test_placeholder_of_a_missing_entry_lies_in_the_support():
    """Zero is no value of a gamma variable: the check of the pair would refuse it."""
    likelihood = likelihoods.Gamma()
    net = decoder(num_params=likelihood.num_params)
    model = LatentVariableModel(priors.StandardNormal(D), net, likelihood, missing=True)
    x = 1 + torch.rand(B, P)
    x[0, 0], x[3] = torch.nan, torch.nan
    pair = Pair(model, guides.MaskedNormal(D, encoder(2 * P))).check(x)
    assert pair.cloud(x, num_samples=K).log_weight.isfinite().all()


def test_missing_needs_a_likelihood_that_factorises():
    class Correlated(nn.Module):
        num_params = 1

        def forward(self, h: Tensor) -> Any:
            return torch.distributions.MultivariateNormal(h, torch.eye(P))

    model = LatentVariableModel(priors.StandardNormal(D), decoder(), Correlated(), missing=True)
    with pytest.raises(ValueError, match="likelihood: expected a distribution that factorises"):
        model(torch.rand(B, P))


def test_complete_data_are_the_same_with_and_without_missing():
    blocks = (priors.StandardNormal(D), decoder(), likelihoods.Bernoulli())
    x, z = torch.rand(B, P), torch.randn(K, B, D)
    torch.testing.assert_close(
        LatentVariableModel(*blocks, missing=True).log_joint(z, x),
        LatentVariableModel(*blocks).log_joint(z, x),
    )


# --------------------------------------------------------------- probabilistic PCA


def ppca() -> ProbabilisticPCA:
    model = ProbabilisticPCA(P, D)
    with torch.no_grad():
        model.mean.normal_()
        model.log_scale.fill_(-0.7)
    return model


def test_ppca_evidence_is_scipys_normal():
    model = ppca()
    x = 2 * torch.randn(B, P)
    with torch.no_grad():
        covariance = model.weight @ model.weight.mT + torch.eye(P) * (2 * model.log_scale).exp()
        expected = stats.multivariate_normal(model.mean, covariance).logpdf(x)
        np.testing.assert_allclose(model.log_evidence(x), expected, rtol=1e-10)


def test_ppca_posterior_satisfies_bayes_rule_everywhere():
    model = ppca()
    x, z = torch.randn(B, P), torch.randn(K, B, D)
    posterior = model.log_joint(z, x) - model.posterior(x).log_prob(z)
    torch.testing.assert_close(posterior, model.log_evidence(x).expand(K, B))
    program = Pair(model, normal_guide()).check(x).log_joint({"z": z}, x)
    torch.testing.assert_close(program, model.log_joint(z, x))


def test_ppca_maximum_likelihood_is_a_maximum():
    x = ppca().simulate(300)
    best = ProbabilisticPCA.maximum_likelihood(x, D)
    best.log_evidence(x).mean().backward()
    for name, parameter in best.named_parameters():
        assert parameter.grad.abs().max() < 1e-10, name
    height = best.log_evidence(x).mean().detach()
    for _ in range(20):
        other = ProbabilisticPCA.maximum_likelihood(x, D)
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
            assert other.log_evidence(x).mean() < height


def test_ppca_maximum_likelihood_agrees_with_scikit_learn():
    from sklearn.decomposition import PCA

    x = ppca().simulate(200)
    x = x - x.mean(0)
    with torch.no_grad():
        ours = ProbabilisticPCA.maximum_likelihood(x, D)
        reference = PCA(D).fit(x.numpy())
        # scikit-learn divides the covariance by N - 1; ours, the maximum, by N.
        variance = float((2 * ours.log_scale).exp()) * 200 / 199
        assert variance == pytest.approx(reference.noise_variance_)
        assert ours.log_evidence(x).mean() >= reference.score(x.numpy())
        spans = torch.linalg.svdvals(torch.linalg.qr(ours.weight).Q.mT @ torch.tensor(reference.components_).mT)
    torch.testing.assert_close(spans, torch.ones(D))


def test_ppca_simulates_its_own_covariance():
    model = ppca()
    n = 20000
    x = model.simulate(n)
    with torch.no_grad():
        covariance = model.weight @ model.weight.mT + torch.eye(P) * (2 * model.log_scale).exp()
    centred = x - model.mean.detach()
    error = ((centred.mT @ centred) / n - covariance).abs()
    diagonal = covariance.diagonal()
    standard_error = ((covariance**2 + diagonal[:, None] * diagonal) / n).sqrt()
    assert (error < STANDARD_ERRORS * standard_error).all()


def test_ppca_keeps_the_precision_of_the_data():
    x = torch.randn(50, P, dtype=torch.float32)
    model = ProbabilisticPCA.maximum_likelihood(x, D)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert model.posterior(x).mean.dtype == torch.float32


@pytest.mark.parametrize("latent_dim", [0, P, P + 1])
def test_ppca_needs_fewer_components_than_dimensions(latent_dim):
    with pytest.raises(ValueError, match=f"latent_dim: expected 1 to {P - 1}.*got {latent_dim}"):
        ProbabilisticPCA.maximum_likelihood(torch.randn(50, P), latent_dim)


def test_ppca_refuses_data_without_noise():
    x = torch.randn(50, D) @ torch.randn(D, P)
    with pytest.raises(ValueError, match="no variance beyond them"):
        ProbabilisticPCA.maximum_likelihood(x, D)


# --------------------------------------------------------------- mixtures


def mixture() -> GaussianMixture:
    model = GaussianMixture(2, num_components=3)
    with torch.no_grad():
        model.logits.normal_()
        model.means.mul_(3)
        model.log_scales.normal_(std=0.3)
    return model


def test_mixture_evidence_is_scipys_sum():
    model = mixture()
    x = 3 * torch.randn(B, 2)
    with torch.no_grad():
        weights, scales = model.logits.softmax(-1), model.log_scales.exp()
        density = sum(
            float(w) * stats.multivariate_normal(m, np.diag(s**2)).pdf(x)
            for w, m, s in zip(weights, model.means, scales.numpy(), strict=True)
        )
        np.testing.assert_allclose(model.log_evidence(x), np.log(density), rtol=1e-10)


def test_mixture_evidence_is_pyros_enumeration():
    model = mixture()
    x = 3 * torch.randn(B, 2)
    loss = TraceEnum_ELBO(max_plate_nesting=1).loss(model, lambda x: None, x)
    assert loss == pytest.approx(-float(model.log_evidence(x).sum().detach()))


def test_mixture_posterior_and_simulation():
    model = mixture()
    x = model.simulate(4000)
    probabilities = model.posterior(x).probs.detach()
    weights = model.logits.softmax(-1).detach()
    error = probabilities.std(0) / len(x) ** 0.5
    assert ((probabilities.mean(0) - weights).abs() < STANDARD_ERRORS * error).all()


def test_expectation_maximization_climbs_to_a_stationary_point():
    x = mixture().simulate(400)
    model = mixture()
    heights = []
    for _ in range(1000):
        heights.append(float(model.log_evidence(x).mean().detach()))
        model.maximize(x, model.posterior(x).probs.detach())
    assert all(after >= before - 1e-10 for before, after in zip(heights, heights[1:], strict=False))
    assert heights[-1] > heights[0]
    model.log_evidence(x).mean().backward()
    assert all(p.grad.abs().max() < 1e-3 for p in model.parameters())


def test_mixture_step_agrees_with_scikit_learn():
    from sklearn.mixture import GaussianMixture as Reference

    x = mixture().simulate(200)
    model = mixture()
    with torch.no_grad():
        reference = Reference(
            3,
            covariance_type="diag",
            max_iter=1,
            tol=0.0,
            reg_covar=0.0,
            weights_init=model.logits.softmax(-1).numpy(),
            means_init=model.means.numpy(),
            precisions_init=(-2 * model.log_scales).exp().numpy(),
        )
        with pytest.warns(Warning, match="did not converge"):
            reference.fit(x.numpy())
        model.maximize(x, model.posterior(x).probs)
        np.testing.assert_allclose(model.means, reference.means_, rtol=1e-6)
        np.testing.assert_allclose(model.logits.softmax(-1), reference.weights_, rtol=1e-6)
        variances = (2 * model.log_scales).exp()
        np.testing.assert_allclose(variances, reference.covariances_, rtol=1e-5)


def test_collapsing_component_keeps_a_least_scale():
    model = GaussianMixture(2, num_components=2)
    x = torch.randn(10, 2)
    only = nn.functional.one_hot(torch.tensor([0] + [1] * 9), 2).double()
    model.maximize(x, only, min_scale=0.1)
    torch.testing.assert_close(model.log_scales[0].exp(), torch.full((2,), 0.1))
    torch.testing.assert_close(model.means[0], x[0])
    empty = torch.zeros(10, 2)
    empty[:, 1] = 1
    model.maximize(x, empty)
    assert all(p.isfinite().all() for p in model.parameters())


def test_clustering_model_recovers_the_cluster_of_a_latent():
    model = ClusteringModel(D, decoder(), likelihoods.Bernoulli(), num_components=3)
    with torch.no_grad():
        model.prior.means.copy_(20 * torch.tensor([[1.0, 0], [0, 1], [-1, -1]]))
    near = model.prior.means.detach() + torch.randn(3, D)
    torch.testing.assert_close(model.responsibilities(near), torch.eye(3))
    for make in (GaussianMixture, lambda d, c: ClusteringModel(d, decoder(), None, c)):
        with pytest.raises(ValueError, match="num_components: expected at least 1; got 0"):
            make(2, 0)


# --------------------------------------------------------------- labels and layers


def test_conditional_model_uses_the_label():
    model = ConditionalModel(priors.StandardNormal(D), decoder(D + 3), likelihoods.Bernoulli(), num_classes=3)
    x = torch.rand(1, P).expand(4, P)
    z = {"z": torch.zeros(1, 4, D)}
    y = torch.tensor([0, 1, 2, -1])
    guide = guides.ConditionalNormal(D, encoder(P + 3), 3)
    log_joint = Pair(model, guide).check((x, y)).log_joint(z, (x, y))[0]
    assert len(set(log_joint.tolist())) == 4
    code = torch.cat([torch.zeros(4, D), torch.eye(4, 3)], -1)
    expected = likelihoods.Bernoulli()(model.decoder(code)).log_prob(x)
    prior = -D / 2 * math.log(2 * math.pi)
    torch.testing.assert_close(log_joint, expected + prior)


@pytest.mark.parametrize("bad", [torch.tensor([3]), torch.tensor([-2]), torch.tensor([0.0])])
def test_conditional_model_refuses_what_is_no_label(bad):
    model = ConditionalModel(priors.StandardNormal(D), decoder(D + 3), likelihoods.Bernoulli(), 3)
    with pytest.raises(ValueError, match="y: expected"):
        model(torch.rand(1, P), bad)


def _linear_classes(takes_label: bool) -> ConditionalModel:
    """x = W z + V e_y + noise, where p(x) is a mixture of three normals."""
    prior = priors.ClassConditional(D, 3) if takes_label else priors.StandardNormal(D)
    model = ConditionalModel(prior, nn.Linear(D + 3, P), likelihoods.Normal(scale=0.7), 3, unlabelled="sum")
    with torch.no_grad():
        model.decoder.weight[:, D:].mul_(6)
        if takes_label:
            prior.means.normal_()
            prior.log_scales.normal_(std=0.2)
    return model


@pytest.mark.parametrize("takes_label", [False, True], ids=["one prior", "a prior a class"])
def test_withheld_labels_are_summed_out_exactly(takes_label):
    """Against the closed form by enumeration: log p(x|y) where y is known, log 1/3 sum_y p(x|y) where it is not."""
    model = _linear_classes(takes_label)
    y = torch.tensor([0, 1, 2, -1, -1, -1])
    x = torch.randn(6, P)
    weight, shift = model.decoder.weight[:, :D], model.decoder.weight[:, D:].mT + model.decoder.bias
    mean, scale = torch.zeros(3, D), torch.ones(3, D)
    if takes_label:
        mean, scale = model.prior.means[:3], model.prior.log_scales[:3].exp()
    cov = (weight * scale.square().unsqueeze(-2)) @ weight.mT + 0.49 * torch.eye(P)
    each = torch.distributions.MultivariateNormal(mean @ weight.mT + shift, cov).log_prob(x.unsqueeze(-2)).detach()
    expected = torch.where(y < 0, each.logsumexp(-1) - math.log(3), each.gather(-1, y.clamp(min=0)[:, None])[:, 0])
    n = 200_000
    z = 2.0 * torch.randn(n, 1, D)  # a wide proposal, the same for all
    log_q = torch.distributions.Normal(0.0, 2.0).log_prob(z).sum(-1)
    with torch.no_grad():
        guide = guides.ConditionalNormal(D, encoder(P + 3), 3)
        log_joint = Pair(model, guide).check((x, y)).log_joint({"z": z.expand(n, 6, D)}, (x, y))
    weights = (log_joint - log_q - expected).exp()
    error = weights.std(0) / n**0.5
    assert (error < 0.03).all()
    assert ((weights.mean(0) - 1).abs() < STANDARD_ERRORS * error).all()


def test_the_class_of_a_datapoint_comes_back_by_bayes_rule():
    model = _linear_classes(takes_label=False)
    x, z = torch.randn(B, P), torch.randn(K, B, D)
    each = []
    for c in range(3):
        code = torch.cat([z, torch.eye(3)[c].expand(K, B, 3)], -1)
        each.append(model.likelihood(model.decoder(code)).log_prob(x))
    torch.testing.assert_close(model.classify(x, z), torch.stack(each, -1).softmax(-1))
    with pytest.raises(ValueError, match="unlabelled: expected"):
        ConditionalModel(priors.StandardNormal(D), decoder(D + 3), likelihoods.Bernoulli(), 3, unlabelled="guess")


def test_clusters_whose_labels_are_partly_missing():
    model = ClusteringModel(D, decoder(), likelihoods.Bernoulli(), num_components=3)
    y, z, x = torch.tensor([0, 2, -1]), torch.randn(K, 3, D), torch.rand(3, P)
    pair = Pair(model, guides.ConditionalNormal(D, encoder(P + 3), 3)).check((x, y))
    log_prior, _ = pair.log_densities({"z": z}, (x, y))
    each = model.prior.components().log_prob(z.unsqueeze(-2))
    torch.testing.assert_close(log_prior[:, 0], each[:, 0, 0])
    torch.testing.assert_close(log_prior[:, 1], each[:, 1, 2])
    torch.testing.assert_close(log_prior[:, 2], model.prior().log_prob(z[:, 2]))
    pair.log_joint({"z": z}, (x, y)).sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_hierarchical_log_joint_is_the_product_of_its_layers():
    model = HierarchicalModel(3, decoder(3), likelihoods.Bernoulli(), top_dim=2, hidden=[7])
    x = torch.rand(B, P)
    z = {"z2": torch.randn(K, B, 2), "z1": torch.randn(K, B, 3)}
    mean, log_scale = model.middle(z["z2"]).chunk(2, -1)
    normal: Any = torch.distributions.Normal
    expected = (
        normal(0.0, 1.0).log_prob(z["z2"]).sum(-1)
        + normal(mean, log_scale.exp()).log_prob(z["z1"]).sum(-1)
        + likelihoods.Bernoulli()(model.decoder(z["z1"])).log_prob(x)
    )
    guide = guides.Hierarchical(3, encoder(), top_dim=2, hidden=[7])
    torch.testing.assert_close(Pair(model, guide).check(x).log_joint(z, x), expected)


def test_programs_leave_the_global_store_alone():
    for make_model, make_guide, more in PAIRS.values():
        data = (torch.rand(B, P), *more)
        make_model()(*data)
        make_guide()(*data)
    assert not list(pyro.get_param_store())
