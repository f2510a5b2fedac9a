"""Everything that is done with a model/guide pair: training, evidence, chains, diagnostics.

This room knows Pyro programs, not this library's own blocks: it imports neither models nor guides.
"""

from .diagnostics.arviz_plots import plot_khat, plot_ppc
from .diagnostics.calibration import Calibration, HMCSampler, simulation_based_calibration
from .diagnostics.doctor import Finding, doctor
from .diagnostics.elbo_surgery import Surgery, elbo_surgery
from .diagnostics.gradient_noise import gradient_microscope
from .diagnostics.inference_gaps import Gaps, gaps
from .diagnostics.latent_usage import Usage, latent_usage
from .diagnostics.leave_one_out import loo
from .diagnostics.model_check import ModelCheck, check_model
from .diagnostics.model_comparison import compare
from .diagnostics.refine import Refined, refine
from .diagnostics.sample_divergence import sample_divergence
from .diagnostics.verdict import Verdict, verdict
from .evidence import log_evidence
from .objectives import (
    EM,
    IWAE,
    MAP,
    MCEM,
    SGVB,
    AdversarialVB,
    DReG,
    FreeBits,
    FullVB,
    KLAnnealing,
    PyroELBO,
    Renyi,
    ReweightedWakeSleep,
    StickingTheLanding,
    TailAdaptive,
    WakeSleep,
)
from .pairs.pair import Pair
from .pairs.sites import Cloud, ContractError
from .posterior.arviz_export import guide_draws, hmc_draws
from .training.many import fit_many
from .training.non_finite import NonFiniteError
from .training.observers import EarlyStopping
from .training.run import Run, load
from .training.trainer import Fit, fit

__all__ = [
    "EM",
    "IWAE",
    "DReG",
    "FreeBits",
    "FullVB",
    "KLAnnealing",
    "Renyi",
    "ReweightedWakeSleep",
    "StickingTheLanding",
    "TailAdaptive",
    "Calibration",
    "HMCSampler",
    "simulation_based_calibration",
    "Usage",
    "latent_usage",
    "Finding",
    "doctor",
    "Surgery",
    "elbo_surgery",
    "fit_many",
    "gradient_microscope",
    "compare",
    "Gaps",
    "ModelCheck",
    "check_model",
    "Verdict",
    "verdict",
    "gaps",
    "Refined",
    "refine",
    "MAP",
    "MCEM",
    "SGVB",
    "AdversarialVB",
    "Cloud",
    "ContractError",
    "EarlyStopping",
    "Fit",
    "NonFiniteError",
    "Pair",
    "PyroELBO",
    "Run",
    "WakeSleep",
    "fit",
    "guide_draws",
    "hmc_draws",
    "load",
    "log_evidence",
    "loo",
    "plot_khat",
    "plot_ppc",
    "sample_divergence",
]
