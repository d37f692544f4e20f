"""Tilted laws of a sum of squares that cover where it can lie, by rising mean."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from merkhet.unit_prior.grid.nodes import Squares
from merkhet.unit_prior.grid.tilts import CAPPED, Ladder, Tilt, capped

JUMP = 3.0  # of means of neighbouring tilts, above which there are capped laws between
BROAD, SKIP = 0.4, 3.0  # relative standard deviation, ratio of means
CAPS = 1.6  # ratio of their caps


@dataclass(frozen=True, eq=False)
class Window:
    """A law of squares and a tilt of their sum's.

    Attributes:
        squares: All of them, or those up to a cap.
        tilt: With the mean about which it is precise.
        cap: The largest square kept.
    """

    squares: Squares
    tilt: Tilt
    cap: float = math.inf


class Windows:
    """The tilted laws of a sum of squares, each made once.

    Args:
        squares: The law of X at nodes.
        width: H, how many are summed.
        cost: Of the last of the upper tail.
        active: See `Ladder`.
    """

    def __init__(self, squares: Squares, width: int, cost: float, active: int) -> None:
        self.squares = squares
        self.width = width
        self.ladder = Ladder(squares, width, active)
        self.cost = cost
        self._upper: tuple[Window, ...] | None = None
        self._rungs: dict[int, Window] = {}

    def upper(self) -> tuple[Window, ...]:
        """Return the prior's law and tilts upwards, with capped laws where their means jump.

        A single square needs no tilt: its law is known at its nodes.
        """
        if self._upper is None:
            single = self.width == 1 or self.ladder[0].point
            last = 0 if single else self.ladder.top(self.cost)
            found = [self._rung(0)]
            for rung in range(1, last + 1):
                window = self._rung(rung)
                found += self._between(found[-1].tilt, window.tilt)
                found.append(window)
            self._upper = tuple(found)
        return self._upper

    def down_to(self, cost: float) -> tuple[Window, ...]:
        """Return those whose lower tail costs up to `cost`, and the upper ones."""
        if cost <= 0 or self.width == 1 or self.ladder[0].point:
            return self.upper()
        rungs = range(self.ladder.bottom(cost), 0)
        return tuple(self._rung(rung) for rung in rungs) + self.upper()

    def after(self, window: Window) -> Window | None:
        """Return a law that a window's goes over into where it is precise no longer.

        The next capped one; for a tilt downwards a tilt less so, whose means are 3 times larger if
        the laws are broad enough to overlap; none for others, beyond which there is nothing.
        """
        if window.cap < math.inf:
            windows = self.upper()
            return windows[windows.index(window) + 1]
        if window.tilt.theta >= 0:
            return None
        broad = window.tilt.std > BROAD * window.tilt.mean
        rung = next(key for key, made in self._rungs.items() if made is window) + 1
        while broad and rung < 0 and self.ladder[rung].mean < SKIP * window.tilt.mean:
            rung += 1
        return self._rung(rung)

    def _rung(self, rung: int) -> Window:
        """Return the window of a tilt of the whole law."""
        if rung not in self._rungs:
            self._rungs[rung] = Window(self.squares, self.ladder[rung])
        return self._rungs[rung]

    def _between(self, low: Tilt, high: Tilt) -> list[Window]:
        """Return capped laws with means between those of two tilts, if these are far apart."""
        if high.mean < JUMP * low.mean:
            return []
        count = math.ceil(math.log(high.mean / low.mean) / math.log(CAPS))
        found = []
        for cap in low.mean / CAPPED * np.geomspace(1.0, high.mean / low.mean, count + 1)[1:-1]:
            below, tilt = capped(self.squares, self.width, float(cap), low.theta)
            if low.mean < tilt.mean < high.mean:
                found.append(Window(below, tilt, float(cap)))
        return sorted(found, key=lambda window: window.tilt.mean)
