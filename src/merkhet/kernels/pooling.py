"""Linear pooling: both positions of a covariance are averaged over windows."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from merkhet.core.errors import InputError
from merkhet.core.pooling import gaussian_windows
from merkhet.kernels.convolution import Size, pair
from merkhet.kernels.layers import Layer
from merkhet.kernels.state import State


class Pooling(Layer):
    """Pooling that is linear and acts on rows and columns apart."""

    mixes = True

    @abstractmethod
    def weights(self, size: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Return the weights over rows and over columns, each (positions after, before), float64.

        Raises:
            InputError: Nothing is left of a map of this (height, width).
        """

    def __call__(self, state: State) -> State:
        """Return the state after pooling, of batch axes (*batch) as before."""
        if not state.axes:
            raise InputError(f"{self!r} after a vector: pooling takes pictures")
        assert state.axes == 2
        along = [one.to(state.cross) for one in self.weights(state.size)]
        return state.map(lambda k: _averaged(k, along))


@dataclass(frozen=True, eq=False)
class AvgPool2d(Pooling):
    """Means over windows, as torch's layer without padding: what does not fill a window is left.

    Args:
        kernel_size: Side of a window, or (height, width).
        stride: Step between windows; by default the kernel size.
    """

    kernel_size: Size
    stride: Size | None = None

    def __post_init__(self) -> None:
        pair("kernel_size", self.kernel_size)
        if self.stride is not None:
            pair("stride", self.stride)

    def weights(self, size: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Return the weights over rows and columns, each (positions after, before), float64."""
        windows = pair("kernel_size", self.kernel_size)
        steps = windows if self.stride is None else pair("stride", self.stride)
        if any(window > length for window, length in zip(windows, size, strict=True)):
            raise InputError(
                f"{self!r} meets a feature map of {size[0]}x{size[1]}: nothing is left of it; take "
                "a smaller window, or less pooling before"
            )
        first, second = map(_means, size, windows, steps)
        return first, second


@dataclass(frozen=True, eq=False)
class GaussianPool2d(Pooling):
    """Gaussian means: sigma = factor / sqrt(2), windows of 2 factor + 1, a step of the factor.

    ceil(size / factor) windows lie symmetrically about the centre of the map; their weights add up
    to 1 inside it (Bietti & Mairal, NeurIPS 2019, Section 3, with this project's placing).

    Args:
        factor: By what the map shrinks.
    """

    factor: int

    def __post_init__(self) -> None:
        if not isinstance(self.factor, int) or self.factor < 1:
            raise InputError(f"factor = {self.factor}: give a whole number from 1 on")

    def weights(self, size: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Return the weights over rows and columns, each (positions after, before), float64."""
        rows, columns = (gaussian_windows(length, self.factor) for length in size)
        return rows, columns


@dataclass(frozen=True, eq=False)
class GlobalAvgPool2d(Pooling):
    """The mean over all positions; what is left is a vector."""

    def weights(self, size: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Return the weights over rows and columns, each (1, positions before), float64."""
        first, second = (torch.ones(1, length).double() / length for length in size)
        return first, second

    def __call__(self, state: State) -> State:
        """Return the state of vectors, of batch axes (*batch) as before."""
        pooled = super().__call__(state)
        return replace(pooled.map(lambda k: k.flatten(-4).squeeze(-1)), axes=0)


def _averaged(k: Tensor, along: list[Tensor]) -> Tensor:
    """Return (*batch, h', w', h', w') of (*batch, h, w, h, w): means of all four sides in turn."""
    for axis in (-4, -3, -2, -1):
        k = (k.movedim(axis, -1) @ along[axis % 2].mT).movedim(-1, axis)
    return k


def _means(length: int, window: int, step: int) -> Tensor:
    """Return the weights of means over windows along one side."""
    starts = torch.arange(0, length - window + 1, step)[:, None]
    places = torch.arange(length)
    return ((places >= starts) & (places < starts + window)).double() / window
