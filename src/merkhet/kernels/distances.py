"""Distances between inputs in the feature space of a network's kernel, however near they are."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from merkhet.core.available import refuse_too_large
from merkhet.core.errors import InputError, choose
from merkhet.kernels.activations import Activation
from merkhet.kernels.between import Pad2d, Scale
from merkhet.kernels.differences import Differences
from merkhet.kernels.distance_rules import Units, Variances, dual_and_slope
from merkhet.kernels.inputs import as_inputs, check_alike, check_request
from merkhet.kernels.layers import Flatten, Layer, Sequential, Sum, Weighted
from merkhet.kernels.plain import check_fit, positions
from merkhet.kernels.pooling import Pooling
from merkhet.kernels.state import State, against, start_same, variances

KINDS = ("nngp", "ntk")
PAIRS = ("all", "each")
CHUNK_BYTES = 2**28  # of covariances and their differences alive at once
ALIVE = 100  # of them, at once, in an activation


@torch.no_grad()
def distance(
    network: Layer,
    x: Any,
    y: Any = None,
    kind: str = "ntk",
    *,
    pairs: str = "all",
    dtype: torch.dtype = torch.float64,
) -> Tensor:
    """Return `|Phi(x) - Phi(y)| = sqrt(K(x, x) + K(y, y) - 2 K(x, y))` for a network's kernel K.

    The difference of the two inputs is followed through the network beside their covariances, in
    float64: near inputs lose no digits, where the formula above loses all of them.

    The relative error, of inputs of relative difference e taken as exact, is a few 1e-16 for each
    layer at any e, for dense networks and for pictures with patches, pooling, biases and residual
    blocks. The exceptions, all of them rounding under a square root:

    - "ntk" with ReLU or LeakyReLU, where pictures are pooled and different patches of one picture
      have one direction, as in flat areas: at most 1e-7 / e; measured below 1e-8 down to e = 1e-6,
      below 1e-7 down to 1e-11.
    - "ntk" with ReLU or LeakyReLU, where y is nearly a multiple of x: at most 1e-7 / e. An error
      of rounding in the inputs themselves does as much to a multiple: 1e-16 / e^2.
    - Activations whose closed form has no rule for differences here, as your own: 1e-16 / e^2.

    Args:
        network: The network.
        x: (n, d) or (n, channels, height, width), floats.
        y: (m, ...) like `x`; by default `x`, and the answer is symmetric.
        kind: "ntk" or "nngp".
        pairs: "all" x against all y, or "each" x with its own y, where n = m.
        dtype: Of the answer, float32 or float64.

    Returns:
        (n, m), or (n,) for "each", on the device of `x`; exactly 0 for equal inputs. It carries no
        gradient.

    Raises:
        InputError: Inputs and network do not fit, or the answer does not fit in memory.
    """
    check_request(network, "ntk", dtype)
    choose("kind of distance", kind, KINDS)
    x, y = _inputs(x, y, choose("choice of pairs", pairs, PAIRS))
    check_fit(network, x)  # what is wrong is told first
    if pairs == "each":
        rows = columns = torch.arange(len(x), device=x.device)
        return _chunked(network, x, y, kind, rows, columns).to(dtype)
    refuse_too_large(
        f"distances of {len(x):,} x {len(y):,}", 24 * len(x) * len(y), "give fewer inputs"
    )
    return _matrix(network, x, y, kind).to(dtype)


def _inputs(x: Any, y: Any, pairs: str) -> tuple[Tensor, Tensor]:
    """Return both inputs, checked."""
    x = as_inputs("x", x)
    if y is None:
        if pairs == "each":
            raise InputError('pairs="each" takes an x with its own y: give y, or pairs="all"')
        return x, x
    y = as_inputs("y", y)
    check_alike(x, y)
    if pairs == "each" and len(x) != len(y):
        raise InputError(
            f'pairs="each" takes as many x as y, not {len(x)} and {len(y)}: '
            'pairs="all" takes all against all'
        )
    return x, y


def _matrix(network: Layer, x: Tensor, y: Tensor, kind: str) -> Tensor:
    """Return all distances (n, m); of x to itself those above the diagonal are computed."""
    count, other = len(x), len(y)
    if y is not x:
        rows = torch.arange(count, device=x.device).repeat_interleave(other)
        columns = torch.arange(other, device=x.device).repeat(count)
        return _chunked(network, x, y, kind, rows, columns).reshape(count, other)
    rows, columns = torch.triu_indices(count, count, 1, device=x.device)
    found = x.new_zeros(count, count, dtype=torch.float64)
    found[rows, columns] = _chunked(network, x, x, kind, rows, columns)
    return found + found.mT


def _chunked(
    network: Layer, x: Tensor, y: Tensor, kind: str, rows: Tensor, columns: Tensor
) -> Tensor:
    """Return the distances (pairs,) of x[rows] to y[columns], so many at a time."""
    places = math.prod(x.shape[2:])
    each = places**2 if positions(network) == "all" else places
    size = max(1, CHUNK_BYTES // (8 * ALIVE * each + 32 * math.prod(x.shape[1:])))
    found = x.new_zeros(len(rows), dtype=torch.float64)
    for low in range(0, len(rows), size):
        some = slice(low, low + size)
        one, other = x[rows[some]].double(), y[columns[some]].double()
        found[some] = _distances(network, one, other, tangent=kind == "ntk")
    return found


def _distances(network: Layer, x: Tensor, y: Tensor, *, tangent: bool) -> Tensor:
    """Return the distances (n,) of each x (n, ...) to its own y (n, ...)."""
    after = _after(network, _start(x, y, positions(network), tangent=tangent))
    found = after.cross if after.tangent is None else after.tangent
    return found.mixed.clamp(min=0).sqrt()


@dataclass(frozen=True)
class Apart:
    """What layers carry forward, of batch axes (n,) as in `State`.

    Attributes:
        cross: Covariances between positions of x or y.
        tangent: The tangent kernel, likewise; None where it is not wanted.
        axes: How many groups of (h, w) there are: 0, 1 or 2.
    """

    cross: Differences
    tangent: Differences | None
    axes: int


def _start(x: Tensor, y: Tensor, places: str, *, tangent: bool) -> Apart:
    """Return the state of raw inputs, whose differences are inner products of differences."""
    step = y - x
    axes = start_same(x[:1], y[:1], positions=places, tangent=False).axes
    found = Differences(
        *(
            start_same(one, other, positions=places, tangent=False).cross
            for one, other in ((x, x), (step, x), (x, step), (step, step))
        )
    )
    return Apart(found, found * 0.0 if tangent else None, axes)


def _after(layer: Layer, apart: Apart) -> Apart:
    """Return the state after a layer."""
    if isinstance(layer, Sequential):
        for step in layer.steps:
            apart = _after(step, apart)
        return apart
    if isinstance(layer, Sum):
        return _summed([_after(branch, apart) for branch in layer.branches])
    if isinstance(layer, Activation):
        return _activated(layer, apart)
    if isinstance(layer, Weighted):
        return _weighed(layer, apart)
    if isinstance(layer, Flatten | Pad2d | Pooling | Scale):
        return _mapped(layer, apart)
    raise InputError(
        f"{layer!r} has no rule for distances: take it out, or subtract kernels that gram gives"
    )


def _mapped(layer: Layer, apart: Apart) -> Apart:
    """Return the state after a layer that is linear in covariances."""
    cross = apart.cross.stacked()
    tangent = None if apart.tangent is None else apart.tangent.stacked()
    after = layer(State(cross, cross, cross, tangent, apart.axes))
    mapped = None if after.tangent is None else Differences(*after.tangent)
    return Apart(Differences(*after.cross), mapped, after.axes)


def _weighed(layer: Weighted, apart: Apart) -> Apart:
    """Return the state after weights and biases; of differences the biases cancel."""
    after = _mapped(replace(layer, bias_std=0.0), apart)
    added = layer.bias_std**2
    tangent = None if after.tangent is None else after.tangent + added
    return Apart(after.cross + added, tangent, after.axes)


def _activated(layer: Activation, apart: Apart) -> Apart:
    """Return the state after an activation."""
    cross, axes = apart.cross, apart.axes
    step = cross.first + (cross.second + cross.mixed)
    own = [variances(one, axes) for one in (cross.value, step, cross.mixed)]
    a, b = (Variances(*of) for of in zip(*(against(one, one, axes) for one in own), strict=True))
    dual, slope = dual_and_slope(layer, Units(cross, a, b, _same(cross.value, axes)))
    tangent = None if apart.tangent is None else apart.tangent * slope
    return Apart(dual, tangent, axes)


def _same(k: Tensor, axes: int) -> Tensor:
    """Return where both positions of covariances are one: all of them for equal positions."""
    if axes < 2:
        return torch.ones((), dtype=torch.bool, device=k.device)
    height, width = k.shape[-2:]
    flat = torch.eye(height * width, dtype=torch.bool, device=k.device)
    return flat.reshape(height, width, height, width)


def _summed(parts: list[Apart]) -> Apart:
    """Return the sum of branches."""
    cross, tangent = parts[0].cross, parts[0].tangent
    for part in parts[1:]:
        cross = cross + part.cross
        if tangent is not None and part.tangent is not None:
            tangent = tangent + part.tangent
    return Apart(cross, tangent, parts[0].axes)
