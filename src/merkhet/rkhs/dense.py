"""Norms of linear operators from their matrices, and from the sums of rows and columns."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from merkhet.core.linear.chain import Chain
from merkhet.core.linear.scaling import absolute
from merkhet.core.linear.steps import Convolution, Pad, Step, TransposedConvolution
from merkhet.rkhs.gram import EPS, LargestEigenvalue

BATCH = 1 << 22  # entries of the batches of unit vectors
ENTRIES = 1 << 25  # of all matrices together
LARGEST = 8192  # side from which on a Gram matrix is not made


def matrix_norm(matrices: Tensor) -> float:
    """Return an upper bound of the spectral norms of matrices, exact up to rounding.

    The Gram matrix of the shorter side in floating point is off by at most n eps |A|_F^2.

    Args:
        matrices: (n, rows, columns), float64, of size about 1.
    """
    if not matrices.numel():
        return 0.0
    sizes = float(matrices.flatten(1).square().sum(1).max())
    if min(matrices.shape[1:]) > LARGEST:
        return math.sqrt(sizes) * (1 + matrices[0].numel() * EPS)
    short = matrices.mT if matrices.shape[1] > matrices.shape[2] else matrices
    result = LargestEigenvalue()
    for some in short.split(max(1, BATCH // short.shape[1] ** 2)):
        result.include(some @ some.mT)
    slack = (short.shape[2] + 8) * EPS * sizes
    return math.sqrt(result.bound + slack) * (1 + 4 * EPS)


def dense_work(chain: Chain, groups: int = 1) -> float:
    """Return about how many multiplications `dense_norm` takes; infinite where memory is short."""
    sides = math.prod(chain.input_shape) // groups, math.prod(chain.output_shape) // groups
    if groups * sides[0] * sides[1] > ENTRIES:
        return math.inf
    return groups * min(sides) ** 2 * float(max(sides))


def dense_norm(chain: Chain, groups: int = 1) -> float:
    """Return an upper bound of the norm of an operator from its matrix, exact up to rounding.

    An entry that floating point computes is off by at most n eps times that of the product of
    the absolute matrices, n the number of multiplications along a path; the norm of the error is
    at most n eps times the bound by sums of that product.

    Args:
        chain: The operator, float64, of size about 1.
        groups: Channels, the first dimension on both sides, fall in so many blocks that do not
            mix: each is one matrix, and the norm the largest.
    """
    matrices = _matrices(chain, groups)
    found = matrix_norm(matrices)
    paths = sum(math.prod(shape) for shape in _shapes(chain)) / groups
    return found + (paths + 8) * EPS * sums_norm(chain)


def sums_norm(chain: Chain) -> float:
    """Return the bound of an operator's norm by sums: sqrt(|A|_1 |A|_inf), Schur's test.

    Both are at most those of the product of absolute matrices: what it and its transpose make of
    ones. Exact where all entries are of one sign and rows and columns have equal sums.
    """
    bound = absolute(chain)
    ones = bound.apply(_like(chain, (1, *chain.input_shape)).fill_(1))
    back = bound.transpose(torch.ones_like(ones))
    if not ones.numel():
        return 0.0
    work = sum(math.prod(shape) for shape in _shapes(chain)) + 8
    return math.sqrt(float(ones.max()) * float(back.max())) * (1 + work * EPS)


def _matrices(chain: Chain, groups: int) -> Tensor:
    """Return the matrices (groups, outputs, inputs) of an operator."""
    last = chain.steps[-1]
    pads = [isinstance(s, Pad) and len(s.sides) < len(chain.input_shape) for s in chain.steps[:-1]]
    if isinstance(last, Convolution | TransposedConvolution) and all(pads):
        return _of_convolution(chain, last)
    assert groups == 1, "only single convolutions are taken apart"
    return _responses(chain).flatten(1).mT[None]


def _of_convolution(chain: Chain, last: Convolution | TransposedConvolution) -> Tensor:
    """Return the matrices (groups, outputs, inputs) of a convolution, from its kernels one by one.

    What a kernel from one channel to one other makes of a unit vector does not depend on other
    channels: all kernels act on the unit vectors of a single channel.
    """
    kernels, groups = last.weight, last.groups
    first, second = kernels.shape[0] // groups, kernels.shape[1]
    flat = kernels.reshape(-1, 1, *kernels.shape[2:])
    if isinstance(last, TransposedConvolution):
        flat = flat.transpose(0, 1)
    alone = replace(last, weight=flat, groups=1)
    found = _responses(Chain((*chain.steps[:-1], alone), (1, *chain.input_shape[1:])))
    found = found.reshape(len(found), groups, first, second, -1)  # (in places, g, ., ., places)
    order = (1, 2, 4, 3, 0) if isinstance(last, Convolution) else (1, 3, 4, 2, 0)
    return found.permute(order).reshape(groups, -1, math.prod(chain.input_shape) // groups)


def _responses(chain: Chain) -> Tensor:
    """Return what a chain makes of all unit vectors, (inputs, *out)."""
    count = math.prod(chain.input_shape)
    units = torch.eye(count, dtype=torch.float64, device=_like(chain, ()).device)
    wide = max(count, math.prod(chain.output_shape))
    some = units.split(max(1, BATCH // wide))
    return torch.cat([chain.apply(each.reshape(-1, *chain.input_shape)).detach() for each in some])


def _shapes(chain: Chain) -> list[tuple[int, ...]]:
    """Return the shapes that a chain goes through."""
    shapes = [chain.input_shape]
    for step in chain.steps:
        shapes.append(step.output_shape(shapes[-1]))
    return shapes


def _like(chain: Chain, shape: tuple[int, ...]) -> Tensor:
    """Return a tensor of float64 on the device of the chain's weights."""
    step: Step
    for step in chain.steps:
        for value in vars(step).values():
            if isinstance(value, Tensor):
                return value.new_empty(shape, dtype=torch.float64)
    return torch.empty(shape, dtype=torch.float64)
