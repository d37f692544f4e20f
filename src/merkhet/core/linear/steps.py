"""Linear operations without bias, as values: applied, chained, and read by what bounds norms."""

from merkhet.core.linear.base import Sides, Sizes, Step
from merkhet.core.linear.pooling import AdaptiveAveragePool, AveragePool, Mean, Sum
from merkhet.core.linear.shapes import Flatten, Pad, PadMode, Permute, Reshape
from merkhet.core.linear.weighted import (
    ChannelScale,
    Convolution,
    Dense,
    Scale,
    TransposedConvolution,
)

__all__ = [
    "AdaptiveAveragePool",
    "AveragePool",
    "ChannelScale",
    "Convolution",
    "Dense",
    "Flatten",
    "Mean",
    "Pad",
    "PadMode",
    "Permute",
    "Reshape",
    "Scale",
    "Sides",
    "Sizes",
    "Step",
    "Sum",
    "TransposedConvolution",
]
