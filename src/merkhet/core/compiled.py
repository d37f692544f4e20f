"""What compiled loops are made of: decorators, bits of floats, a vectorising exponential.

Import this where it is used: numba is slow to load. Numba keeps compiled code until the file of a
function changes and does not look at the files of the functions that it calls, so what stands here
must not change in meaning: after a change, remove the `__pycache__` folders.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba as nb
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

exact: Callable[..., Any] = nb.njit(nogil=True, cache=True, error_model="numpy")
# Sums may be reordered, so that they are vectorised: the order is fixed when it is compiled.
summing: Callable[..., Any] = nb.njit(
    nogil=True, cache=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz"}
)
# And quotients may be products with the inverse.
vectorised: Callable[..., Any] = nb.njit(
    nogil=True, cache=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz", "arcp"}
)


@intrinsic
def float_of(_context: Any, _bits: Any) -> Any:
    """Read 32 bits as a float."""

    def generate(_target: Any, builder: Any, _signature: Any, given: Any) -> Any:
        return builder.bitcast(given[0], ir.FloatType())

    return types.float32(types.uint32), generate


@intrinsic
def bits_of(_context: Any, _value: Any) -> Any:
    """Read a float as 32 bits."""

    def generate(_target: Any, builder: Any, _signature: Any, given: Any) -> Any:
        return builder.bitcast(given[0], ir.IntType(32))

    return types.uint32(types.float32), generate


@exact
def exponential(x: np.float32) -> np.float32:
    """Return exp(x) for x at most 0, to 1e-7 of itself and 0 below -87, in a form that vectorises.

    `exp(x) = 2**n exp(r)`, `|r| <= ln(2) / 2`, with the Taylor polynomial of degree 7 for exp(r)
    (its remainder is below 6e-9) and n put into the exponent's bits.
    """
    n = np.floor(x * np.float32(1.4426950408889634) + np.float32(0.5))
    r = (x - n * np.float32(0.693145751953125)) - n * np.float32(1.428606765330187e-06)
    y = np.float32(1 / 5040)
    for factor in (1 / 720, 1 / 120, 1 / 24, 1 / 6, 0.5, 1.0, 1.0):
        y = y * r + np.float32(factor)
    scale = float_of(np.uint32(np.int32(n) + np.int32(127)) << np.uint32(23))
    return y * scale if not x < np.float32(-87.0) else np.float32(0)
