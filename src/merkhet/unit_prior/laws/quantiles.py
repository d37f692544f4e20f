"""The t that |g| exceeds with a given probability, by root finding on the log survival."""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np

from merkhet.unit_prior.laws.law import Floats, WithError

LOWEST, HIGHEST = -744.0, 709.0  # logs of the numbers that there are
LEAST = math.ulp(0.0)
STEPS = 200
TOLERANCE = 4e-16
NUDGE = 1e-4  # of log t, for the slope that turns an error of log S into one of t


class Survival(Protocol):
    """What has a survival."""

    @property
    def zero_mass(self) -> float:
        """P(g = 0)."""

    def log_survival(self, t: Floats) -> WithError:
        """Return log P(|g| > t) and its error."""


def quantile(law: Survival, log_p: Floats) -> WithError:
    """Return t with log P(|g| > t) = log_p, and its error; 0 where even t = 0 is less likely.

    Where it is no float64 it is inf, or 0 with the least number for its error.

    Chandrupatla's method on log(-log S), which is nearly linear in log t in the tail.

    Args:
        law: Of |g|.
        log_p: (n,), at most 0; at -inf t is inf.
    """
    value = np.where(log_p == -np.inf, np.inf, 0.0)
    error = np.zeros_like(value)
    inside = (log_p < np.log1p(-law.zero_mass)) & (log_p > -np.inf)
    if inside.any():
        value[inside], error[inside] = _inside(law, log_p[inside])
    return value, error


def _inside(law: Survival, log_p: Floats) -> WithError:
    """Return t and its error where t = 0 is more likely, (n,)."""
    target = np.log(-log_p)
    low, high = _bracket(law, target)
    small, large = low == LOWEST, high == HIGHEST
    # An end is looked at only where the bracket reached it: that far out answers are dear.
    if small.any():
        small[small] = _gap(law, low[small], target[small]) > 0
    if large.any():
        large[large] = _gap(law, high[large], target[large]) < 0
    value, error = np.where(large, np.inf, 0.0), np.where(small, LEAST, 0.0)
    there = ~(small | large)
    if there.any():
        wanted = log_p[there]
        x = _root(law, target[there], low[there], high[there])
        value[there] = t = np.exp(x)
        logs, spread = law.log_survival(t)
        ahead, _ = law.log_survival(np.exp(np.minimum(x + NUDGE, HIGHEST)))
        slope = np.maximum((logs - ahead) / NUDGE, np.finfo(np.float64).tiny)
        off = np.abs(logs - wanted) + spread
        error[there] = t * (np.minimum(off, slope * 1e300) / slope + TOLERANCE * np.abs(x))
    return value, error


def _root(law: Survival, target: Floats, low: Floats, high: Floats) -> Floats:
    """Return x = log t between low and high where log(-log S(t)) is the target, (n,)."""
    below, above = (_gap(law, x, target) for x in (low, high))
    third, after = low, below
    part, done = np.full_like(target, 0.5), np.zeros(target.shape, bool)
    for _ in range(STEPS):
        x = high + part * (low - high)
        value = np.where(done, above, _gap(law, x, target))
        same = np.sign(value) == np.sign(above)
        third, after = np.where(same, high, low), np.where(same, above, below)
        low, below = np.where(same, low, high), np.where(same, below, above)
        high, above = x, value
        best = np.where(np.abs(above) < np.abs(below), high, low)
        least = TOLERANCE * (1 + np.abs(best)) / np.maximum(np.abs(low - high), 1e-300)
        done |= (least > 0.5) | (value == 0)
        if done.all():
            return best
        wanted = _inverse(low, high, third, below, above, after)
        wanted = np.where(np.isfinite(wanted), wanted, 0.5)
        part = np.where(done, 0.0, np.minimum(np.maximum(wanted, least), 1 - least))
    raise AssertionError("no quantile found")


def _inverse(
    low: Floats, high: Floats, third: Floats, below: Floats, above: Floats, after: Floats
) -> Floats:
    """Return Chandrupatla's step: inverse quadratic interpolation where it is safe, else half."""
    with np.errstate(all="ignore"):
        place = (high - low) / (third - low)
        share = (above - below) / (after - below)
        safe = (share**2 < place) & ((1 - share) ** 2 < 1 - place)
        first = above / (below - above) * after / (below - after)
        second = (third - high) / (low - high) * above / (after - above) * below / (after - below)
        found: Floats = np.where(safe, first + second, 0.5)
    return found


def _bracket(law: Survival, target: Floats) -> tuple[Floats, Floats]:
    """Return x below and above the root."""
    low, high = np.full_like(target, -1.0), np.full_like(target, 1.0)
    step = 2.0
    while (open_low := (_gap(law, low, target) > 0) & (low > LOWEST)).any():
        low = np.where(open_low, np.maximum(low - step, LOWEST), low)
        step *= 2
    step = 2.0
    while (open_high := (_gap(law, high, target) < 0) & (high < HIGHEST)).any():
        high = np.where(open_high, np.minimum(high + step, HIGHEST), high)
        step *= 2
    return low, high


def _gap(law: Survival, x: Floats, target: Floats) -> Floats:
    """Return log(-log S) less the target, which grows with x."""
    logs, _ = law.log_survival(np.exp(x))
    found: Floats = np.log(np.clip(-logs, 1e-320, 1e308)) - target
    return found
