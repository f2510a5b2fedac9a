"""Everything that is done with a model/guide pair: training, evidence, chains, diagnostics.

This room knows Pyro programs, not this library's own blocks: it imports neither models nor guides.
"""

from .arviz_export import guide_draws, hmc_draws
from .arviz_plots import plot_khat, plot_ppc
from .calibration import Calibration, HMCSampler, simulation_based_calibration
from .diagnosis import NonFiniteError
from .diagnostics import Usage, latent_usage
from .doctor import Finding, doctor
from .early_stopping import EarlyStopping
from .elbo_surgery import Surgery, elbo_surgery
from .evidence import log_evidence
from .gaps import Gaps, gaps
from .leave_one_out import loo
from .many import fit_many
from .microscope import gradient_microscope
from .model_check import ModelCheck, check_model
from .model_comparison import compare
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
from .pair import Cloud, ContractError, Pair
from .refine import Refined, refine
from .run import Run, load
from .sample_divergence import sample_divergence
from .trainer import Fit, fit
from .verdict import Verdict, verdict

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
