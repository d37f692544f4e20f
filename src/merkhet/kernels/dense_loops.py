"""Compiled loops of dense networks with ReLUs, float64. Import this where it is used.

A row of a Gram matrix goes through all layers in pieces that stay in the first-level cache.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from merkhet.core.compiled import vectorised

PIECE = 256  # columns
DEGREE = 22


def _arccos_by_root(v: Any) -> Any:
    """Return arccos(a) / sqrt(1 - a) of v = 2 a - 1, which is smooth up to a = 1."""
    left = np.maximum((1 - v) / 2, 1e-30)  # 1 - a
    return 2 * np.arcsin(np.sqrt(left / 2)) / np.sqrt(left)


_FIT = np.polynomial.Chebyshev.interpolate(_arccos_by_root, DEGREE)
# In powers of 2 a - 1, whose coefficients fall quickly: within 4e-16 of arccos(a) / sqrt(1 - a).
ARCCOS = tuple(float(c) for c in _FIT.convert(kind=np.polynomial.Polynomial).coef)


@vectorised
def _rectify(s: Any, t: Any, x: float, y: Any, inverse: float, inverses: Any, leak: float) -> None:
    """Put a leaky ReLU on covariances and tangent kernels s, t (M,), in place.

    x and y (M,) are roots of the variances; then their inverses, or 0.
    """
    bend = (1 - leak) ** 2 / 2
    for m in range(s.shape[0]):
        u = s[m] * (inverse * inverses[m])
        a = min(abs(u), 1.0)
        v = 2 * a - 1
        angle = ARCCOS[DEGREE]
        for power in range(DEGREE - 1, -1, -1):
            angle = angle * v + ARCCOS[power]
        root = math.sqrt(1 - a)
        angle = angle * root / math.pi
        k0 = 1 - angle if u > 0 else angle
        cosine = a if u > 0 else -a
        k1 = cosine * k0 + root * math.sqrt(1 + a) / math.pi
        s[m] = x * y[m] * (leak * cosine + bend * k1)
        t[m] = t[m] * (leak + bend * k0)


@vectorised
def through_layers(
    low: int, high: int, s: Any, t: Any, x: Any, y: Any, leaks: Any, scales: Any, upper: bool
) -> None:
    """Take rows of covariances and tangent kernels s, t (r, c) through pairs of layers, in place.

    x (layers, 2, r) and y (layers, 2, c): roots of the variances before each activation, and their
    inverses or 0; leaks (layers,) slopes below 0; scales (layers, 2) weight_std^2 and bias_std^2 of
    the layer after it. `upper` leaves out what is left of the diagonal.
    """
    for i in range(low, high):
        for first in range(i // PIECE * PIECE if upper else 0, s.shape[1], PIECE):
            last = min(first + PIECE, s.shape[1])
            some, tangents = s[i, first:last], t[i, first:last]
            for layer in range(leaks.shape[0]):
                norms, inverses = y[layer, 0, first:last], y[layer, 1, first:last]
                ends = x[layer, 0, i], x[layer, 1, i]
                _rectify(some, tangents, ends[0], norms, ends[1], inverses, leaks[layer])
                weight, bias = scales[layer, 0], scales[layer, 1]
                for m in range(some.shape[0]):
                    some[m] = weight * some[m] + bias
                    tangents[m] = some[m] + weight * tangents[m]
