"""Which torus covers a padded convolution, one dimension at a time, and norms of padding."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from merkhet.core.linear.steps import PadMode
from merkhet.rkhs.fourier import Axis


@dataclass(frozen=True)
class Side:
    """One dimension of a convolution.

    Attributes:
        size: Of the input.
        rows: Of the output.
        taps: Of the kernel, dilation left out.
        dilation: Of the kernel.
        stride: Of the convolution.
        padding: Entries (before, after).
    """

    size: int
    rows: int
    taps: int
    dilation: int
    stride: int
    padding: tuple[int, int]

    @property
    def reach(self) -> int:
        """Return how many entries of the input a window spans."""
        return self.dilation * (self.taps - 1) + 1


def zero_axes(side: Side) -> list[Axis]:
    """Return the torus that covers zero padding; none where every window reads zeros alone.

    Output j reads places j s - a to j s - a + reach - 1. Outputs whose windows miss the input are
    0 and left out. On Z_N with N at least the size, the places below 0 and those above the input
    must fall on places of the torus beyond it, where the embedded input is 0: N is at least the
    size plus what is read before it, and at least the last place read, plus 1; different outputs
    must be different places of the coarse grid. Then the operator is a part of that on the torus,
    whatever happens to entries that go around. N is a multiple of the stride. Wider tori serve
    as well; they were hardly ever closer.

    Where a single offset on the coarse grid is left (a kernel of 1, or windows that do not
    overlap), all frequencies have the same block; if one window lies inside it is that exactly.
    """
    before = side.padding[0]
    starts = [j * side.stride - before for j in range(side.rows)]
    kept = [start for start in starts if -side.reach < start < side.size]
    if not kept:
        return []
    inside = any(0 <= start <= side.size - side.reach for start in kept)
    last = kept[-1] + side.reach
    least = max(side.size - min(0, kept[0]), last, len(kept) * side.stride)
    points = -(-least // side.stride)
    single = len({side.dilation * tap // side.stride for tap in range(side.taps)}) == 1
    if single:
        return [Axis(side.dilation, side.stride, 1, exact=inside)]
    return [Axis(side.dilation, side.stride, points)]


def circular_axes(side: Side) -> list[Axis]:
    """Return tori that cover circular padding.

    On the input's own torus if the stride divides its size: exact if every place of the coarse
    grid is an output equally often. Else the places j s mod n are multiples of gcd(s, n), which
    is a stride that divides; and padding may be taken as an operator of its own.
    """
    if side.padding == (0, 0):
        return zero_axes(side)
    stride = math.gcd(side.stride, side.size)
    points = side.size // stride
    times = -(-side.rows // points)
    exact = stride == side.stride and side.rows == times * points
    own = Axis(side.dilation, stride, points, twisted=False, repeated=times, exact=exact)
    return [own] if exact else [own, *padded_axes(side, "circular")]


def padded_axes(side: Side, mode: PadMode) -> list[Axis]:
    """Return tori that cover what reads the padded input, with the norm of the padding.

    Padding copies: every place of the padded input is one of the input's, so that its columns
    are orthogonal and its squared norm is how often one entry is copied at most, exactly. Over
    dimensions it is a Kronecker product. Only places that a window reads count.
    """
    if side.padding == (0, 0):
        return zero_axes(side)
    places = copies(side.size, side.padding, mode)
    starts = torch.arange(side.rows) * side.stride
    read = (starts[:, None] + torch.arange(side.taps) * side.dilation).unique()
    times = int(places[read].bincount().max())
    full = Side(len(places), side.rows, side.taps, side.dilation, side.stride, (0, 0))
    return [
        Axis(axis.dilation, axis.stride, axis.points, repeated=times) for axis in zero_axes(full)
    ]


def copies(size: int, padding: tuple[int, int], mode: PadMode) -> torch.Tensor:
    """Return which place of the input each place of the padded one copies; not for zeros."""
    places = torch.arange(size, dtype=torch.float64)[None, None]
    return F.pad(places, padding, mode)[0, 0].long()


def padding_norm(size: int, padding: tuple[int, int], mode: PadMode) -> float:
    """Return the norm of padding along one dimension, exact."""
    if mode == "constant":
        return 1.0 if size + sum(min(count, 0) for count in padding) > 0 else 0.0
    return math.sqrt(int(copies(size, padding, mode).bincount().max()))
