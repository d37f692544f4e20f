"""What a prior on weights says about every unit of a network."""

from merkhet.unit_prior.activations import Activation
from merkhet.unit_prior.analysis.analyze import analyze
from merkhet.unit_prior.analysis.result import Analysis
from merkhet.unit_prior.answer import Answer
from merkhet.unit_prior.chain import as_unit_prior
from merkhet.unit_prior.design.initialisations import Comparison, compare_initialisations
from merkhet.unit_prior.design.regulariser import Regulariser, regulariser
from merkhet.unit_prior.design.scale_target import Target
from merkhet.unit_prior.design.solve_scale import Scale, solve_scale
from merkhet.unit_prior.design.unit_penalty import UnitPenalty, unit_penalty
from merkhet.unit_prior.prior import UnitPrior
from merkhet.unit_prior.rules.tail_rule import Tail, TailReading, tail_rule
from merkhet.unit_prior.sampling.fresh import draw_parameters, fresh_copy
from merkhet.unit_prior.sampling.sample_units import Samples, sample_units
from merkhet.unit_prior.tails.bias_reduced import bias_reduced
from merkhet.unit_prior.tails.curve_fit import CurveFit, fit_curve, fit_levels
from merkhet.unit_prior.tails.estimate import TailEstimate
from merkhet.unit_prior.tails.hill import hill_weibull, weibull_qq
from merkhet.unit_prior.tails.stretched import stretched_fit
from merkhet.unit_prior.tails.tail_analysis import TailAnalysis, tail_analysis
from merkhet.unit_prior.tails.tail_stability import StabilityCurve, tail_stability
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
