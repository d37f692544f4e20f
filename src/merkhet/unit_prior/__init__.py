"""What a prior on weights says about every unit of a network."""

from merkhet.unit_prior.activations import Activation
from merkhet.unit_prior.analysis import Analysis
from merkhet.unit_prior.analyze import analyze
from merkhet.unit_prior.answer import Answer
from merkhet.unit_prior.bias_reduced import bias_reduced
from merkhet.unit_prior.chain import as_unit_prior
from merkhet.unit_prior.curve_fit import CurveFit, fit_curve, fit_levels
from merkhet.unit_prior.fresh import draw_parameters, fresh_copy
from merkhet.unit_prior.hill import hill_weibull, weibull_qq
from merkhet.unit_prior.initialisations import Comparison, compare_initialisations
from merkhet.unit_prior.prior import UnitPrior
from merkhet.unit_prior.regulariser import Regulariser, regulariser
from merkhet.unit_prior.sample_units import Samples, sample_units
from merkhet.unit_prior.scale_target import Target
from merkhet.unit_prior.solve_scale import Scale, solve_scale
from merkhet.unit_prior.stretched import stretched_fit
from merkhet.unit_prior.tail_analysis import TailAnalysis, tail_analysis
from merkhet.unit_prior.tail_estimate import TailEstimate
from merkhet.unit_prior.tail_rule import Tail, TailReading, tail_rule
from merkhet.unit_prior.tail_stability import StabilityCurve, tail_stability
from merkhet.unit_prior.unit_penalty import UnitPenalty, unit_penalty
from merkhet.unit_prior.weight_priors import (
    Cauchy,
    Gaussian,
    GeneralisedNormal,
    Laplace,
    StudentT,
    TorchInit,
    Uniform,
    WeightPrior,
    weight_prior,
)

__all__ = [
    "Activation",
    "Analysis",
    "Answer",
    "Cauchy",
    "Comparison",
    "CurveFit",
    "Gaussian",
    "GeneralisedNormal",
    "Laplace",
    "Regulariser",
    "Samples",
    "Scale",
    "StabilityCurve",
    "StudentT",
    "Tail",
    "TailAnalysis",
    "TailEstimate",
    "TailReading",
    "Target",
    "TorchInit",
    "Uniform",
    "UnitPenalty",
    "UnitPrior",
    "WeightPrior",
    "analyze",
    "as_unit_prior",
    "bias_reduced",
    "compare_initialisations",
    "draw_parameters",
    "fit_curve",
    "fit_levels",
    "fresh_copy",
    "hill_weibull",
    "regulariser",
    "sample_units",
    "solve_scale",
    "stretched_fit",
    "tail_analysis",
    "tail_rule",
    "tail_stability",
    "unit_penalty",
    "weibull_qq",
    "weight_prior",
]
