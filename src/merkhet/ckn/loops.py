"""Compiled loops of the fast path. Import this where it is used: numba is slow to load.

i, j row and column of a position; a prime, here _out, is a position after pooling; F filters, the
last axis of all maps, over which the inner loops run.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from merkhet.core.compiled import exponential, vectorised

F = np.float32
EXP, INVERSE, POLY = 0, 1, 2


@vectorised
def _values(kind: int, sharpness: F, products: Any, norm: F, values: Any) -> None:
    """Set values (F,) to norm k(products / norm), 0 where the norm is."""
    if norm == F(0):
        for f in range(values.shape[0]):
            values[f] = F(0)
        return
    inverse = F(1) / norm
    if kind == EXP:
        for f in range(values.shape[0]):
            u = min(products[f] * inverse, F(1))
            values[f] = norm * exponential((u - F(1)) * sharpness)
    elif kind == INVERSE:
        for f in range(values.shape[0]):
            values[f] = norm / (F(2) - min(max(products[f] * inverse, F(-1)), F(1)))
    else:
        for f in range(values.shape[0]):
            half = (F(1) + min(max(products[f] * inverse, F(-1)), F(1))) * F(0.5)
            values[f] = norm * half * half


@vectorised
def _slopes(kind: int, sharpness: F, products: Any, norm: F, above: Any, by_product: Any) -> F:
    """Set by_product (F,), the gradient by the products, and return that by the norm.

    above (F,) is the gradient by the values norm k(u), u = products / norm: the derivatives are
    k'(u) and k(u) - u k'(u).
    """
    by_norm = F(0)
    inverse = F(1) / norm if norm > F(0) else F(1)
    if kind == EXP:
        for f in range(above.shape[0]):
            u = min(products[f] * inverse, F(1))
            weighted = above[f] * exponential((u - F(1)) * sharpness)
            by_product[f] = weighted * sharpness
            by_norm += weighted * (F(1) - u * sharpness)
    elif kind == INVERSE:
        for f in range(above.shape[0]):
            u = min(max(products[f] * inverse, F(-1)), F(1))
            value = F(1) / (F(2) - u)
            by_product[f] = above[f] * value * value
            by_norm += above[f] * value * (F(1) - u * value)
    else:
        for f in range(above.shape[0]):
            u = min(max(products[f] * inverse, F(-1)), F(1))
            half = (F(1) + u) * F(0.5)
            by_product[f] = above[f] * half
            by_norm += above[f] * half * (half - u)
    if norm == F(0):
        by_product[:] = F(0)
    return by_norm


@vectorised
def _add(weight: F, values: Any, sums: Any) -> None:
    """Add weight times values (F,) to sums (F,)."""
    for f in range(sums.shape[0]):
        sums[f] += weight * values[f]


@vectorised
def _row(kernel: Any, products: Any, norms: Any, along: Any, values: Any, sums: Any) -> None:
    """Set sums (w_out, F) to the means along a row of its kernel values.

    products (w, F) and norms (w,) of the row; room values (F,).
    """
    (kind, sharpness), (weights, first, last) = kernel, along
    sums[:] = F(0)
    for j in range(norms.shape[0]):
        _values(kind, sharpness, products[j], norms[j], values)
        for j_out in range(first[j], last[j]):
            _add(weights[j_out, j], values, sums[j_out])


@vectorised
def pooled(
    low: int, high: int, kernel: Any, products: Any, norms: Any, down: Any, along: Any, out: Any
) -> None:
    """Set out (n, h_out, w_out, F) to the means of the kernel's values, for pictures low to high.

    products (n, h, w, F); norms (n, h, w); kernel (kind, sharpness); down and along (weights
    (out, in), first and last window of each position) over rows and columns.
    """
    weights, first, last = down
    values = np.empty(products.shape[3], np.float32)
    sums = np.empty((out.shape[2], products.shape[3]), np.float32)
    for n in range(low, high):
        out[n] = F(0)
        for i in range(products.shape[1]):
            _row(kernel, products[n, i], norms[n, i], along, values, sums)
            for i_out in range(first[i], last[i]):
                for j_out in range(sums.shape[0]):
                    _add(weights[i_out, i], sums[j_out], out[n, i_out, j_out])


@vectorised
def gradients(
    low: int,
    high: int,
    kernel: Any,
    products: Any,
    norms: Any,
    down: Any,
    along: Any,
    above: Any,
    by_product: Any,
    by_norm: Any,
) -> None:
    """Set the gradients by products (n, h, w, F) and norms (n, h, w), for pictures low to high.

    above (n, h_out, w_out, F) is the gradient by what `pooled` gives.
    """
    (kind, sharpness), (by_row, top, bottom), (by_column, first, last) = kernel, down, along
    row = np.empty((above.shape[2], above.shape[3]), np.float32)
    values = np.empty(above.shape[3], np.float32)
    for n in range(low, high):
        for i in range(products.shape[1]):
            row[:] = F(0)
            for i_out in range(top[i], bottom[i]):
                for j_out in range(row.shape[0]):
                    _add(by_row[i_out, i], above[n, i_out, j_out], row[j_out])
            for j in range(products.shape[2]):
                values[:] = F(0)
                for j_out in range(first[j], last[j]):
                    _add(by_column[j_out, j], row[j_out], values)
                norm, product = norms[n, i, j], products[n, i, j]
                by_norm[n, i, j] = _slopes(
                    kind, sharpness, product, norm, values, by_product[n, i, j]
                )
