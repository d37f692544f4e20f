"""The density of several ReLU units: a sum over the least number of active units of any layer."""

from __future__ import annotations

import math

import numpy as np

from merkhet.unit_prior.laws.law import Floats, WithError
from merkhet.unit_prior.mellin.contour_sides import DENSITY
from merkhet.unit_prior.mellin.contours import Contours
from merkhet.unit_prior.mellin.transform import Chain, Transform
from merkhet.unit_prior.mellin.weakest import Weakest

NOTHING = -40.0  # log of a part's bound over the density, below which it goes into the error
NEAREST = (0.5, 4.0, 32.0)  # to a part's pole, of lines that its bound is taken on
UNSURE = 0.5  # error of a part's log, above which its bound serves better


class RadialParts:
    """t times the density at t of the length of m units, but for their scale.

    Parts that Markov's bound shows to be nothing, and those that cancel so far out that they
    cannot be computed, are left out, and the bound is in the error.

    Args:
        widths: H_1 ... H_L.
        units: m.
        log_mass: log of the probability that no layer is dead.
    """

    def __init__(self, widths: tuple[int, ...], units: int, log_mass: float) -> None:
        last = min(units + 1, min(widths))
        self.units = units
        few: list[Chain] = [Weakest(widths, units, count) for count in range(last - 1, 0, -1)]
        every = [Transform(widths, 0.0, units, last), *few]
        self._parts = [Contours(one, DENSITY, log_mass) for one in every]
        self._logs: dict[tuple[int, float], float] = {}

    def log_at(self, y: Floats) -> WithError:
        """Return the log at t = exp(y), (n,), and a bound of its error."""
        value, doubt = np.full_like(y, -np.inf), np.full_like(y, -np.inf)
        for place, part in enumerate(self._parts):
            bound = self._bound(place, y)
            more, off = np.full_like(y, -np.inf), np.full_like(y, np.inf)
            kept = bound > value + NOTHING
            if kept.any():
                more[kept], off[kept] = part.log_at(y[kept])
            sure = np.isfinite(more) & (off >= 0) & (off < UNSURE)
            with np.errstate(divide="ignore"):
                own = np.log(np.where(sure, off, 1.0)) + np.where(sure, more, bound)
            value = np.logaddexp(value, np.where(sure, more, -np.inf))
            doubt = np.logaddexp(doubt, own)
        return value, np.exp(doubt - np.where(np.isneginf(value), 0.0, value))

    def _bound(self, place: int, y: Floats) -> Floats:
        """Return the log of a bound of a part, by Markov's inequality on some lines."""
        pole = self._parts[place].transform.pole
        lines = {max(one, pole + NEAREST[0]) for one in self._parts[0].lines}
        lines |= {pole + away for away in NEAREST}
        bounds = [self._log(place, c) - c * y + self._log_factor(c) for c in sorted(lines)]
        found: Floats = np.min(bounds, axis=0)
        return found

    def _log(self, place: int, c: float) -> float:
        """Return log M(c) of a part, and its rounding error on top."""
        if (place, c) not in self._logs:
            line = self._parts[place].transform.at(c)
            self._logs[place, c] = line.log + line.slack
        return self._logs[place, c]

    def _log_factor(self, c: float) -> float:
        """Return the log of what bounds t times the density by Markov's bound."""
        return 1 + math.log(self.units + c) if c > 0 else math.log(self.units)
