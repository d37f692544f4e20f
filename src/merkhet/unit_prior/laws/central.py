"""Standard deviation and kurtosis from moments, with their errors."""

from __future__ import annotations

import math

from merkhet.unit_prior.mellin.radii import EPS

Number = tuple[float, float]  # a value and its error, absolute
LARGEST_LOG = math.log(1.79e308)


def exponential(log: float, error: float) -> Number:
    """Return the number with a log, inf where it is none in float64, and its error."""
    value = math.exp(log) if log < LARGEST_LOG else math.inf
    return value, value * error if math.isfinite(value) else 0.0


def central_moments(moments: list[float], error: float, log_scale: float) -> tuple[Number, Number]:
    """Return the standard deviation and the kurtosis from E u, E u^2, E u^3, E u^4.

    Args:
        moments: Of u over the scale.
        error: Relative, of each.
        log_scale: The log of the scale.
    """
    m1, m2, m3, m4 = moments
    variance = m2 - m1 * m1
    fourth = m4 - 4 * m1 * m3 + 6 * m1 * m1 * m2 - 3 * m1**4
    if variance == 0:
        return (0.0, 0.0), (math.nan, math.nan)
    off = (error + 4 * EPS) * (m2 + 2 * m1 * m1) / variance
    sizes = m4 + 8 * abs(m1 * m3) + 18 * m1 * m1 * m2 + 12 * m1**4
    if not math.isfinite(sizes):
        return exponential(log_scale + math.log(variance) / 2, off), (math.inf, 0.0)
    std, kurtosis = exponential(log_scale + math.log(variance) / 2, off), fourth / variance**2
    away = (error + 8 * EPS) * sizes / fourth
    return std, (kurtosis, kurtosis * (away + 2 * off))
