"""Exponential tilts of a sum of squares: a ladder of them from the lower tail to the upper."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from merkhet.unit_prior.grid.nodes import Squares
from merkhet.unit_prior.laws.law import Floats

STEP = 2.5  # of a tilt, in inverse standard deviations of the sum
FRACTION = 0.5  # of the way to where a chi-square's moment generating function ends
CONSTANT = 1e-9  # relative standard deviation below which a sum is its mean
APART = 16.0  # the largest divergence of neighbours, both ways added (Jeffreys)
RATIO = 3.0  # the largest of means, downwards
CAPPED = 0.6  # where the mean of a capped law is put, as a part of the cap
HIGHEST = 1e6  # tilts looked at for it, times the cap
HALVINGS = 8
FEW = 14.0  # -log of the least lower tail that sums of few squares are followed to
FEWEST, MOST = -400, 4000  # tilts below and above 0


@dataclass(frozen=True)
class Tilt:
    """The law of A = X_1 + ... + X_H > 0 with density e^(theta a - log_mgf) to the prior's.

    Attributes:
        theta: The tilt.
        log_mgf: log E[e^(theta A), A > 0].
        mean: Of A > 0 under the tilt.
        std: Of A > 0 under the tilt.
        second: H E X^2 over P(A > 0), under the tilt.
    """

    theta: float
    log_mgf: float
    mean: float
    std: float
    second: float

    @property
    def cost(self) -> float:
        """Return theta mean - log_mgf: P(A about mean) is about e^-cost (Chernoff, Cramer)."""
        return self.theta * self.mean - self.log_mgf

    @property
    def point(self) -> bool:
        """Whether A is a number, as far as float64 tells."""
        return self.std <= CONSTANT * self.mean


def masses(squares: Squares, theta: float) -> tuple[Floats, float, float]:
    """Return tilted masses of X at its nodes (k,) and at 0, summing to 1, and log E e^(theta X)."""
    exponent = squares.log_weight + theta * squares.value
    top = max(float(exponent.max()), math.log(squares.zero) if squares.zero else -math.inf)
    one = np.exp(exponent - top)
    zero = squares.zero * math.exp(-top) if squares.zero else 0.0
    total = float(one.sum()) + zero
    return one / total, zero / total, math.log(total) + top


def alive(one: Floats, width: int) -> float:
    """Return the mass of A > 0, 1 - zero^H, to its own precision, for masses of X > 0 (k,)."""
    some = float(one.sum())
    return -math.expm1(width * math.log1p(-some)) if some < 1 else 1.0


def tilted(squares: Squares, width: int, theta: float) -> Tilt:
    """Return the law of a sum of `width` squares, given that it is not 0, under a tilt."""
    one, zero, log_mgf = masses(squares, theta)
    mass = alive(one, width) if zero else 1.0
    mean = float(one @ squares.value)
    variance = float(one @ (squares.value - mean) ** 2) + zero * mean**2
    second = width * float(one @ squares.value**2) / mass
    # E A^2 / mass - (E A / mass)^2, written so that it is exact where mass is 1.
    spread = (width * variance - (1 / mass - 1) * (width * mean) ** 2) / mass
    if mass < 0.5:
        spread = second + width * (width - 1) * mean**2 / mass - (width * mean / mass) ** 2
    std = math.sqrt(max(spread, 0.0))
    return Tilt(theta, width * log_mgf + math.log(mass), width * mean / mass, std, second)


class Ladder:
    """Tilts 0, 1, 2, ... upwards and -1, -2, ... downwards, made as they are asked for.

    Neighbours' laws overlap: a step is 2.5 inverse standard deviations, less where few squares
    are summed.

    Args:
        squares: The law of X at nodes.
        width: H, how many are summed.
        active: Fewest that are not 0 in what is asked: 1 where sums of 0 are left out.
    """

    def __init__(self, squares: Squares, width: int, active: int | None = None) -> None:
        self.squares = squares
        self.width = width
        self.active = width if active is None else active
        self.step = min(STEP, FRACTION * math.sqrt(width / 2))
        self._tilts = {0: tilted(squares, width, 0.0)}
        self._tops: dict[float, int] = {}
        self._bottoms: dict[float, int] = {}

    def __getitem__(self, rung: int) -> Tilt:
        if rung not in self._tilts:
            sign = 1 if rung > 0 else -1
            before = self[rung - sign]
            self._tilts[rung] = self._next(before, sign * self.step / before.std)
        return self._tilts[rung]

    def _next(self, before: Tilt, step: float) -> Tilt:
        """Return a neighbour of a tilt: the step is halved until their laws overlap."""
        while True:
            after = tilted(self.squares, self.width, before.theta + step)
            apart = step * (after.mean - before.mean)
            if apart <= APART and after.mean >= before.mean / RATIO:
                return after
            step /= 2

    def top(self, cost: float) -> int:
        """Return the first rung whose law costs at least `cost` above the prior's middle."""
        if cost not in self._tops:
            rung = 0
            while self[rung].cost < cost and rung < MOST and not self[rung].point:
                rung += 1
            self._tops[cost] = rung
        return self._tops[cost]

    def bottom(self, cost: float) -> int:
        """Return the first rung below 0 whose law costs that much, or is as small as one would.

        A sum whose squares have a near-atom at 0 becomes small at no cost; what is smaller than
        any linear activation would have it, of those active, is left alone.
        """
        depth = max(2 / self.width * cost, 2 / self.active * min(cost, FEW))
        least = math.log(self[0].mean) - depth - 5.0
        least = max(least, math.log(self.squares.value.min()) + 3.0)
        if cost not in self._bottoms:
            rung = 0
            while self[rung].cost < cost and rung > FEWEST and not self[rung].point:
                if math.log(self[rung - 1].mean) < least:
                    break
                rung -= 1
            self._bottoms[cost] = rung
        return self._bottoms[cost]

    def reached(self, cost: float, *, lower: bool = False) -> float:
        """Return the mean of the tilt that costs `cost`, on the upper or the lower side."""
        last = self.bottom(cost) if lower else self.top(cost)
        tilts = [self[rung] for rung in (range(0, last - 1, -1) if lower else range(last + 1))]
        means = [math.log(tilt.mean) for tilt in tilts]
        return math.exp(np.interp(cost, [tilt.cost for tilt in tilts], means))


def capped(squares: Squares, width: int, cap: float, theta: float) -> tuple[Squares, Tilt]:
    """Return the law of squares up to `cap`, and a tilt of it with a mean of 0.6 of the cap.

    Below the cap the sum's law is that of all squares. Where a large sum comes from a single large
    square (a smooth phi at a small variance, linear again far out), no tilt of the whole law has
    its mean in between.

    Args:
        squares: At nodes.
        width: H.
        cap: Largest square kept.
        theta: A tilt with a smaller mean.
    """
    kept = squares.value <= cap
    below = Squares(squares.value[kept], squares.log_weight[kept], squares.zero)
    low, high = theta, theta + 1 / cap
    while tilted(below, width, high).mean < CAPPED * cap and high < HIGHEST / cap:
        low, high = high, 2 * high - theta
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        less = tilted(below, width, middle).mean < CAPPED * cap
        low, high = (middle, high) if less else (low, middle)
    return below, tilted(below, width, high)
