"""The law of a unit of the first layer, which is Gaussian, in closed form."""

from __future__ import annotations

import math

import numpy as np

from merkhet.unit_prior.laws.law import Floats, WithError
from merkhet.unit_prior.mellin.radii import EPS

HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)
NEAR = 0.5  # of a standard deviation; nearer, erf is taken, farther, erfc


def log_survival(y: Floats) -> WithError:
    """Return log P(|z| > exp(y)), z ~ N(0, 1), and a bound of its error.

    Args:
        y: Any shape.
    """
    from scipy.special import erf, log_ndtr

    with np.errstate(over="ignore"):
        t = np.exp(y)
        near = np.log1p(-erf(np.minimum(t, NEAR) / math.sqrt(2)))
        far = log_ndtr(-np.maximum(t, NEAR)) + math.log(2)
        value = np.where(t < NEAR, near, far)
        error = EPS * (8 * np.abs(value) + 4 * np.maximum(t, t * t) * (1 + np.abs(y)))
    return value, np.where(np.isfinite(value), error, 0.0)


def log_joint_density(y: Floats, log_std: float, units: int) -> WithError:
    """Return the log density of m units of standard deviation exp(log_std), and its error.

    Args:
        y: Any shape, the log of their length over the standard deviation.
        log_std: In logs.
        units: m.
    """
    with np.errstate(over="ignore"):
        square = np.exp(2 * y) / 2
        error = EPS * (4 * square * (1 + np.abs(y)) + 4 * units * (1 + abs(log_std)))
    value = -square - units * (HALF_LOG_2PI + log_std)
    return value, np.where(np.isfinite(value), error, 0.0)
