"""Kernels: exact NNGP and tangent kernels of infinitely wide networks, and learning with them."""

from typing import Any

from merkhet.kernels.activations import GELU, Erf, Exponential, LeakyReLU, ReLU, Sine
from merkhet.kernels.between import Pad2d, Scale
from merkhet.kernels.convolution import Conv2d
from merkhet.kernels.distances import distance
from merkhet.kernels.eigen import Decomposition, decompose
from merkhet.kernels.empirical import empirical_ntk, ntk_vector_product
from merkhet.kernels.from_module import from_module
from merkhet.kernels.gaussian_process import Posterior, log_marginal_likelihood, posterior
from merkhet.kernels.gradient_flow import gradient_flow, gradient_flow_ensemble
from merkhet.kernels.gram import Kernels, diagonal, gram
from merkhet.kernels.layers import Flatten, Layer, Linear, Residual, Sequential, Sum
from merkhet.kernels.monte_carlo import MonteCarloKernel, monte_carlo_kernel
from merkhet.kernels.numeric import Numeric
from merkhet.kernels.nystrom import draw_landmarks, nystrom
from merkhet.kernels.pooling import AvgPool2d, GaussianPool2d, GlobalAvgPool2d
from merkhet.kernels.ridge import LeaveOneOut, default_ridges, leave_one_out, ridge_coefficients
from merkhet.kernels.spectrum import spectrum

__all__ = [
    "GELU",
    "AvgPool2d",
    "Conv2d",
    "Decomposition",
    "Erf",
    "Exponential",
    "Flatten",
    "GaussianPool2d",
    "GlobalAvgPool2d",
    "KernelClassifier",
    "KernelRegressor",
    "Kernels",
    "Layer",
    "LeakyReLU",
    "LeaveOneOut",
    "Linear",
    "MonteCarloKernel",
    "Numeric",
    "Pad2d",
    "Posterior",
    "ReLU",
    "Residual",
    "Scale",
    "Sequential",
    "Sine",
    "Sum",
    "decompose",
    "default_ridges",
    "diagonal",
    "distance",
    "draw_landmarks",
    "empirical_ntk",
    "from_module",
    "gradient_flow",
    "gradient_flow_ensemble",
    "gram",
    "leave_one_out",
    "log_marginal_likelihood",
    "monte_carlo_kernel",
    "ntk_vector_product",
    "nystrom",
    "posterior",
    "ridge_coefficients",
    "spectrum",
]


def __getattr__(name: str) -> Any:
    """Load the estimators when they are asked for: scikit-learn is slow to load."""
    if name in ("KernelClassifier", "KernelRegressor"):
        from merkhet.kernels import estimators

        return getattr(estimators, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
