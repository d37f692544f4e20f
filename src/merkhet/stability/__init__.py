"""How far representations move under translations, rotations, scalings and deformations.

Source: A. Bietti, J. Mairal, "Group Invariance, Stability to Deformations, and Complexity of
Deep Convolutional Representations", JMLR 2019 (arXiv 1706.03078).
"""

from merkhet.stability.bounds import gaussian_gap_bound, pooling_gap
from merkhet.stability.curves import StabilityCurve
from merkhet.stability.distances import (
    Estimate,
    Yardsticks,
    measure_yardsticks,
    relative_distances,
)
from merkhet.stability.equivariance import equivariance_error, invariance_error
from merkhet.stability.kinds import Conditions, deformed
from merkhet.stability.layers import Layer
from merkhet.stability.measure import stability_curve, stability_curves
from merkhet.stability.pictures import plot_curves, plot_deformations

__all__ = [
    "Conditions",
    "Estimate",
    "Layer",
    "StabilityCurve",
    "Yardsticks",
    "deformed",
    "equivariance_error",
    "gaussian_gap_bound",
    "invariance_error",
    "measure_yardsticks",
    "plot_curves",
    "plot_deformations",
    "pooling_gap",
    "relative_distances",
    "stability_curve",
    "stability_curves",
]
