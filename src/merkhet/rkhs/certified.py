"""Upper bounds of the norms of linear operators that hold in floating point, too."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass

import torch

from merkhet.core.linear.chain import Chain
from merkhet.core.linear.scaling import normalised, times_power_of_two
from merkhet.core.linear.steps import (
    AdaptiveAveragePool,
    AveragePool,
    ChannelScale,
    Convolution,
    Dense,
    Flatten,
    Mean,
    Pad,
    Permute,
    Reshape,
    Scale,
    Step,
    Sum,
    TransposedConvolution,
)
from merkhet.rkhs.convolution import Padded, padded, transposed
from merkhet.rkhs.dense import dense_norm, dense_work, matrix_norm, sums_norm
from merkhet.rkhs.folding import folded
from merkhet.rkhs.gram import EPS
from merkhet.rkhs.padding import padding_norm
from merkhet.rkhs.pooling import long, pooling_norm

DENSE_WORK = 1e10  # multiplications up to which the whole matrix is made
ISOMETRIES = (Flatten, Permute, Reshape)


@dataclass(frozen=True)
class CertifiedNorm:
    """An upper bound of an operator's spectral norm.

    Attributes:
        value: The bound, never under the norm.
        how: How it was found.
        exact: Whether it is the norm up to rounding.
    """

    value: float
    how: str
    exact: bool


@torch.inference_mode(False)
def certified_norm(chain: Chain, *, dense_limit: float = DENSE_WORK) -> CertifiedNorm:
    """Return an upper bound of the norm of linear operations one after another.

    The chain is taken together where it can be (`folded`), and the norm found exactly by Fourier
    blocks, separately by dimension, or from the whole matrix, if one of them serves. Else it is
    the product of bounds of its parts, or the bound by sums, whichever is less. All is float64;
    every bound carries a slack for its rounding, and Cholesky factors decide (`gram`).

    Args:
        chain: The operations.
        dense_limit: Multiplications up to which the whole matrix is made.

    Raises:
        InputError: Weights that are complex, NaN or infinite.
    """
    chain, exponent = normalised(chain)
    chain, more = normalised(folded(chain))
    found = _norm(chain, dense_limit)
    # Folding and what read the modules round every weight by some eps.
    slack = 1 + 16 * (len(chain.steps) + 1) * EPS
    value = times_power_of_two(found.value * slack, exponent + more)
    if found.value > 0 and value < sys.float_info.min:
        value = math.nextafter(value, math.inf)  # numbers this small are rounded coarsely
    return CertifiedNorm(value, found.how, found.exact)


def _norm(chain: Chain, dense_limit: float) -> CertifiedNorm:
    """Return the least bound of a chain whose weights are of size about 1."""
    if not math.prod(chain.input_shape) or not math.prod(chain.output_shape):
        return CertifiedNorm(0.0, "dense", True)
    parts = [part for part in _parts(chain) if not isinstance(part.steps[0], ISOMETRIES)]
    if not parts:
        return CertifiedNorm(1.0, "isometry", True)
    if len(parts) == 1:
        return _of_part(parts[0], dense_limit)
    if dense_work(chain) <= dense_limit:
        return CertifiedNorm(dense_norm(chain), "dense", True)
    bounds = [_of_part(part, dense_limit) for part in parts]
    product = math.prod(found.value for found in bounds) * (1 + len(bounds) * EPS)
    by_sums = sums_norm(chain)
    if by_sums < product:
        return CertifiedNorm(by_sums, "sums of rows and columns", False)
    return CertifiedNorm(product, f"product of {', '.join(b.how for b in bounds)}", False)


def _parts(chain: Chain) -> list[Chain]:
    """Return the steps one by one, but padding together with its convolution."""
    parts, shape, steps = [], chain.input_shape, list(chain.steps)
    while steps:
        count = 2 if len(steps) > 1 and _belong(steps[0], steps[1]) else 1
        part = Chain(tuple(steps[:count]), shape)
        parts.append(part)
        shape, steps = part.output_shape, steps[count:]
    return parts


def _belong(first: Step, second: Step) -> bool:
    """Return whether a torus can cover both steps as one."""
    if not isinstance(first, Pad) or not isinstance(second, Convolution):
        return False
    fits = len(first.sides) <= len(second.stride) and first.mode != "constant"
    return fits and all(side == (0, 0) for side in second.padding)


def _of_part(part: Chain, dense_limit: float) -> CertifiedNorm:
    """Return the bound of one part."""
    last = part.steps[-1]
    if isinstance(last, Convolution):
        pad = part.steps[0] if len(part.steps) == 2 else None
        assert pad is None or isinstance(pad, Pad)
        return _of_convolution(part, padded(last, part.input_shape, pad), dense_limit)
    if isinstance(last, TransposedConvolution):
        return _of_convolution(part, transposed(last, part.input_shape), dense_limit)
    value, how, exact = _separable(last, part.input_shape)
    return CertifiedNorm(value, how, exact)


def _of_convolution(part: Chain, found: Padded, dense_limit: float) -> CertifiedNorm:
    """Return the bound of a convolution: from its torus or its matrices, if they are it."""
    groups = len(found.weight)
    exact = found.exact()
    if not exact and dense_work(part, groups) <= dense_limit:
        return CertifiedNorm(dense_norm(part, groups), "dense", True)
    value, how = found.bound()
    by_sums = value if exact else sums_norm(part)
    if by_sums < value:
        return CertifiedNorm(by_sums, "sums of rows and columns", False)
    return CertifiedNorm(value, how, exact)


def _separable(step: Step, shape: tuple[int, ...]) -> tuple[float, str, bool]:
    """Return the norm of a step that has a plain formula, how, and whether it is exact."""
    if isinstance(step, Dense):
        return matrix_norm(step.weight[None]), "dense", True
    if isinstance(step, AveragePool | AdaptiveAveragePool):
        return pooling_norm(step, shape), "separable", not long(shape)
    if isinstance(step, Scale | ChannelScale):
        return float(step.factor.abs().max()), "largest factor", True
    if isinstance(step, Pad):
        sizes = shape[len(shape) - len(step.sides) :]
        pairs = zip(sizes, step.sides, strict=True)
        return math.prod(padding_norm(n, pair, step.mode) for n, pair in pairs), "separable", True
    assert isinstance(step, Mean | Sum), f"no norm of {type(step).__name__}"
    count = math.prod(shape[dim] for dim in step.dims)
    root = math.sqrt(count)
    return (1 / root if isinstance(step, Mean) else root) * (1 + 4 * EPS), "separable", True
