"""Laws from their Mellin transforms: the trapezoidal rule on a vertical line, with its error.

The rule with step h gives, by Poisson's formula, the answer at t plus exactly its aliases: those
at t exp(m P), m = +-1, +-2, ..., P = 2 pi / h, times exp(m P c). Each is bounded by Markov's
inequality P(x > t) <= M(c') t^-c' (and P(0 < x <= t) likewise for c' < 0) at one c' on either side
of c; h follows from the bounds. Where c' lies beyond the pole at 0, the aliases on that side tend
to M(0) exp(-m P |c|), which is taken off. What is cut off beyond the last node is bounded by
`Transform.log_bound`, the rounding to first order. See Trefethen & Weideman, "The exponentially
convergent trapezoidal rule", SIAM Review 2014, for the rule.

N nodes, n points.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from merkhet.core.errors import InputError
from merkhet.unit_prior.laws.law import Floats, WithError
from merkhet.unit_prior.mellin.contour_sides import OFF, Side, centre, off_centre
from merkhet.unit_prior.mellin.gamma import Complex
from merkhet.unit_prior.mellin.radii import EPS
from merkhet.unit_prior.mellin.transform import Chain, Line

EXPONENT = 34.0  # aliases and what is cut off are made this small, exp(-34) = 2e-15
WINDOW = 2.0  # standard deviations of y about its centre that one contour serves
CHECKED = 33  # points of the window
TRUSTED = 1e-10  # error of log S there, over 1 + |log S|
FAR = 1e10  # c beyond which Laplace's approximation is good to rounding: log S is about -c
MOST = 1e6  # nodes
NEAR_POLE = 0.1  # how much of the way to the pole is left


@dataclass(frozen=True)
class Contour:
    """Nodes on one line: serves all y = log t in its window.

    Attributes:
        side: The integral.
        units: m of the transform.
        line: log M(c) and its rounding.
        others: (c', log M(c')) to the left and to the right of c.
        mass: M(0).
        low: The window's lower end.
        high: Its upper end.
        step: h.
        tau: (N,) nodes, from 0 on.
        weights: (N,) what e^(-i tau y) is summed with.
        wobble: (N,) their rounding errors, absolute.
        cut: Bound of what lies beyond the last node, relative to exp(log M(c) - c y).
    """

    side: Side
    units: int
    line: Line
    others: tuple[tuple[float, float], tuple[float, float]]
    mass: float
    low: float
    high: float
    step: float
    tau: Floats
    weights: Complex
    wobble: Floats
    cut: float

    def log_at(self, y: Floats) -> WithError:
        """Return the log of the answer at t = exp(y), (n,), and a bound of its error, absolute."""
        level = self.line.log - self.line.c * y
        if self.line.c > FAR:
            value = level - self._prefactor()
            return value, WINDOW**2 + self._rounding(y, level)
        turned = np.outer(y, self.tau)
        total = np.cos(turned) @ self.weights.real + np.sin(turned) @ self.weights.imag
        error = self.cut + self.wobble.sum() + EPS * (np.abs(turned) @ np.abs(self.weights))
        for other in self.others:
            aliases, known = self._aliases(other, y, level)
            total, error = total - known, error + aliases
        with np.errstate(divide="ignore", invalid="ignore"):
            value = level + np.log(total)
            relative = error / total
            spread = np.where(relative < 1, -np.log1p(-relative), np.inf)
        return value, spread + self._rounding(y, level)

    def _prefactor(self) -> float:
        """Return what Laplace's approximation takes off the level."""
        divisor = self.line.c if self.side.divided else 1.0
        return math.log(math.sqrt(2 * math.pi * self.line.second)) + math.log(divisor)

    def _rounding(self, y: Floats, level: Floats) -> Floats:
        """Return the rounding error of the level."""
        found: Floats = self.line.slack + 4 * EPS * (np.abs(self.line.c * y) + np.abs(level))
        return found

    def _aliases(
        self, other: tuple[float, float], y: Floats, level: Floats
    ) -> tuple[Floats, Floats]:
        """Return a bound of the aliases on one side, and their known part, over exp(level)."""
        c, (there, log) = self.line.c, other
        period = 2 * math.pi / self.step
        sizes = np.exp(np.minimum(log - there * y - level, 700.0))
        factor = 1.0 if self.side.divided else self._density_factor(there)
        bound = factor * sizes / math.expm1(min(period * abs(there - c), 700.0))
        if not self.side.divided or there * c > 0:
            return bound, np.zeros_like(y)
        known = self.mass * np.exp(-level) / math.expm1(min(period * abs(c), 700.0))
        return bound, known

    def _density_factor(self, c: float) -> float:
        """Return what bounds t times the density by Markov's bound: it falls with the radius."""
        return math.e * (self.units + c) if c > 0 else float(self.units)


