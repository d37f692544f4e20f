"""The tail parameter as it is seen at a probability: the law's slope on Weibull paper."""

from __future__ import annotations

import math

import numpy as np

from merkhet.core.errors import InputError
from merkhet.unit_prior.laws.law import Floats, WithError
from merkhet.unit_prior.laws.quantiles import HIGHEST, quantile
from merkhet.unit_prior.laws.unit_laws import UnitLaw

JUMP = 1e-6  # of log P, over 1 + |log P|: the quantile found is of another probability
SPAN = 1e-2  # of log t, where the slope is taken by differences


def effective_tail(unit: UnitLaw, log_p: Floats) -> WithError:
    """Return 1 over the derivative of log(-log P(|u| > t)) in log t, and its error.

    Args:
        unit: The law of u.
        log_p: Where: log P(|u| > t), any shape.

    Raises:
        InputError: A probability that is 0, or that no t has.
    """
    alive = math.log1p(-unit.zero_mass) if unit.zero_mass < 1 else -math.inf
    if ((log_p >= alive) | (log_p == -np.inf)).any():
        raise InputError(
            f"probabilities up to exp({log_p.max(initial=-np.inf):g}): give them above 0 and under "
            f"P(u not 0) = {math.exp(alive):g}"
        )
    t, off = quantile(unit, log_p.reshape(-1))
    if ((t == 0) | np.isinf(t)).any():
        raise InputError(
            "a quantile is no float64, it overflows or is 0: give scales nearer to 1, the slope "
            "does not depend on them"
        )
    logs, error = unit.log_survival(t)
    if (np.abs(logs - log_p.reshape(-1)) > JUMP * (1 - logs)).any():
        raise InputError(
            "the survival jumps over a probability, as after an activation that is bounded: there "
            "is no slope; ask before the activation, or at larger probabilities"
        )
    log_fall, spread = _log_fall(unit, t, logs)
    value = np.exp(logs + np.log(-logs) - log_fall)
    relative = error * (1 + 1 / -logs) + spread + 4 * off / t
    return value.reshape(log_p.shape), (value * relative).reshape(log_p.shape)


def _log_fall(unit: UnitLaw, t: Floats, logs: Floats) -> WithError:
    """Return the log of -dP(|u| > t)/dlog t, and its error."""
    if unit.smooth:
        (right, error), (left, spread) = unit.log_density(t), unit.log_density(-t)
        return np.log(t) + np.logaddexp(right, left), np.maximum(error, spread)
    coarse, fine = (_difference(unit, np.log(t), span) for span in (2 * SPAN, SPAN))
    slope = (4 * fine[0] - coarse[0]) / 3
    return logs + np.log(slope), (np.abs(slope - fine[0]) + fine[1]) / slope


def _difference(unit: UnitLaw, x: Floats, span: float) -> WithError:
    """Return -dlog P/dx by central differences, and the part of its error that the law has."""
    (ahead, error), (behind, spread) = (
        unit.log_survival(np.exp(np.minimum(x + side * span, HIGHEST))) for side in (1, -1)
    )
    return (behind - ahead) / (2 * span), (error + spread) / (2 * span)
