"""The tail parameter as it is seen at a probability: the law's slope on Weibull paper."""

from __future__ import annotations

import math

import numpy as np

from merkhet.core.errors import InputError
from merkhet.unit_prior.laws.law import Floats, WithError
from merkhet.unit_prior.laws.quantiles import HIGHEST, quantile
from merkhet.unit_prior.laws.unit_laws import UnitLaw
from merkhet.unit_prior.spec import Spec

ROUNDED = 4e-15  # of t, about which a law is looked at for a jump
JUMP = 1e-6  # of log P, over 1 + |log P|: the quantile found is of another probability
SPANS = 1e-2 * 8.0 ** -np.arange(9)  # of log t, where the slope is taken by differences
CHANGE = 0.15  # of log(-log P) over the widest difference, for it to be one


def asymptotic_tail(spec: Spec, layer: int, *, post: bool) -> float:
    """Return theta of the tail exp(-t^(1/theta)) as t grows without end.

    1/2 in layer 1; growth * theta + 1/2 from layer to layer, growth * theta after the activation.

    Raises:
        InputError: No such layer.
    """
    spec.check_layer(layer, post=post)
    growth, theta = spec.activation.growth, 0.5
    for _ in range(layer - 1):
        theta = growth * theta + 0.5
    return growth * theta if post else theta


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
    missed = np.abs(logs - log_p.reshape(-1)) > JUMP * (1 - logs)
    if missed.any():
        _refuse_jump(unit, float(t[missed][0]), float(log_p.reshape(-1)[missed][0]))
    log_fall, spread = _log_fall(unit, t, logs)
    value = np.exp(logs + np.log(-logs) - log_fall)
    with np.errstate(over="ignore"):
        relative = error * (1 + 1 / -logs) + spread + 4 * off / t
    if not (relative < 1).all():
        raise InputError(
            f"the slope at P = exp({logs[~(relative < 1)][0]:g}) is lost to rounding: ask at "
            "probabilities farther from 0 and 1, or before the activation"
        )
    return value.reshape(log_p.shape), (value * relative).reshape(log_p.shape)


def _refuse_jump(unit: UnitLaw, t: float, log_p: float) -> None:
    """Refuse a probability that no t has, naming those about it."""
    before, after = unit.log_survival(t * np.array([1 - ROUNDED, 1 + ROUNDED]))[0].tolist()
    raise InputError(
        f"no t has P(|u| > t) = exp({log_p:g}): it jumps from exp({before:.4g}) to exp({after:.4g})"
        f" at t = {t:g}, as after an activation that is bounded: give larger probabilities, or ask "
        "before the activation"
    )


def _log_fall(unit: UnitLaw, t: Floats, logs: Floats) -> WithError:
    """Return the log of -dP(|u| > t)/dlog t, and its error."""
    if unit.smooth:
        (right, error), (left, spread) = unit.log_density(t), unit.log_density(-t)
        return np.log(t) + np.logaddexp(right, left), np.maximum(error, spread)
    slope, spread = np.full_like(t, np.inf), np.full_like(t, np.inf)
    for span in SPANS.tolist():
        left = ~np.isfinite(spread)
        if not left.any():
            break
        (wide, _), (close, own) = (_difference(unit, np.log(t[left]), k * span) for k in (2, 1))
        with np.errstate(invalid="ignore"):  # beyond a bound
            told = (wide > 0) & (close > 0) & (4 * span * wide < CHANGE * np.abs(logs[left]))
            found = (4 * close - wide) / 3
            off = (np.abs(found - close) + own) / found
        slope[left], spread[left] = np.where(told, found, np.inf), np.where(told, off, np.inf)
    return logs + np.log(slope), spread


def _difference(unit: UnitLaw, x: Floats, span: float) -> WithError:
    """Return -dlog P/dx by central differences, and the part of its error that the law has."""
    (ahead, error), (behind, spread) = (
        unit.log_survival(np.exp(np.minimum(x + side * span, HIGHEST))) for side in (1, -1)
    )
    with np.errstate(invalid="ignore"):  # beyond a bound
        return (behind - ahead) / (2 * span), (error + spread) / (2 * span)
