"""Answers at many points from few: splines in log t, whose orders tell their error."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from merkhet.unit_prior.laws.law import Floats, WithError

MANY = 64  # points from which it is worth it
SPACING = 0.1  # of the knots, in log t
MARGIN = 4  # knots beyond the points
ORDERS = (7, 5)


def from_few(function: Callable[[Floats], WithError], t: Floats) -> WithError:
    """Return a smooth function's values and errors at every t above 0, of t's shape.

    Where that is fewer, the function is asked at knots alone: it is a spline of order 7 in log t,
    and the difference to order 5 is added to the error.

    Args:
        function: From t (m,) to values and errors (m,).
        t: Of any shape.
    """
    given = np.asarray(t, dtype=np.float64)
    flat = given.ravel()
    if len(flat) < MANY:
        value, error = function(flat) if len(flat) else (flat, flat)
        return value.reshape(given.shape), error.reshape(given.shape)
    x = np.log(flat)
    first = math.floor(x.min() / SPACING) - MARGIN
    last = math.ceil(x.max() / SPACING) + MARGIN
    if 2 * (last - first) > len(flat):
        value, error = function(flat)
    else:
        value, error = _splined(function, SPACING * np.arange(first, last + 1.0), x)
    return value.reshape(given.shape), error.reshape(given.shape)


def _splined(function: Callable[[Floats], WithError], knots: Floats, x: Floats) -> WithError:
    """Return a function of e^knots (k,) at x (m,), and the error."""
    from scipy.interpolate import make_interp_spline

    value, error = function(np.exp(knots))
    fine, coarse = (make_interp_spline(knots, value, k=order)(x) for order in ORDERS)
    found: Floats = fine
    return found, np.interp(x, knots, error) + np.abs(fine - coarse)
