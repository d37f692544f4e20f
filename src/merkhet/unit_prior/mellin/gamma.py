"""Ratios of Gamma functions by their logarithms, accurate where the logarithms are large.

log G(a + d) and log G(a) are each of the size a log a, and what is left of their difference is
rounded at that size. Stirling's series taken of the difference has the difference's own size.
"""

from __future__ import annotations

import math
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Complex = NDArray[np.complex128]
Numbers = TypeVar("Numbers", Floats, Complex)
LARGE = 32.0  # from here on four terms of Stirling's series leave 3e-17
SERIES = (1 / 12, -1 / 360, 1 / 1260, -1 / 1680)


def log_gamma_ratio(a: Floats, d: Floats | float) -> Floats:
    """Return log(Gamma(a + d) / Gamma(a)) for a > 0 and a + d > 0.

    Args:
        a: (k,).
        d: (k,) or a number.
    """
    from scipy.special import gammaln

    a, d = np.broadcast_arrays(np.asarray(a, np.float64), np.asarray(d, np.float64))
    large = (a >= LARGE) & (a + d >= LARGE)
    big, step = np.where(large, a, LARGE), np.where(large, d, 0.0)
    found: Floats = (big - 0.5) * np.log1p(step / big) + step * (np.log(big + step) - 1)
    found += _series(big + step) - _series(big)
    if not large.all():
        small = ~large
        found[small] = gammaln(a[small] + d[small]) - gammaln(a[small])
    return found


def log_gamma_turn(a: Floats, y: Floats) -> Complex:
    """Return log(Gamma(a + iy) / Gamma(a)) for a > 0, continuous in y from 0 at y = 0.

    Args:
        a: (k,) ascending.
        y: (n,).

    Returns:
        (k, n).
    """
    from scipy.special import gammaln, loggamma

    found = np.empty((len(a), len(y)), np.complex128)
    cut = int(np.searchsorted(a, LARGE))
    small, big = a[:cut, None], a[cut:, None]
    found[:cut] = loggamma(small + 1j * y) - gammaln(small)
    slope = y / big
    angle, stretch = np.arctan(slope), 0.5 * np.log1p(slope * slope)
    rest = _series(big + 1j * y) - _series(big)
    found[cut:].real = (big - 0.5) * stretch - y * angle + rest.real
    found[cut:].imag = (big - 0.5) * angle + y * (np.log(big) - 1 + stretch) + rest.imag
    return found


def trigamma(a: Floats) -> Floats:
    """Return the second derivative of log Gamma at a > 0, of any shape."""
    from scipy.special import zeta

    large = a >= LARGE
    inverse = 1 / np.where(large, a, LARGE)
    square = inverse * inverse
    found = inverse + square / 2 + inverse * square * (1 / 6 - square * (1 / 30 - square / 42))
    if not large.all():
        found[~large] = zeta(2.0, a[~large])
    return found


def stirling_rest(x: Floats) -> Floats:
    """Return log x! less Stirling's formula (x + 1/2) log x - x + log(2 pi)/2, x > 0, any shape."""
    from scipy.special import gammaln

    large = x >= LARGE
    found = _series(np.where(large, x, LARGE))
    if not large.all():
        small = x[~large]
        formula = (small + 0.5) * np.log(small) - small + 0.5 * math.log(2 * math.pi)
        found[~large] = gammaln(small + 1) - formula
    return found


def _series(z: Numbers) -> Numbers:
    """Return what Stirling's formula leaves of log Gamma(z)."""
    inverse = 1 / z
    square = inverse * inverse
    total = SERIES[3] * square
    for term in SERIES[2:0:-1]:
        total = (total + term) * square
    found: Numbers = (total + SERIES[0]) * inverse
    return found
