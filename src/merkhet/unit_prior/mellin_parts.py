"""The density of several ReLU units: a sum over the least number of active units of any layer."""

from __future__ import annotations

import math

import numpy as np

from merkhet.unit_prior.contour_sides import DENSITY
from merkhet.unit_prior.contours import Contours
from merkhet.unit_prior.law import Floats, WithError
from merkhet.unit_prior.mellin import Chain, Transform
from merkhet.unit_prior.mellin_weakest import Weakest

NOTHING = -40.0  # log of a part's bound over the density, below which it goes into the error
NEAREST = 0.5  # to a part's pole, of the line that its bound is taken on


class RadialParts:
    """t times the density at t of the length of m units, but for their scale.

    Parts that Markov's bound shows to be nothing are left out, and the bound is in the error.

    Args:
        widths: H_1 ... H_L.
        units: m.
        log_mass: log of the probability that no layer is dead.
    """

    def __init__(self, widths: tuple[int, ...], units: int, log_mass: float) -> None:
        last = min(units + 1, min(widths))
        self.units = units
        self._main = Contours(Transform(widths, 0.0, units, last), DENSITY, log_mass)
        few: list[Chain] = [Weakest(widths, units, count) for count in range(last - 1, 0, -1)]
        self._rest = [Contours(one, DENSITY, log_mass) for one in few]
        self._logs: dict[tuple[int, float], float] = {}

    def log_at(self, y: Floats) -> WithError:
        """Return the log at t = exp(y), (n,), and a bound of its error."""
        value, error = self._main.log_at(y)
        for place, part in enumerate(self._rest):
            bound = self._bound(place, y)
            kept = bound > value + NOTHING
            error = error + np.where(kept, 0.0, np.exp(np.minimum(bound - value, 0.0)))
            if kept.any():
                more, off = part.log_at(y[kept])
                total = np.logaddexp(value[kept], more)
                error[kept] = np.exp(value[kept] - total) * error[kept]
                error[kept] += np.exp(more - total) * off
                value[kept] = total
        return value, error

    def _bound(self, place: int, y: Floats) -> Floats:
        """Return the log of a bound of a part, by Markov's inequality on the main part's lines."""
        pole = self._rest[place].transform.pole
        lines = {max(one, pole + NEAREST) for one in self._main.lines}
        bounds = [self._log(place, c) - c * y + self._log_factor(c) for c in sorted(lines)]
        found: Floats = np.min(bounds, axis=0)
        return found

    def _log(self, place: int, c: float) -> float:
        """Return log M(c) of a part, and its rounding error on top."""
        if (place, c) not in self._logs:
            line = self._rest[place].transform.at(c)
            self._logs[place, c] = line.log + line.slack
        return self._logs[place, c]

    def _log_factor(self, c: float) -> float:
        """Return the log of what bounds t times the density by Markov's bound."""
        return 1 + math.log(self.units + c) if c > 0 else math.log(self.units)
