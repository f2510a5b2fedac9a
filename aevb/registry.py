"""Everything that can be asked for by name, in one list a kind.

A new prior, likelihood, guide, network, objective or estimator is one file and one line here. The entries are import
paths, so that the command can name its choices without importing torch.
"""

import inspect
from importlib import import_module
from typing import Any

__all__ = ["KINDS", "UnknownNameError", "citation", "find", "summary"]

MODELS = {
    "latent-variable": "aevb.models:LatentVariableModel",
    "hierarchical": "aevb.models:HierarchicalModel",
    "conditional": "aevb.models:ConditionalModel",
    "clustering": "aevb.models:ClusteringModel",
}
PRIORS = {
    "standard-normal": "aevb.models.priors:StandardNormal",
    "learned-normal": "aevb.models.priors:LearnedNormal",
    "laplace": "aevb.models.priors:Laplace",
    "student-t": "aevb.models.priors:StudentT",
    "mixture-of-gaussians": "aevb.models.priors:MixtureOfGaussians",
    "vamp-prior": "aevb.models.priors:VampPrior",
    "flow": "aevb.models.priors:Flow",
    "uniform-sphere": "aevb.models.priors:UniformSphere",
    "dirichlet": "aevb.models.priors:Dirichlet",
    "logistic-normal": "aevb.models.priors:LogisticNormal",
    "relaxed-categorical": "aevb.models.priors:RelaxedCategorical",
    "class-conditional": "aevb.models.priors:ClassConditional",
}
LIKELIHOODS = {
    "bernoulli": "aevb.models.likelihoods:Bernoulli",
    "continuous-bernoulli": "aevb.models.likelihoods:ContinuousBernoulli",
    "beta": "aevb.models.likelihoods:Beta",
    "normal": "aevb.models.likelihoods:Normal",
    "laplace": "aevb.models.likelihoods:Laplace",
    "student-t": "aevb.models.likelihoods:StudentT",
    "log-normal": "aevb.models.likelihoods:LogNormal",
    "gamma": "aevb.models.likelihoods:Gamma",
    "poisson": "aevb.models.likelihoods:Poisson",
    "negative-binomial": "aevb.models.likelihoods:NegativeBinomial",
    "zero-inflated-poisson": "aevb.models.likelihoods:ZeroInflatedPoisson",
    "zero-inflated-negative-binomial": "aevb.models.likelihoods:ZeroInflatedNegativeBinomial",
    "categorical": "aevb.models.likelihoods:Categorical",
    "discretized-logistic": "aevb.models.likelihoods:DiscretizedLogistic",
    "discretized-logistic-mixture": "aevb.models.likelihoods:DiscretizedLogisticMixture",
}
GUIDES = {
    "normal": "aevb.guides:Normal",
    "full-covariance-normal": "aevb.guides:FullCovarianceNormal",
    "low-rank-normal": "aevb.guides:LowRankNormal",
    "flow": "aevb.guides:Flow",
    "batch-norm-normal": "aevb.guides:BatchNormNormal",
    "minimum-rate-normal": "aevb.guides:MinimumRateNormal",
    "semi-amortized": "aevb.guides:SemiAmortized",
    "von-mises-fisher": "aevb.guides:VonMisesFisher",
    "power-spherical": "aevb.guides:PowerSpherical",
    "dirichlet": "aevb.guides:Dirichlet",
    "logistic-normal": "aevb.guides:LogisticNormal",
    "relaxed-categorical": "aevb.guides:RelaxedCategorical",
    "masked-normal": "aevb.guides:MaskedNormal",
    "mean-field": "aevb.guides:MeanField",
    "conditional-normal": "aevb.guides:ConditionalNormal",
    "hierarchical": "aevb.guides:Hierarchical",
    "implicit": "aevb.guides:ConcatenatedNoise",
    "noise-basis": "aevb.guides:NoiseBasis",
}
ENCODERS = {
    "mlp": "aevb.models.networks:MLP",
    "residual-mlp": "aevb.models.networks:ResidualMLP",
    "gated-mlp": "aevb.models.networks:GatedMLP",
    "conv": "aevb.models.networks:ConvEncoder",
}
DECODERS = {
    "mlp": "aevb.models.networks:MLP",
    "residual-mlp": "aevb.models.networks:ResidualMLP",
    "gated-mlp": "aevb.models.networks:GatedMLP",
    "conv": "aevb.models.networks:ConvDecoder",
}
OBJECTIVES = {
    "sgvb": "aevb.inference.objectives:SGVB",
    "wake-sleep": "aevb.inference.objectives:WakeSleep",
    "mcem": "aevb.inference.objectives:MCEM",
    "iwae": "aevb.inference.objectives:IWAE",
    "renyi": "aevb.inference.objectives:Renyi",
    "sticking-the-landing": "aevb.inference.objectives:StickingTheLanding",
    "dreg": "aevb.inference.objectives:DReG",
    "tail-adaptive": "aevb.inference.objectives:TailAdaptive",
    "reweighted-wake-sleep": "aevb.inference.objectives:ReweightedWakeSleep",
    "kl-annealing": "aevb.inference.objectives:KLAnnealing",
    "free-bits": "aevb.inference.objectives:FreeBits",
    "full-vb": "aevb.inference.objectives:FullVB",
    "avb": "aevb.inference.objectives:AdversarialVB",
}
EVIDENCE = {
    "elbo": "aevb.inference.evidence:ELBO",
    "importance": "aevb.inference.evidence:ImportanceSampling",
    "psis": "aevb.inference.evidence:ParetoSmoothedImportanceSampling",
    "ais": "aevb.inference.evidence:AnnealedImportanceSampling",
    "bdmc": "aevb.inference.evidence:BidirectionalMonteCarlo",
    "density-fit": "aevb.inference.evidence:DensityFit",
    "exact": "aevb.inference.evidence:Exact",
    "quadrature": "aevb.inference.evidence:Quadrature",
}
OPTIMIZERS = {
    "adam": "torch.optim:Adam",
    "adagrad": "torch.optim:Adagrad",
    "adamw": "torch.optim:AdamW",
    "rmsprop": "torch.optim:RMSprop",
    "sgd": "torch.optim:SGD",
}

