"""Random numbers and products of them, compiled. Import where used: numba is slow to load.

A stream is the state of one xoshiro256++ generator, four words, and belongs to one block of
numbers: who computes which block does not change them.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import types
from numba.extending import intrinsic

from merkhet.core.compiled import exact

U = np.uint64
BLOCK = 4096  # numbers, or draws, of one stream
STRIPS = 256  # of the ziggurat
EDGE, AREA = 3.6541528853610088, 0.00492867323399  # where its tail begins; of a strip
LARGE, HALF = 2.0**400, 200  # products leave their exponent behind beyond this, its root's bits


def _ziggurat() -> tuple[Any, Any]:
    """Return edges (257,) of the strips, the widest first and 0 last, and the density there."""
    edges = np.zeros(STRIPS + 1)
    edges[0], edges[1] = AREA * math.exp(EDGE**2 / 2), EDGE
    for strip in range(2, STRIPS):
        height = math.exp(-(edges[strip - 1] ** 2) / 2) + AREA / edges[strip - 1]
        edges[strip] = math.sqrt(-2 * math.log(height))
    return edges, np.exp(-(edges**2) / 2)


EDGES, HEIGHTS = _ziggurat()
RATIOS = EDGES[1:] / EDGES[:-1]  # of a strip, how much lies under the density for sure


@intrinsic
def _ones(_context: Any, _word: Any) -> Any:
    """Count the ones in 64 bits."""

    def generate(_target: Any, builder: Any, _signature: Any, given: Any) -> Any:
        return builder.ctpop(given[0])

    return types.uint64(types.uint64), generate


@exact
def _word(s: Any) -> Any:
    """Return the next 64 bits of a stream (Blackman & Vigna, ACM TOMS 2021: xoshiro256++)."""
    total = s[0] + s[3]
    found = ((total << U(23)) | (total >> U(41))) + s[0]
    shifted = s[1] << U(17)
    s[2] ^= s[0]
    s[3] ^= s[1]
    s[1] ^= s[2]
    s[0] ^= s[3]
    s[2] ^= shifted
    s[3] = (s[3] << U(45)) | (s[3] >> U(19))
    return found


@exact
def _uniform(s: Any) -> float:
    """Return a number on (0, 1]."""
    return (float(_word(s) >> U(11)) + 1.0) * 2.0**-53


@exact
def _beyond(s: Any) -> float:
    """Return a normal number given that it is above EDGE (Marsaglia, 1964)."""
    while True:
        more = -math.log(_uniform(s)) / EDGE
        if -2 * math.log(_uniform(s)) > more * more:
            return EDGE + more


@exact
def _normal(s: Any) -> float:
    """Return a normal number by the ziggurat (Marsaglia & Tsang, JSS 2000)."""
    while True:
        bits = _word(s)
        strip = int(bits & U(STRIPS - 1))
        u = float(np.int64(bits) >> 11) * 2.0**-52  # on [-1, 1): the bits that choose are not in it
        x = u * EDGES[strip]
        if abs(u) < RATIOS[strip]:
            return x
        if strip == 0:
            return _beyond(s) if u > 0 else -_beyond(s)
        low, high = HEIGHTS[strip], HEIGHTS[strip + 1]
        if low + (high - low) * _uniform(s) < math.exp(-0.5 * x * x):
            return x


@exact
def _chi_squared(s: Any, degrees: int) -> float:
    """Return a sum of `degrees` squares of normals (gamma: Marsaglia & Tsang, ACM TOMS 2000)."""
    if degrees == 0:
        return 0.0
    if degrees == 1:
        return _normal(s) ** 2
    d = 0.5 * degrees - 1 / 3
    c = 1 / math.sqrt(9 * d)
    while True:
        x = _normal(s)
        v = 1 + c * x
        if v <= 0:
            continue
        v = v * v * v
        u = _uniform(s)
        if u < 1 - 0.0331 * (x * x) * (x * x) or math.log(u) < 0.5 * x * x + d * (
            1 - v + math.log(v)
        ):
            return 2 * d * v


@exact
def _half(s: Any, count: int) -> int:
    """Return how many of `count` fair coins show heads."""
    heads = U(0)
    for _ in range(count // 64):
        heads += _ones(_word(s))
    if count % 64:
        heads += _ones(_word(s) >> U(64 - count % 64))
    return int(heads)


@exact
def _squared(s: Any, width: int, below: float, above: float) -> float:
    """Return |phi(z)|^2 of z ~ N(0, I): above chi^2_K + below chi^2_(width - K).

    below and above are squares of the slopes; K of the units are above 0.
    """
    if below == above:
        return above * _chi_squared(s, width)
    active = _half(s, width)
    found = above * _chi_squared(s, active) if above > 0 else 0.0
    return found + below * _chi_squared(s, width - active) if below > 0 else found


@exact
def fill_normals(low: int, high: int, streams: Any, out: Any) -> None:
    """Set blocks low to high of out (n,) to normal numbers."""
    for block in range(low, high):
        s = streams[block].copy()
        for place in range(block * BLOCK, min((block + 1) * BLOCK, out.shape[0])):
            out[place] = _normal(s)


@exact
def fill_products(
    low: int, high: int, streams: Any, widths: Any, slopes: Any, scale: Any, out: Any
) -> None:
    """Set blocks low to high of draws in out (n, units) to scale R_1 ... R_(l-1) z.

    widths (l - 1,) of the layers before; slopes (l - 1, 2) below and above 0, squared, over the
    mean of R^2; scale (mantissa, exponent of 2), which has the roots of these means.
    """
    mantissa, exponent = scale
    for block in range(low, high):
        s = streams[block].copy()
        for draw in range(block * BLOCK, min((block + 1) * BLOCK, out.shape[0])):
            squared, shift = 1.0, 0
            for layer in range(widths.shape[0]):
                squared *= _squared(s, widths[layer], slopes[layer, 0], slopes[layer, 1])
                if squared > LARGE:
                    squared, shift = squared / LARGE, shift + HALF
                elif 0 < squared < 1 / LARGE:
                    squared, shift = squared * LARGE, shift - HALF
            root = mantissa * math.sqrt(squared)
            for unit in range(out.shape[1]):
                out[draw, unit] = math.ldexp(root * _normal(s), exponent + shift)
