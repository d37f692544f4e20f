"""Where the integrand of a moment has its mass: places of log|g| and the density there."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from merkhet.core.errors import InputError
from merkhet.unit_prior.laws.law import Floats, Law
from merkhet.unit_prior.laws.quantiles import quantile
from merkhet.unit_prior.mellin.radii import EPS, LOG_2

NODES = 4097  # of the places that serve low orders
OWN = 2049  # of the places of one order, at the least
FAR = -80.0  # log of the probability up to which the first places go
DROP = 46.0  # log of the integrand, below its largest, beyond which it is left out
STEEP = 3.0  # change of its log between places that is not told apart
STEP = 0.25  # in log|g|, of the search beyond the first places
LOWEST, HIGHEST = -700.0, 700.0  # log|g|
ROUNDS = 80  # of a search whose steps grow or shrink by a factor

Logs = Callable[["Places"], Floats]  # the log of the size of an integrand at places


@dataclass(frozen=True)
class Places:
    """Evenly spaced log|g|, (k,), the log density of g there on one side, and its error."""

    x: Floats
    log_density: Floats
    error: Floats

    @property
    def step(self) -> float:
        """Return their spacing."""
        return float(self.x[-1] - self.x[0]) / (len(self.x) - 1)


class Mass:
    """Places for one law of g after another integrand, made as they are asked for.

    Args:
        law: Of g.
    """

    def __init__(self, law: Law) -> None:
        self.law = law
        self._first: Places | None = None

    def first(self) -> Places:
        """Return places from where e^x is nothing to where P(|g| > e^x) is."""
        if self._first is None:
            log_p = np.array([math.log1p(-self.law.zero_mass) - LOG_2, FAR])
            ends = np.maximum(quantile(self.law, log_p)[0], 1e-300)
            start = max(math.log(ends[0]) - DROP, LOWEST)
            self._first = self.at(np.linspace(start, min(math.log(ends[1]), HIGHEST), NODES))
        return self._first

    def at(self, x: Floats) -> Places:
        """Return places of one's own."""
        return Places(x, *self.law.log_density(np.exp(x)))

    def of(self, logs: Logs, *, whole: bool = False) -> Places:
        """Return places at which an integrand in x = log|g| is told well and beyond which it is 0.

        Args:
            logs: The log of its size; one peak beyond the first places, if it rises there.
            whole: Whether to go down to the first of the first places in any case.

        Raises:
            InputError: It is still large where |g| is no float64.
        """
        first = self.first()
        values = logs(first)
        best = int(np.argmax(values))
        if np.isneginf(values[best]):
            return first
        if values[[0, -1]].max() < values[best] - DROP and _smooth(values, best):
            return first
        peak, top, scale = self._peak(logs, float(first.x[best]), first.step)
        high = self._end(logs, peak, top, scale)
        low = self._end(logs, peak, top, -scale)
        inside = first.x[values > top - DROP]
        low = min([low, *(first.x if whole else inside)[:1]])
        count = max(OWN, math.ceil((high - low) / first.step) | 1)
        return self.at(np.linspace(low, high, count))

    def _peak(self, logs: Logs, x: float, step: float) -> tuple[float, float, float]:
        """Return a peak, the log there, and a step that changes it little: uphill, then closer."""
        step = max(step, STEP)
        for _ in range(ROUNDS):
            near = np.clip(x + step * np.arange(-4, 5), LOWEST, HIGHEST)
            values = logs(self.at(near))
            best = int(np.argmax(values))
            x = float(near[best])
            if best in (0, 8) and LOWEST < x < HIGHEST:
                step *= 2  # it rises beyond
                continue
            sides = values[[max(best - 1, 0), min(best + 1, 8)]]
            told = values[best] - sides.min() >= STEEP + _noise(values[best])
            if x >= HIGHEST or not told or step <= 8 * EPS * (1 + abs(x)):
                return x, float(values[best]), step
            step /= 4
        raise AssertionError("no peak")

    def _end(self, logs: Logs, peak: float, top: float, step: float) -> float:
        """Return where an integrand is nothing, on the side of its peak that `step` points to."""
        least = top - DROP - _noise(top)
        for _ in range(ROUNDS):
            x = min(max(peak + step, LOWEST), HIGHEST)
            if float(logs(self.at(np.array([x])))[0]) < least or x == LOWEST:
                return x
            if x == HIGHEST:
                raise InputError(
                    "a moment that |g| beyond 1e304 decides: give a lower order, or smaller scales"
                )
            step *= 2
        raise AssertionError("no end")


def _smooth(values: Floats, best: int) -> bool:
    """Return whether places are close enough together for the peak."""
    near = values[max(best - 2, 0) : best + 3]
    return bool(values[best] - near.min() < STEEP)


def _noise(log: float) -> float:
    """Return what rounding may do to the log of an integrand."""
    return 64 * EPS * abs(float(log))
