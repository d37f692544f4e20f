"""The spectral norm of a linear layer, or of several as one operator, at its size of input."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral

from torch import nn

from merkhet.core.errors import InputError, choose
from merkhet.core.linear.chain import Chain
from merkhet.core.linear.modules import steps_of
from merkhet.core.linear.power import power_norm
from merkhet.rkhs.certified import certified_norm

METHODS = ("power", "certified")


def operator_norm(
    layer: nn.Module | Sequence[nn.Module],
    input_shape: int | Sequence[int],
    method: str = "power",
    *,
    seed: int = 0,
) -> float:
    """Return the spectral norm of a linear layer as an operator, in float64; biases do not count.

    The operator from one example to its answer, with strides, padding of any mode, dilation and
    groups, not the norm of reshaped weights. Layers one after another are one operator: input
    scaling, a convolution, batch norm in evaluation mode, average pooling.

    Args:
        layer: A layer that `merkhet.core.linear.modules.steps_of` knows, nn.Sequential, or a
            sequence of layers.
        input_shape: Of one example, without the batch: (channels, rows, columns) or (features,).
        method: "power" is an estimate from below by power iteration; "certified" is never under
            the norm, and equal to it up to rounding for dense layers, small operators, and
            circular padding whose stride divides the size.
        seed: Of the power iteration's start.

    Raises:
        InputError: A layer that is not linear, batch norm in training mode, weights that are NaN,
            infinite or complex, a shape that does not fit.

    Reference:
        Sedghi, Gupta and Long, "The singular values of convolutional layers", ICLR 2019, for
        circular padding without strides; the certificates of others are ours.
    """
    choose("method", method, METHODS)
    layers = _layers(layer)
    steps = tuple(step for one in layers for step in steps_of(one))
    chain = Chain(steps, _shape(input_shape))
    return power_norm(chain, seed=seed) if method == "power" else certified_norm(chain).value


def _layers(given: object) -> list[nn.Module]:
    """Return the layers, with weights that are there."""
    layers = []
    for layer in given if isinstance(given, Sequence) else [given]:
        if not isinstance(layer, nn.Module):
            raise InputError(f"{layer!r:.60} is no layer: give an nn.Module, or a sequence of them")
        if any(tensor.is_meta for tensor in [*layer.parameters(), *layer.buffers()]):
            raise InputError(f"{type(layer).__name__} is on the meta device: load its weights")
        layers.append(layer)
    return layers


def _shape(given: object) -> tuple[int, ...]:
    """Return the shape of one example."""
    sizes = tuple(given) if isinstance(given, Sequence) else (given,)
    whole = (size for size in sizes if isinstance(size, Integral))
    shape = tuple(int(size) for size in whole)
    if not shape or len(shape) < len(sizes) or math.prod(shape) <= 0 or min(shape) < 1:
        raise InputError(
            f"input_shape {given!r}: give the sizes of one example without the batch, 1 or more "
            "each, such as (3, 32, 32)"
        )
    return shape
