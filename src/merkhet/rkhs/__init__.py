"""Brackets, penalties and certificates for the variation and the norm of any network.

Source: A. Bietti, G. Mialon, D. Chen, J. Mairal, "A Kernel Perspective for Regularizing Deep
Neural Networks", ICML 2019 (arXiv 1810.00363).
"""

from merkhet.rkhs.adversarial import AdversarialPenalty
from merkhet.rkhs.attacks import PGD, Attack, Noise
from merkhet.rkhs.bracket import Bracket, lipschitz
from merkhet.rkhs.certificates import (
    certified_accuracy,
    certified_radius,
    margins,
    normalised_margins,
)
from merkhet.rkhs.certified import CertifiedNorm, certified_norm
from merkhet.rkhs.constraint import SpectralConstraint
from merkhet.rkhs.decaying import decaying
from merkhet.rkhs.deformation import DeformationPenalty, TangentPenalty
from merkhet.rkhs.estimators import PAPER, Recipe, train_classifier
from merkhet.rkhs.expressions import describe, parse_penalty
from merkhet.rkhs.gradient import GradientPenalty
from merkhet.rkhs.loss_based import AdversarialLoss, LossGradientPenalty
from merkhet.rkhs.margin_bound import MarginBound, margin_bound
from merkhet.rkhs.masking import MaskingWarning
from merkhet.rkhs.operator_norm import operator_norm
from merkhet.rkhs.penalty import Penalty, regularised_loss
from merkhet.rkhs.pictures import plot_accuracy, plot_bracket, plot_flips
from merkhet.rkhs.rkhs_norm import NormBracket, interpolation_norm, rkhs_norm
from merkhet.rkhs.robustness import evaluate_robustness
from merkhet.rkhs.robustness_result import Robustness
from merkhet.rkhs.rules_state import Part
from merkhet.rkhs.smallest_flips import Flips, smallest_flips
from merkhet.rkhs.spectral import SpectralPenalty, spectral_norms
from merkhet.rkhs.toolbox import APGD, Square
from merkhet.rkhs.variation import (
    adversarial_ratio,
    deformation_ratio,
    gradient_norms,
    tangent_ratio,
)

__all__ = [
    "APGD",
    "PAPER",
    "PGD",
    "AdversarialLoss",
    "AdversarialPenalty",
    "Attack",
    "Bracket",
    "CertifiedNorm",
    "DeformationPenalty",
    "Flips",
    "GradientPenalty",
    "LossGradientPenalty",
    "MarginBound",
    "MaskingWarning",
    "Noise",
    "NormBracket",
    "Part",
    "Penalty",
    "Recipe",
    "Robustness",
    "SpectralConstraint",
    "SpectralPenalty",
    "Square",
    "TangentPenalty",
    "adversarial_ratio",
    "certified_accuracy",
    "certified_norm",
    "certified_radius",
    "decaying",
    "deformation_ratio",
    "describe",
    "evaluate_robustness",
    "gradient_norms",
    "interpolation_norm",
    "lipschitz",
    "margin_bound",
    "margins",
    "normalised_margins",
    "operator_norm",
    "parse_penalty",
    "plot_accuracy",
    "plot_bracket",
    "plot_flips",
    "regularised_loss",
    "rkhs_norm",
    "smallest_flips",
    "spectral_norms",
    "tangent_ratio",
    "train_classifier",
]
