"""Moments of phi(g), of any order for which they are finite, as integrals in log|g|.

The trapezoidal rule: integrands fall on both sides as exponentials of x = log|g| or faster. Where
phi(0) = 0 and the order s is below 0 they fall slowly to the left, as e^((1 + s) x): the moment of
slope |u|^power, which the law of g knows, is taken out, and the rest falls as e^((2 + s) x).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numpy as np
import torch

from merkhet.unit_prior.activations import Activation
from merkhet.unit_prior.laws.bent_nodes import DROP, Mass, Places
from merkhet.unit_prior.laws.central import Number, central_moments
from merkhet.unit_prior.laws.law import Floats, Law
from merkhet.unit_prior.laws.smallness import Vanishing, log_size, vanishing
from merkhet.unit_prior.mellin.radii import EPS, LOG_2

BIG = 700.0  # exponents beyond which exp overflows
ROUNDED = 16 * EPS  # phi is nearer its slope than that only by rounding


class BentMoments:
    """Moments of phi(g), g symmetric with an atom at 0 at most.

    Args:
        law: Of g.
        activation: phi.
    """

    def __init__(self, law: Law, activation: Activation) -> None:
        self.law, self.activation = law, activation
        self._mass = Mass(law)

    def log_moment(self, order: float) -> Number:
        """Return log E[|phi(g)|^order, phi(g) not 0] and an estimate of its error.

        Args:
            order: Finite moments alone.

        Raises:
            InputError: Values of |g| that are no float64 decide it.
        """
        how = vanishing(self.activation) if order < 0 else None
        if how is not None and how.slopes is not None:
            return self._around(order, how, how.slopes)
        logs = functools.partial(self._log_terms, order)
        at_zero = log_size(self.activation, np.zeros(1))[0]
        log_atom = self._log_zero + order * at_zero if self._log_zero > -math.inf else -math.inf
        places = self._mass.of(logs)
        terms = logs(places) + math.log(places.step)
        top = max(float(terms.max()), float(log_atom))
        if top == -math.inf:
            return -math.inf, 0.0
        value, error = _trapezoid(np.exp(terms - top), places)
        value += math.exp(log_atom - top)
        return top + math.log(value), error / value + self._rounding(order, terms, places)

    def spread(self) -> tuple[Number, Number]:
        """Return the standard deviation and the kurtosis, with estimates of their errors."""
        scale = math.exp(self.log_moment(2.0)[0] / 2)
        places = self._mass.of(functools.partial(self._log_terms, 4.0), whole=True)
        found = [self._mean(functools.partial(_power, scale, k), places) for k in range(1, 5)]
        relative = max(error / max(1.0, abs(value)) for value, error in found)
        return central_moments([value for value, _ in found], relative, math.log(scale))

    @functools.cached_property
    def _log_zero(self) -> float:
        """The log of P(g = 0)."""
        return math.log(self.law.zero_mass) if self.law.zero_mass else -math.inf

    def _log_terms(self, order: float, places: Places) -> Floats:
        """Return the log integrand of a moment in x, both sides of 0 together."""
        t = np.exp(places.x)
        with np.errstate(over="ignore", invalid="ignore"):
            above, below = (order * log_size(self.activation, side * t) for side in (1.0, -1.0))
            found = np.logaddexp(above, below) + (places.x + places.log_density)
        # Where the density underflows in logs, it is the smaller: the moment is finite.
        return np.where(np.isneginf(places.log_density), -np.inf, found)

    def _around(self, order: float, how: Vanishing, slopes: tuple[float, float]) -> Number:
        """Return the log moment where phi is 0 at 0, about that of slope |u|^power."""
        log_linear, off = self.law.log_moment(order * how.power)
        below, above = (order * math.log(slope) - LOG_2 for slope in slopes)
        log_linear += float(np.logaddexp(below, above))
        parts = functools.partial(self._off_linear, order, how, slopes)
        places = self._mass.of(lambda some: parts(some)[0])
        terms, signs = parts(places)
        terms += math.log(places.step)
        top = max(float(terms.max()), log_linear)
        value, error = _trapezoid(signs * np.exp(terms - top), places)
        linear = math.exp(log_linear - top)
        relative = self._rounding(order, terms, places) + (off * linear + error) / (linear + value)
        return top + math.log(linear + value), relative

    def _off_linear(
        self, order: float, how: Vanishing, slopes: tuple[float, float], places: Places
    ) -> tuple[Floats, Floats]:
        """Return the log integrand's size less that of slope |u|^power, and the signs of that."""
        x, logs, signs = places.x, [], []
        for side, slope in zip((-1.0, 1.0), slopes, strict=True):
            off = log_size(self.activation, side * np.exp(x)) - math.log(slope) - how.power * x
            same = (np.abs(off) <= ROUNDED * (1 + np.abs(x))) | (np.isinf(off) & (x < 0))
            ratio = np.where(same, 0.0, order * off)
            with np.errstate(divide="ignore"):
                grown = np.log(np.abs(np.expm1(np.minimum(ratio, BIG))))
            logs.append(np.where(ratio > BIG, ratio, grown) + order * math.log(slope))
            signs.append(np.sign(ratio))
        top = np.where(np.isneginf(np.maximum(*logs)), 0.0, np.maximum(*logs))
        total = sum(sign * np.exp(log - top) for sign, log in zip(signs, logs, strict=True))
        base = (1 + order * how.power) * x + places.log_density + top
        with np.errstate(divide="ignore", invalid="ignore"):
            found = base + np.log(np.abs(total))
        # Where the density underflows in logs, it is the smaller: the moment is finite.
        return np.where(np.isneginf(places.log_density), -np.inf, found), np.sign(total)

    def _rounding(self, order: float, terms: Floats, places: Places) -> float:
        """Return the rounding error of a log moment from those of its terms' logs."""
        kept = terms >= terms.max() - DROP
        sizes = (1 + np.abs(places.x)) * (1 + abs(order)) + np.abs(places.log_density)
        return 4 * EPS * float(sizes[kept].max())

    def _mean(self, function: Callable[[Floats], Floats], places: Places) -> Number:
        """Return E function(phi(g)), and how it moved from half the places."""
        t = np.exp(places.x)
        weights = np.exp(places.x + places.log_density) * places.step
        terms = weights * (function(self._phi(t)) + function(self._phi(-t)))
        value, error = _trapezoid(terms, places)
        atom = self.law.zero_mass * float(function(self._phi(np.zeros(1)))[0])
        return value + atom, error

    def _phi(self, u: Floats) -> Floats:
        """Return phi(u)."""
        found: Floats = self.activation(torch.from_numpy(u)).numpy()
        return found


def _trapezoid(terms: Floats, places: Places) -> Number:
    """Return the sum of terms at places, halves at the ends, and an estimate of its error."""
    weighed = terms.copy()
    weighed[[0, -1]] /= 2
    value, coarse = float(weighed.sum()), 2 * float(weighed[::2].sum())
    own = float(np.abs(weighed) @ (places.error + 8 * EPS))
    return value, abs(value - coarse) + own


def _power(scale: float, k: int, u: Floats) -> Floats:
    """Return (u / scale)^k."""
    found: Floats = (u / scale) ** k
    return found
