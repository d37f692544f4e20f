"""Kernels: exact NNGP and tangent kernels of infinitely wide networks, and learning with them."""

from merkhet.kernels.activations import GELU, Erf, Exponential, LeakyReLU, ReLU, Sine
from merkhet.kernels.convolution import Conv2d
from merkhet.kernels.gram import Kernels, diagonal, gram
from merkhet.kernels.layers import Flatten, Layer, Linear, Residual, Sequential, Sum
from merkhet.kernels.pooling import AvgPool2d, GaussianPool2d, GlobalAvgPool2d

__all__ = [
    "GELU",
    "AvgPool2d",
    "Conv2d",
    "Erf",
    "Exponential",
    "Flatten",
    "GaussianPool2d",
    "GlobalAvgPool2d",
    "Kernels",
    "Layer",
    "LeakyReLU",
    "Linear",
    "ReLU",
    "Residual",
    "Sequential",
    "Sine",
    "Sum",
    "diagonal",
    "gram",
]