KINDS: dict[str, dict[str, str]] = {
    "models": MODELS,
    "priors": PRIORS,
    "likelihoods": LIKELIHOODS,
    "guides": GUIDES,
    "encoders": ENCODERS,
    "decoders": DECODERS,
    "objectives": OBJECTIVES,
    "evidence": EVIDENCE,
    "optimizers": OPTIMIZERS,
}


class UnknownNameError(ValueError):
    """Nothing of that name is known; the message lists what is."""


def find(kind: str, name: str) -> Any:
    """Return the class registered under a name.

    Args:
        kind: One of :data:`KINDS`, e.g. ``"priors"``.
        name: The name as typed, e.g. ``"standard-normal"``.

    Raises:
        UnknownNameError: No such name; the message lists the known ones.

    Example:
        >>> find("objectives", "sgvb").__name__
        'SGVB'
    """
    known = KINDS[kind]
    if name not in known:
        one = kind if kind == "evidence" else kind.removesuffix("s")
        raise UnknownNameError(f"unknown {one} {name!r}; known: {', '.join(known)}.")
    module, _, attribute = known[name].partition(":")
    return getattr(import_module(module), attribute)


def summary(thing: Any) -> str:
    """The first line of a class's docstring."""
    return (inspect.getdoc(thing) or "").partition("\n")[0]


def citation(thing: Any) -> str:
    """The first entry of a class's "References" section, or nothing."""
    doc = inspect.getdoc(thing) or ""
    _, found, after = doc.partition("References:")
    if not found:
        return ""
    lines = [line.strip() for line in after.strip().splitlines()]
    return " ".join(line for line in lines[:3] if line).split("; ")[0].split("https://")[0].rstrip(" ,.;")
