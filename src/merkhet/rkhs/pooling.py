"""Norms of average pooling, exactly: a Kronecker product of one small matrix a dimension."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from merkhet.core.linear.steps import AdaptiveAveragePool, AveragePool
from merkhet.rkhs.dense import matrix_norm
from merkhet.rkhs.gram import EPS

LONG = 1024  # size from which on sums of rows and columns bound the norm


def pooling_norm(step: AveragePool | AdaptiveAveragePool, shape: tuple[int, ...]) -> float:
    """Return an upper bound of the norm of average pooling, exact up to rounding where short.

    A mean over a window of several dimensions is a mean over each, whatever counts: windows cut
    at the border and padding that counts or not are products over dimensions. A divisor of the
    user's own divides sums.

    Args:
        step: The pooling.
        shape: Of one example, (channels, *spatial).
    """
    after = step.output_shape(shape)[1:]
    sizes = list(zip(shape[1:], after, strict=True))
    if isinstance(step, AdaptiveAveragePool):
        return math.prod(_norm(_adaptive(size, rows)) for size, rows in sizes)
    norms = (_norm(_windows(step, place, *pair)) for place, pair in enumerate(sizes))
    return math.prod(norms) / (step.divisor or 1) * (1 + 4 * EPS)


def long(shape: tuple[int, ...]) -> bool:
    """Return whether a dimension is so long that its norm is bounded by sums."""
    return max(shape[1:]) > LONG


def _windows(step: AveragePool, place: int, size: int, rows: int) -> Tensor:
    """Return the matrix (rows, size) of pooling along one dimension."""
    padding = step.padding[place]
    starts = torch.arange(rows) * step.stride[place] - padding
    ends = (starts + step.kernel[place]).clamp(max=size + padding)
    inside = _between(starts, ends, size)
    counts = ends - starts if step.count_include_pad else inside.sum(1)
    return inside if step.divisor else inside / counts[:, None]


def _adaptive(size: int, rows: int) -> Tensor:
    """Return the matrix (rows, size) of pooling along one dimension to a given size."""
    places = torch.arange(rows)
    starts, ends = places * size // rows, -(-(places + 1) * size // rows)
    inside = _between(starts, ends, size)
    return inside / inside.sum(1, keepdim=True)


def _between(starts: Tensor, ends: Tensor, size: int) -> Tensor:
    """Return 1 where a place lies in a window, (rows, size)."""
    places = torch.arange(size)
    return ((places >= starts[:, None]) & (places < ends[:, None])).double()


def _norm(matrix: Tensor) -> float:
    """Return the norm of a matrix of entries that are not negative."""
    if max(matrix.shape) <= LONG:
        return matrix_norm(matrix[None])
    sums = float(matrix.sum(0).max()) * float(matrix.sum(1).max())
    return math.sqrt(sums) * (1 + sum(matrix.shape) * EPS)
