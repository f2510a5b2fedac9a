"""Figures: pure functions from arrays to a matplotlib Figure, with no window and no global state."""

from .calibration import rank_ecdf, rank_histograms
from .canvas import AXIS_TITLES, CLASSES, PALETTE, save
from .forest import evidence_forest
from .learning import curves
from .microscope import gradient_noise
from .pictures import image_grid, manifold, reconstructions
from .scatter import latent_scatter
from .weights import khat_histogram, weight_concentration
from .worst_inferred import worst_inferred

__all__ = [
    "AXIS_TITLES",
    "CLASSES",
    "PALETTE",
    "curves",
    "evidence_forest",
    "gradient_noise",
    "image_grid",
    "khat_histogram",
    "latent_scatter",
    "manifold",
    "rank_ecdf",
    "rank_histograms",
    "reconstructions",
    "save",
    "weight_concentration",
    "worst_inferred",
]
