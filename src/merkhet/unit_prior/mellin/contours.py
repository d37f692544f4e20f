"""The contours of one law and one integral, made when a point asks for one and kept."""

from __future__ import annotations

import functools
import math

import numpy as np
from numpy.typing import NDArray

from merkhet.unit_prior.laws.law import Floats, WithError
from merkhet.unit_prior.mellin.contour import Contour, contour
from merkhet.unit_prior.mellin.contour_sides import Side, near_saddle
from merkhet.unit_prior.mellin.transform import Chain, Rough


class Contours:
    """Answers one integral at any points; neighbouring points share a contour.

    Args:
        transform: M.
        side: The integral.
        log_mass: log M(0).
    """

    def __init__(self, transform: Chain, side: Side, log_mass: float) -> None:
        self.transform, self.side, self.mass = transform, side, math.exp(log_mass)
        self._made: list[Contour] = []

    def log_at(self, y: Floats) -> WithError:
        """Return the log of the answer at t = exp(y), finite (n,), and a bound of its error."""
        value, error = np.empty_like(y), np.empty_like(y)
        order = np.argsort(y, kind="stable")
        self._fill(y[order], order, value, error)
        return value, error

    @functools.cached_property
    def middle(self) -> float:
        """The mean of log x over x other than 0."""
        return self.transform.at(0.0).first

    @property
    def lines(self) -> list[float]:
        """The c of every contour so far."""
        return [one.line.c for one in self._made]

    def _fill(self, y: Floats, order: NDArray[np.int64], value: Floats, error: Floats) -> None:
        """Fill in the answers of ascending y, at the places in `order`."""
        if not len(y):
            return
        middle = len(y) // 2
        one = self._at(float(y[middle]))
        low = min(int(np.searchsorted(y, one.low)), middle)
        high = max(int(np.searchsorted(y, one.high, side="right")), middle + 1)
        served = order[low:high]
        value[served], error[served] = one.log_at(y[low:high])
        self._fill(y[:low], order[:low], value, error)
        self._fill(y[high:], order[high:], value, error)

    def _at(self, y: float) -> Contour:
        """Return a contour that serves y, made anew if there is none."""
        near = min(self._made, key=lambda one: abs(one.low + one.high - 2 * y), default=None)
        if near is not None and near.low <= y <= near.high:
            return near
        start = near.line.c if near is not None and y <= self.middle else self._start(y)
        line = near_saddle(self.transform, self.side, y, start)
        made = contour(self.transform, self.side, line, self.mass)
        self._made.append(made)
        return made

    def _start(self, y: float) -> float:
        """Return a first c."""
        if y > self.middle:
            return near_saddle(Rough(self.transform), self.side, y, 1.0).c
        return self.side.place(0.0, self.transform.pole)
