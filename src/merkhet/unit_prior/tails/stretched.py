"""A stretched exponential above a threshold, by maximum likelihood: theta, scale, their errors.

Above the threshold u, P(X > x | X > u) = exp(-b (y^beta - 1)) with y = x / u: a Weibull law
truncated on the left, theta = 1 / beta, scale = u b^(-theta). Its amplitude at u is free, so that
-log P = A + (x / scale)^(1 / theta) with any A.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from merkhet.core.errors import InputError
from merkhet.core.intervals import Z95
from merkhet.unit_prior.tails.estimate import TailEstimate, with_interval
from merkhet.unit_prior.tails.sample import Floats, Largest, Samples, read_largest

METHOD = "stretched exponential"
POWER = 0.8  # k = n^0.8, as in the bias-reduced estimator: the free amplitude needs many values
STEEPEST = 500.0  # beta times the largest log y: far beyond a stretched exponential's
SMALL = 0.15  # a uniform variable gives about 0.1 at any k, weights with Gaussian tails 0.5 or more
FLATTEST = 1e-4  # beta below which the law is a power law to rounding


def stretched_fit(samples: Samples, k: int | None = None) -> TailEstimate:
    """Fit a stretched exponential to the largest values, by maximum likelihood.

    Args:
        samples: As in `hill_weibull`.
        k: How many of the largest values to use, from 20 to a quarter of all; by default n^0.8
            of n values, the same for every tail.

    Returns:
        The estimate, with the scale; standard errors are from the observed information, widened
        where units of a row go together, and the interval is one of log theta. Where the
        likelihood rises up to a power law, as with Student's t, theta is inf and a note gives the
        power.

    Raises:
        InputError: As in `hill_weibull`, or the values crowd at a bound more than any stretched
            exponential's. Of other bounded variables theta is small, and a note says so.
    """
    largest = read_largest(samples)
    return stretched_of(largest, largest.chosen(k, POWER))


def stretched_of(largest: Largest, k: int) -> TailEstimate:
    """Return the fit to the k largest values, which `largest.check` has let pass."""
    logs = largest.logs[:k] - largest.logs[k]
    beta = most_likely(logs)
    if beta is None:
        return _power_law(largest, k, 1 / float(logs.mean()))
    rate = k / float(np.expm1(beta * logs).sum())
    theta, scale = 1 / beta, math.exp(largest.logs[k]) * rate ** (-1 / beta)
    inverse = np.linalg.inv(information(logs, beta, rate))
    # Gradients of theta and of log scale, whose errors the inverse information gives.
    slopes = np.array([[-(theta**2), 0], [math.log(rate) * theta**2, -theta / rate]])
    influence = scores(logs, beta, rate) @ inverse @ slopes.T
    effects = [largest.design_effect(np.ascontiguousarray(column)) for column in influence.T]
    errors = np.sqrt(np.einsum("ij,jk,ik->i", slopes, inverse, slopes))
    spread = scale * float(errors[1]) * math.sqrt(effects[1])
    error = float(errors[0])
    found = with_interval(largest, k, METHOD, theta, error, effects[0], (scale, spread))
    if theta < SMALL:
        note = f"theta below {SMALL}: the values may be bounded, and then there is no theta"
        found = dataclasses.replace(found, notes=(*found.notes, note))
    return _on_log_scale(found)


def most_likely(logs: Floats) -> float | None:
    """Return beta at the maximum of the likelihood; None where that is at 0, a power law.

    With b at its best, k / sum(y^beta - 1), the score of beta over k falls from
    mean(L) - mean(L^2) / (2 mean(L)) at 0, L = log y: without a root if log y spreads as an
    exponential variable or wider.

    Args:
        logs: log y of each value, (k,).

    Raises:
        InputError: There is no root up to the steepest stretched exponential.
    """
    from scipy.optimize import brentq

    mean = float(logs.mean())
    if float(np.square(logs).mean()) >= 2 * mean**2 or _score(FLATTEST, logs) <= 0:
        return None
    steepest = STEEPEST / float(logs[0])
    if _score(steepest, logs) >= 0:
        raise InputError(
            f"the {len(logs)} largest values end like those of a bounded variable: no stretched "
            "exponential fits; give another k, or values without a bound"
        )
    return float(brentq(_score, FLATTEST, steepest, args=(logs,), rtol=1e-10))


def _score(beta: float, logs: Floats) -> float:
    """Return the derivative of the profile likelihood over k."""
    grown = np.expm1(beta * logs)
    return 1 / beta + float(logs.mean()) - float(((grown + 1) * logs).sum()) / float(grown.sum())


def information(logs: Floats, beta: float, rate: float) -> Floats:
    """Return the observed information of beta and b, (2, 2)."""
    powers = np.exp(beta * logs)
    cross = float((powers * logs).sum())
    bend = len(logs) / beta**2 + rate * float((powers * logs**2).sum())
    return np.array([[bend, cross], [cross, len(logs) / rate**2]])


def scores(logs: Floats, beta: float, rate: float) -> Floats:
    """Return the derivatives of each value's log likelihood by beta and b, (k, 2)."""
    powers = np.exp(beta * logs)
    return np.stack([1 / beta + logs - rate * powers * logs, 1 / rate + 1 - powers], 1)


def _on_log_scale(found: TailEstimate) -> TailEstimate:
    """Return the estimate with an interval of log theta, in which its law is nearer a Gaussian."""
    if found.interval is None:
        return found
    factor = math.exp(Z95 * found.standard_error / found.theta)
    return dataclasses.replace(found, interval=(found.theta / factor, found.theta * factor))


def _power_law(largest: Largest, k: int, index: float) -> TailEstimate:
    """Return theta = inf, with the power that fits best."""
    note = f"the likelihood rises up to a power law, P ~ x^-{index:.3g}: no theta is large enough"
    found = with_interval(largest, k, METHOD, math.inf, math.nan, 1.0)
    return dataclasses.replace(
        found, interval=None, effective_size=math.nan, notes=(*found.notes, note)
    )