def contour(transform: Chain, side: Side, line: Line, mass: float) -> Contour:
    """Return the contour through a line.

    Args:
        transform: M.
        side: The integral.
        line: Of the transform, near the saddlepoint of what is wanted.
        mass: M(0).
    """
    if line.c > FAR:
        return _bare(transform, side, line, mass)
    middle, slope = centre(side, line)
    half = (WINDOW - OFF + off_centre(line.c)) * math.sqrt(slope)
    reach = math.sqrt(2 * EXPONENT / line.second)
    left = max(line.c - reach, transform.pole + NEAR_POLE * (line.c - transform.pole))
    others = (_other(transform, left), _other(transform, line.c + reach))
    period = max(_period(line, other, middle, half) for other in others)
    step = 2 * math.pi / period
    last = _last(transform, line)
    tau = np.arange(_count(last / step) + 1, dtype=np.float64) * step
    weights, wobble = _weights(transform, side, line, tau)
    cut = _cut(transform, side, line, float(tau[-1]))
    scale = step / (2 * math.pi) / (abs(line.c) if side.divided else 1.0)
    made = Contour(
        side,
        transform.units,
        line,
        others,
        mass,
        middle - half,
        middle + half,
        step,
        tau,
        scale * weights,
        scale * wobble,
        cut,
    )
    return _trusted(made, middle - off_centre(line.c) * math.sqrt(slope))


def _count(steps: float) -> int:
    """Return the number of steps, or refuse.

    Raises:
        InputError: They are too many to take: a pole is in the way of the best line.
    """
    if not steps < MOST:
        raise InputError(
            f"a contour of {steps:.0e} nodes: slopes this far apart leave no better line there; "
            "ask farther from 0, or make the slope that is nearly 0 exactly 0"
        )
    return math.ceil(steps)


def _trusted(made: Contour, y: float) -> Contour:
    """Return a contour with its window cut to where its error is small, about y.

    Where the law falls faster than a Gaussian in y, the answer is soon far below the level.
    """
    points = np.linspace(made.low, made.high, CHECKED)
    value, error = made.log_at(points)
    bad = ~(np.isfinite(error) & (error <= TRUSTED * (1 + np.abs(value))))
    below, above = points[bad & (points < y)], points[bad & (points > y)]
    spacing = points[1] - points[0]
    low = made.low if not len(below) else float(below[-1]) + spacing
    high = made.high if not len(above) else float(above[0]) - spacing
    return replace(made, low=low, high=high)


def _bare(transform: Chain, side: Side, line: Line, mass: float) -> Contour:
    """Return a contour without nodes, for Laplace's approximation."""
    middle, slope = centre(side, line)
    half, none = WINDOW * math.sqrt(slope), np.zeros(0, np.complex128)
    here = (line.c, line.log)
    ends = middle - half, middle + half
    return Contour(
        side, transform.units, line, (here, here), mass, *ends, 1.0, none.real, none, none.real, 0.0
    )


def _other(transform: Chain, c: float) -> tuple[float, float]:
    """Return (c, log M(c))."""
    line = transform.at(c)
    return c, line.log + line.slack


def _period(line: Line, other: tuple[float, float], middle: float, half: float) -> float:
    """Return the P that makes the aliases on one side small over the whole window."""
    distance = other[0] - line.c
    away = abs(distance)
    growth = other[1] - line.log - distance * middle + away * half
    return (EXPONENT + max(growth, 0.0)) / away


def _last(transform: Chain, line: Line) -> float:
    """Return a tau beyond which the integrand is negligible."""
    high = 1 / math.sqrt(line.second)
    while _log_cut(transform, line, high) > -EXPONENT:
        high *= 2
    low = high / 2
    for _ in range(8):
        middle = (low + high) / 2
        done = _log_cut(transform, line, middle) < -EXPONENT
        low, high = (low, middle) if done else (middle, high)
    return high


def _log_cut(transform: Chain, line: Line, tau: float) -> float:
    """Return the log of a bound of the integral of |M(s)/M(c)| beyond tau, over pi."""
    log, rate = transform.log_bound(line.c, np.array([tau]))
    return float(log[0]) - math.log(math.pi * float(rate[0]))


def _cut(transform: Chain, side: Side, line: Line, tau: float) -> float:
    """Return the bound of what is cut off beyond the node at tau."""
    whole = math.exp(_log_cut(transform, line, tau))
    return whole / math.hypot(line.c, tau) if side.divided else whole


def _weights(transform: Chain, side: Side, line: Line, tau: Floats) -> tuple[Complex, Floats]:
    """Return M(s)/M(c), times c/s where M is divided, doubled but for tau = 0; and rounding."""
    weights, wobble = line.turn(tau)
    wobble = wobble + 4 * EPS * np.abs(weights)
    if side.divided:
        rest = 1 / (1 + 1j * tau / line.c)
        weights, wobble = weights * rest, wobble * np.abs(rest)
    twice = np.where(tau > 0, 2.0, 1.0)
    found: Complex = twice * weights
    return found, twice * wobble
