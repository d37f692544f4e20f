"""Linear operations that take means and sums."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from merkhet.core.linear.base import Sizes, Step, of_batch

ADAPTIVE: tuple[Any, ...] = (
    F.adaptive_avg_pool1d,
    F.adaptive_avg_pool2d,
    F.adaptive_avg_pool3d,
)


@dataclass(frozen=True, eq=False)
class AveragePool(Step):
    """Average pooling of 1 to 3 spatial dimensions, as torch.nn.AvgPool has it.

    Attributes:
        kernel: For each spatial dimension.
        stride: For each spatial dimension.
        padding: Zeros at both ends of each spatial dimension.
        ceil_mode: Whether windows may end outside.
        count_include_pad: Whether zeros of the padding count in the mean.
        divisor: What sums are divided by instead of the count.
    """

    kernel: Sizes
    stride: Sizes
    padding: Sizes
    ceil_mode: bool = False
    count_include_pad: bool = True
    divisor: int | None = None

    def spatial(self) -> int:
        """Return the number of spatial dimensions."""
        return len(self.kernel)

    def apply(self, x: Tensor) -> Tensor:
        """Return means over windows of x (b, c, *spatial)."""
        windows = (self.kernel, self.stride, self.padding, self.ceil_mode, self.count_include_pad)
        if len(self.kernel) == 1:
            assert self.divisor is None, "torch has no divisor in one dimension"
            return F.avg_pool1d(x, *windows)
        pool = F.avg_pool2d if len(self.kernel) == 2 else F.avg_pool3d
        answer: Tensor = pool(x, *windows, self.divisor)
        return answer


@dataclass(frozen=True, eq=False)
class AdaptiveAveragePool(Step):
    """Average pooling to a given size.

    Attributes:
        output_size: For each spatial dimension; None keeps it.
    """

    output_size: tuple[int | None, ...]

    def spatial(self) -> int:
        """Return the number of spatial dimensions."""
        return len(self.output_size)

    def apply(self, x: Tensor) -> Tensor:
        """Return means over windows of x (b, c, *spatial)."""
        kept = x.shape[x.dim() - len(self.output_size) :]
        sizes = [
            old if new is None else new for old, new in zip(kept, self.output_size, strict=True)
        ]
        answer: Tensor = ADAPTIVE[len(sizes) - 1](x, sizes)
        return answer


@dataclass(frozen=True, eq=False)
class Mean(Step):
    """The mean over some dimensions of one example.

    Attributes:
        dims: Those of one example.
        keepdim: Whether they stay, of size 1.
    """

    dims: Sizes
    keepdim: bool = False

    def apply(self, x: Tensor) -> Tensor:
        """Return means of x (b, *in)."""
        return x if not self.dims else x.mean(of_batch(self.dims, x), self.keepdim)


@dataclass(frozen=True, eq=False)
class Sum(Step):
    """The sum over some dimensions of one example.

    Attributes:
        dims: Those of one example.
        keepdim: Whether they stay, of size 1.
    """

    dims: Sizes
    keepdim: bool = False

    def apply(self, x: Tensor) -> Tensor:
        """Return sums of x (b, *in)."""
        return x if not self.dims else x.sum(of_batch(self.dims, x), self.keepdim)
