"""Linear operations with weights: matrices, convolutions, factors."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from merkhet.core.linear.base import Sides, Sizes, Step, last_first

CONVOLUTIONS = (F.conv1d, F.conv2d, F.conv3d)
TRANSPOSED = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)


@dataclass(frozen=True, eq=False)
class Dense(Step):
    """A matrix on the last dimension.

    Attributes:
        weight: (out, in).
    """

    weight: Tensor

    def apply(self, x: Tensor) -> Tensor:
        """Return x W^T, (b, ..., out)."""
        return F.linear(x, self.weight.to(x))


@dataclass(frozen=True, eq=False)
class Convolution(Step):
    """A convolution of 1 to 3 spatial dimensions with zero padding.

    Attributes:
        weight: (out, in / groups, *kernel).
        stride: For each spatial dimension.
        padding: Zeros (before, after) for each spatial dimension.
        dilation: For each spatial dimension.
        groups: Of channels.
    """

    weight: Tensor
    stride: Sizes
    padding: Sides
    dilation: Sizes
    groups: int = 1

    def spatial(self) -> int:
        """Return the number of spatial dimensions."""
        return len(self.stride)

    def apply(self, x: Tensor) -> Tensor:
        """Return the convolution of x (b, in, *spatial)."""
        padding = tuple(before for before, _ in self.padding)
        if any(before != after for before, after in self.padding):
            x = F.pad(x, last_first(self.padding))
            padding = (0,) * len(padding)
        convolve = CONVOLUTIONS[len(padding) - 1]
        weight = self.weight.to(x)
        answer: Tensor = convolve(x, weight, None, self.stride, padding, self.dilation, self.groups)
        return answer


@dataclass(frozen=True, eq=False)
class TransposedConvolution(Step):
    """The transpose of a convolution, as torch.nn.ConvTranspose has it.

    Attributes:
        weight: (in, out / groups, *kernel).
        stride: For each spatial dimension.
        padding: What is cut at both ends of each spatial dimension.
        output_padding: What is kept, or added, at the end of each spatial dimension.
        dilation: For each spatial dimension.
        groups: Of channels.
    """

    weight: Tensor
    stride: Sizes
    padding: Sizes
    output_padding: Sizes
    dilation: Sizes
    groups: int = 1

    def spatial(self) -> int:
        """Return the number of spatial dimensions."""
        return len(self.stride)

    def apply(self, x: Tensor) -> Tensor:
        """Return the transposed convolution of x (b, in, *spatial)."""
        convolve = TRANSPOSED[len(self.padding) - 1]
        settings = (self.stride, self.padding, self.output_padding, self.groups, self.dilation)
        answer: Tensor = convolve(x, self.weight.to(x), None, *settings)
        return answer


@dataclass(frozen=True, eq=False)
class Scale(Step):
    """Multiplication by a factor, entry by entry.

    Attributes:
        factor: Broadcast against the shape of one example: (c, 1, 1) for channels of pictures.
    """

    factor: Tensor

    def apply(self, x: Tensor) -> Tensor:
        """Return x times the factor."""
        answer = x * self.factor.to(x)
        if answer.shape != x.shape:
            raise ValueError(f"a factor of shape {tuple(self.factor.shape)}")
        return answer


@dataclass(frozen=True, eq=False)
class ChannelScale(Step):
    """Multiplication of each channel by its factor, whatever the dimensions after it.

    Attributes:
        factor: (channels,).
    """

    factor: Tensor

    def apply(self, x: Tensor) -> Tensor:
        """Return x (b, channels, ...) with every channel times its factor."""
        if x.dim() < 2 or x.shape[1] != len(self.factor):
            raise ValueError(f"a factor for each of {len(self.factor)} channels")
        return x * self.factor.to(x).reshape(-1, *(1 for _ in x.shape[2:]))
