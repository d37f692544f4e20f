"""Upper bounds of the norms of convolutions of any padding, and of their transposes."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

from torch import Tensor

from merkhet.core.linear.steps import Convolution, Pad, PadMode, TransposedConvolution
from merkhet.rkhs.fourier import Axis, torus_norm
from merkhet.rkhs.padding import Side, circular_axes, padded_axes, zero_axes


@dataclass(frozen=True)
class Padded:
    """A convolution with its padding at one size of input.

    Attributes:
        weight: (g, out / g, in / g, *kernel), float64.
        sides: One for each spatial dimension.
        mode: Of the padding.
    """

    weight: Tensor
    sides: tuple[Side, ...]
    mode: PadMode

    def options(self) -> list[list[Axis]]:
        """Return tori for each dimension; no tori for one whose windows all miss the input."""
        if self.mode == "constant":
            return [zero_axes(side) for side in self.sides]
        if self.mode == "circular":
            return [circular_axes(side) for side in self.sides]
        return [padded_axes(side, self.mode) for side in self.sides]

    def exact(self) -> bool:
        """Return whether one torus is the operator itself, or the operator is 0."""
        options = self.options()
        return not all(options) or all(axes[0].exact for axes in options)

    def bound(self) -> tuple[float, str]:
        """Return the least bound of all tori that serve, and how it was found."""
        options = self.options()
        if not all(options):
            return 0.0, "no window meets the input"
        least, used = math.inf, options[0]
        for axes in itertools.product(*options):
            found = torus_norm(self.weight, axes, least)
            if found < least:
                least, used = found, list(axes)
        return least, _words(used, self.mode)


def padded(step: Convolution, shape: tuple[int, ...], pad: Pad | None = None) -> Padded:
    """Return a convolution with its padding on examples of a shape.

    Args:
        step: The convolution; without padding of its own if `pad` is given.
        shape: (channels, *spatial), before any padding.
        pad: Padding of the spatial dimensions in another mode than zeros.
    """
    after = shape if pad is None else pad.output_shape(shape)
    rows = step.output_shape(after)[1:]
    sides = step.padding
    if pad is not None:
        sides = ((0, 0),) * (len(rows) - len(pad.sides)) + pad.sides
    given = zip(
        shape[1:], rows, step.weight.shape[2:], step.dilation, step.stride, sides, strict=True
    )
    return Padded(
        step.weight.reshape(step.groups, -1, *step.weight.shape[1:]),
        tuple(Side(*each) for each in given),
        "constant" if pad is None else pad.mode,
    )


def transposed(step: TransposedConvolution, shape: tuple[int, ...]) -> Padded:
    """Return the convolution whose transpose a step is.

    (out, in) of that one are (in, out) of this, with the same stride, dilation and groups, and
    zero padding by what this one cuts, on examples of this one's answer's size. It may have more
    outputs than this one has inputs, where output padding adds a stride or more: they are left
    out. The norm of a matrix is that of its transpose.
    """
    after = step.output_shape(shape)[1:]
    pads = [(count, count) for count in step.padding]
    given = zip(
        after, shape[1:], step.weight.shape[2:], step.dilation, step.stride, pads, strict=True
    )
    weight = step.weight.reshape(step.groups, -1, *step.weight.shape[1:])
    return Padded(weight, tuple(Side(*each) for each in given), "constant")


def _words(axes: list[Axis], mode: PadMode) -> str:
    """Return how a bound was found."""
    if all(axis.exact for axis in axes):
        return "Fourier, exact"
    if mode != "constant" and any(axis.repeated > 1 for axis in axes):
        return "padding x torus"
    return "Fourier on a padded torus" if mode == "constant" else "Fourier on a torus"
