"""-log p of a unit as a smooth curve in log |u|: a spline of fifth degree through exact values."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from merkhet.unit_prior.laws.law import Floats, Law

# Of v = log |u| between knots. In the tail -log p grows like exp(v / theta), theta from 1/2: the
# spline is off by about STEP^6 / 30,000 of the sixth derivative, 2e-9 of the value.
STEP = 0.1
DEGREE = 5
MORE = 10  # knots beyond each end, where the spline begins and ends and is less exact
SURE = 0.1  # error of -log p, by the law's own bound, up to which a knot serves
Values = Callable[[Floats], Floats]  # a curve at v


@dataclass(frozen=True)
class Curve:
    """A penalty G of a length r from 0 on, twice continuously differentiable, with G(0) = 0.

    Attributes:
        floor: Below this r it is core[0] w + core[1] w^2, w = (r / floor)^2.
        core: These two numbers.
        pieces: (n, 6) coefficients of polynomials in s from 0 to 1, of log(r / floor) / STEP
            from one knot to the next; lowest power first.
        tail: (A, B, C, rate); beyond the last knot, z further on in log r, the curve is
            A + B (exp(rate z) - 1) + C z.
        offset: -log p = G + offset where r is above the floor.
    """

    floor: float
    core: tuple[float, float]
    pieces: Floats
    tail: tuple[float, float, float, float]
    offset: float


def known_from(law: Law, units: int, low: float, high: float) -> float:
    """Return the least floor from which on a curve's knots are known, from `low` to `high`.

    Between the spike at 0 of many units' joint density and its bulk, the bound of the error may
    be far above the value.

    Args:
        law: The law of one unit.
        units: How many units.
        low: The least floor.
        high: The largest.

    Returns:
        The floor; inf where there is none.
    """
    count = math.ceil(math.log(high / low) / STEP)
    knots = low * np.exp(STEP * np.arange(-MORE, count + 1))
    unsure = np.flatnonzero(~(law.log_joint_density(knots, units)[1] <= SURE))
    first = unsure[-1] + 1 if len(unsure) else 0
    return float(knots[first + MORE]) if first + MORE < len(knots) else math.inf


def exact_curve(law: Law, units: int, floor: float, drop: float, rate: float) -> Curve:
    """Return the curve of -log of the joint density of some units.

    Args:
        law: The law of one unit.
        units: How many units.
        floor: As in `Curve`.
        drop: The knots end where -log p is that far above its value at the floor.
        rate: 1 / theta, of the tail beyond the knots.
    """
    start = math.log(floor)

    def values(v: Floats) -> Floats:
        return -law.log_joint_density(np.exp(v), units)[0]

    def at(count: int) -> float:
        return float(values(np.array([start + count * STEP]))[0])

    steps = round(1 / STEP)
    first, count = at(0), steps
    while at(count) < first + drop:
        count += steps
    return _through(values, start, count, rate)


def power_curve(floor: float, factor: float, rate: float) -> Curve:
    """Return the curve of factor * r^rate, smooth below the floor."""

    def values(v: Floats) -> Floats:
        found: Floats = factor * np.exp(rate * v)
        return found

    made = _through(values, math.log(floor), 1, rate)
    end = factor * (floor * math.exp(STEP)) ** rate
    return replace(made, tail=(end - made.offset, end, 0.0, rate))


def slope_at(curve: Curve, r: float) -> float:
    """Return the derivative of a curve by log r at an r between its knots."""
    place = math.log(r / curve.floor) / STEP
    index = int(place)
    assert 0 <= index < len(curve.pieces)
    return float(np.polynomial.Polynomial(curve.pieces[index]).deriv()(place - index)) / STEP


def _through(values: Values, start: float, count: int, rate: float) -> Curve:
    """Return the curve through knots that start at v = `start`, STEP apart, count + 1 of them."""
    knots = start + STEP * np.arange(-MORE, count + MORE + 1, dtype=np.float64)
    pieces = _spline(values(knots))
    first, second = pieces[0, 1] / STEP, 2 * pieces[0, 2] / STEP**2
    core = (first - second / 4, (second - 2 * first) / 8)
    offset = float(pieces[0, 0] - sum(core))
    pieces[:, 0] -= offset
    last = np.polynomial.Polynomial(pieces[-1])
    slope, bend = last.deriv()(1.0) / STEP, last.deriv(2)(1.0) / (STEP * rate) ** 2
    return Curve(
        floor=math.exp(start),
        core=(float(core[0]), float(core[1])),
        pieces=pieces,
        tail=(float(last(1.0)), float(bend), float(slope - rate * bend), rate),
        offset=offset,
    )


def _spline(values: Floats) -> Floats:
    """Return the spline through values, but for MORE at each end: (n, 6) by interval."""
    from scipy.interpolate import PPoly, make_interp_spline

    whole = PPoly.from_spline(make_interp_spline(np.arange(len(values)), values, k=DEGREE))
    left = whole.x[:-1]
    kept = (left >= MORE) & (left < len(values) - 1 - MORE)
    pieces: Floats = whole.c[::-1, kept].T.copy()
    return pieces
