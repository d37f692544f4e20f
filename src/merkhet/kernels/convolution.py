"""Convolutions: covariances of patches, means over the offsets that two positions share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

from merkhet.core.errors import InputError, choose
from merkhet.kernels.layers import Weighted
from merkhet.kernels.state import State

PADDINGS = ("circular", "same", "valid")
Size = int | tuple[int, int]
Sides = tuple[tuple[int, int], tuple[int, int]]  # zeros before and after, of rows and columns


@dataclass(frozen=True, eq=False)
class Conv2d(Weighted):
    """A convolution over pictures.

    The covariance of two patches is the mean over their shared offsets (Bietti & Mairal, NeurIPS
    2019, Section 3); zeros of the padding count in the mean.

    Args:
        kernel_size: Side of a patch, or (height, width).
        stride: Step between patches, or (down, across).
        padding: "same" (zeros; ceil(size / stride) positions, an odd zero goes to the end),
            "valid" (none), "circular" (the other side, as many as "same"), or the number of
            zeros on each side, as torch's own layer takes it.
        weight_std: Standard deviation of a weight times sqrt(fan_in).
        bias_std: Standard deviation of the biases.
    """

    kernel_size: Size
    stride: Size = 1
    padding: str | Size = "same"
    _: KW_ONLY

    def __post_init__(self) -> None:
        super().__post_init__()
        pair("kernel_size", self.kernel_size)
        pair("stride", self.stride)
        if isinstance(self.padding, str):
            choose("padding", self.padding, PADDINGS)
        else:
            pair("padding", self.padding, least=0)

    def __call__(self, state: State) -> State:
        """Return the state after the layer, of batch axes (*batch) as before."""
        if not state.axes:
            raise InputError("Conv2d after a vector: give pictures (n, channels, height, width)")
        sides = self.sides(state.size)
        patch, stride = pair("kernel_size", self.kernel_size), pair("stride", self.stride)
        for size, (low, high), side in zip(state.size, sides, patch, strict=True):
            if size + low + high < side:
                raise InputError(
                    f"{self!r} meets a feature map of {state.size[0]}x{state.size[1]}: nothing is "
                    'left of it; take padding="same", a smaller patch, or less pooling'
                )
        fill = self._wrapped if self.padding == "circular" else _zeros
        mean = _patch_mean(patch, stride, state.axes)
        return self.weigh(state.map(lambda k: mean(fill(k, sides, state.axes))))

    def sides(self, size: tuple[int, ...]) -> Sides:
        """Return how many rows and columns are put (before, after) a map of (height, width)."""
        if self.padding == "valid":
            return (0, 0), (0, 0)
        if not isinstance(self.padding, str):
            rows, columns = pair("padding", self.padding, least=0)
            return (rows, rows), (columns, columns)
        found = []
        for length, side, step in zip(
            size, pair("", self.kernel_size), pair("", self.stride), strict=True
        ):
            missing = max((-(-length // step) - 1) * step + side - length, 0)
            found.append((missing // 2, missing - missing // 2))
        return found[0], found[1]

    @staticmethod
    def _wrapped(k: Tensor, sides: Sides, axes: int) -> Tensor:
        """Return a covariance whose positions go on from the other side."""
        for place, (low, high) in enumerate(sides * axes):
            axis = k.dim() - 2 * axes + place
            length = k.shape[axis]
            around = torch.arange(-low, length + high, device=k.device) % length
            k = k.index_select(axis, around)
        return k


def pair(name: str, given: Size, *, least: int = 1) -> tuple[int, int]:
    """Return (height, width) of a size that may be one number for both.

    Raises:
        InputError: It is not one or two whole numbers from `least` on.
    """
    found = tuple(given) if isinstance(given, tuple | list) else (given, given)
    if len(found) != 2 or not all(isinstance(one, int) and one >= least for one in found):
        raise InputError(f"{name} = {given}: give a whole number from {least} on, or two of them")
    return found[0], found[1]


def _zeros(k: Tensor, sides: Sides, axes: int) -> Tensor:
    """Return a covariance with positions of zero around."""
    flat = [count for side in reversed(sides * axes) for count in side]
    return F.pad(k, flat) if any(flat) else k


def _patch_mean(
    patch: tuple[int, int], stride: tuple[int, int], axes: int
) -> Callable[[Tensor], Tensor]:
    """Return the mean over shared offsets, of (*batch, h, w) or (*batch, h, w, h, w)."""

    def mean(k: Tensor) -> Tensor:
        counts = [(k.shape[a - 2] - patch[a]) // stride[a] + 1 for a in range(2)]
        total = torch.zeros(())
        for offset in product(range(patch[0]), range(patch[1])):
            shared = k
            for place in range(2 * axes):
                axis, side = k.dim() - 2 * axes + place, place % 2
                last = offset[side] + stride[side] * (counts[side] - 1)
                places = slice(offset[side], last + 1, stride[side])
                shared = shared[(slice(None),) * axis + (places,)]
            total = total + shared
        return total / (patch[0] * patch[1])

    return mean
