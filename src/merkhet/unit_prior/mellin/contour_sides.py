"""Three integrals along vertical lines: the upper tail, the lower tail, the density.

With M(s) = E[x^s; x not 0] and s = c + i tau, (1/2 pi) times the integral over tau of
M(s) t^-s / s is P(x > t) for c > 0 and -P(0 < x <= t) for c < 0; that of M(s) t^-s is t times the
density of x at t. The best c makes the integrand's size at tau = 0 least: its saddlepoint.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from merkhet.core.errors import InputError
from merkhet.unit_prior.mellin.transform import Chain, Line, Rough

HIGHEST = 1e300  # c beyond which nothing is told apart
OFF, OFF_AT_POLE = 1.4, 3.0  # standard deviations of y that its contour's centre is above it
STEPS = 400  # far more than Newton's method ever takes
ROUNDED = 1e-14  # of y: nearer its centre is not told apart
STRIDE = 20.0  # the farthest it goes at once


class Side(Protocol):
    """One of the integrals: where its c may lie, and what divides M.

    Attributes:
        divided: Whether M is divided by s.
    """

    divided: bool

    def place(self, u: float, pole: float) -> float:
        """Return c for a real u, increasing."""

    def coordinate(self, c: float, pole: float) -> float:
        """Return the u of c."""

    def speed(self, c: float, pole: float) -> float:
        """Return dc/du at c."""


@dataclass(frozen=True)
class Upper:
    """P(x > t): c > 0, log c = u."""

    divided = True

    def place(self, u: float, pole: float) -> float:
        """Return c for a real u, increasing."""
        return math.exp(u)

    def coordinate(self, c: float, pole: float) -> float:
        """Return the u of c."""
        return math.log(c)

    def speed(self, c: float, pole: float) -> float:
        """Return dc/du at c."""
        return c


@dataclass(frozen=True)
class Lower:
    """P(0 < x <= t): pole < c < 0, u the logit of c's place between them."""

    divided = True

    def place(self, u: float, pole: float) -> float:
        """Return c for a real u, increasing."""
        return pole / (1 + math.exp(u))

    def coordinate(self, c: float, pole: float) -> float:
        """Return the u of c."""
        return math.log((c - pole) / -c)

    def speed(self, c: float, pole: float) -> float:
        """Return dc/du at c."""
        return (c - pole) * c / pole


@dataclass(frozen=True)
class Density:
    """t times the density: c > pole, log(c - pole) = u."""

    divided = False

    def place(self, u: float, pole: float) -> float:
        """Return c for a real u, increasing."""
        return pole + math.exp(u)

    def coordinate(self, c: float, pole: float) -> float:
        """Return the u of c."""
        return math.log(c - pole)

    def speed(self, c: float, pole: float) -> float:
        """Return dc/du at c."""
        return c - pole


UPPER, LOWER, DENSITY = Upper(), Lower(), Density()


def centre(side: Side, line: Line) -> tuple[float, float]:
    """Return the y = log t whose saddlepoint c is, and the derivative of that y in c.

    The size of the integrand at tau = 0 is exp(log M(c) - c y), over |c| where M is divided.
    """
    if not side.divided:
        return line.first, line.second
    return line.first - 1 / line.c, line.second + 1 / line.c / line.c


def off_centre(c: float) -> float:
    """Return how many standard deviations below its line's centre a y should be.

    At a pole the saddlepoint is so near that thousands of nodes are needed: c goes farther from
    it, and some digits of the level are given for that.
    """
    return OFF + OFF_AT_POLE * max(0.0, -c)


def near_saddle(transform: Chain | Rough, side: Side, y: float, start: float) -> Line:
    """Return a line whose integrand at t = exp(y) is within a few powers of e of the least.

    Its c is to the right of the saddlepoint, where fewer nodes are needed. Found by Newton's
    method until there is a bracket, then by false position and halving in turn.

    Args:
        transform: M.
        side: The integral.
        y: log t.
        start: A first c.

    Raises:
        InputError: The saddlepoint is no float64 apart from the pole.
    """
    low, high = (-math.inf, 0.0), (math.inf, 0.0)  # u and its gap
    u = side.coordinate(start, transform.pole)
    for turn in range(STEPS):
        line = transform.at(side.place(u, transform.pole))
        middle, slope = centre(side, line)
        gap = y - middle + off_centre(line.c) * math.sqrt(slope)
        if abs(gap) <= max(math.sqrt(slope) / 2, ROUNDED * abs(y)) or line.c > HIGHEST:
            return line
        low, high = ((u, gap), high) if gap > 0 else (low, (u, gap))
        if math.isinf(low[0]) or math.isinf(high[0]):
            speed = slope * side.speed(line.c, transform.pole)
            if not speed > 0:
                raise InputError(
                    f"the density of these units together at log t = {y:.4g}, less the log of the "
                    "scale, lies at a pole and is not computed in float64: ask for fewer units"
                )
            step = gap / speed
            u += min(max(step, -STRIDE), STRIDE)
        else:
            share = 0.5 if turn % 2 else low[1] / (low[1] - high[1])
            u = low[0] + share * (high[0] - low[0])
    raise AssertionError(f"no saddlepoint for log t = {y}")
