"""The law of a unit before an activation, or after one that is linear on each side of 0."""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np

from merkhet.core.errors import InputError
from merkhet.unit_prior.activations import Activation
from merkhet.unit_prior.laws.central import Number, central_moments, exponential
from merkhet.unit_prior.laws.law import Floats, Law, WithError, law_of
from merkhet.unit_prior.mellin.radii import EPS, LOG_2
from merkhet.unit_prior.spec import Spec


class UnitLaw(Protocol):
    """The law of a unit u of either sign.

    Attributes:
        method: In words.
        moment_method: Of `log_moment` and `spread`, in words.
        smooth: Whether `log_density` is there.
    """

    method: str
    moment_method: str
    smooth: bool

    @property
    def zero_mass(self) -> float:
        """P(u = 0)."""

    def log_survival(self, t: Floats) -> WithError:
        """Return log P(|u| > t), t > 0 of any shape, and its error."""

    def log_density(self, u: Floats) -> WithError:
        """Return the log density at u, its part off 0, and its error; at 0 from above."""

    def log_moment(self, order: float) -> Number:
        """Return log E[|u|^order, u not 0] and its error; order above the least."""

    def least_order(self) -> float:
        """Return the order at and below which E[|u|^order, u not 0] is infinite."""

    def spread(self) -> tuple[Number, Number]:
        """Return the standard deviation and the kurtosis E(u - m)^4 / var^2."""


class PlainLaw:
    """The law of g.

    Args:
        law: Of g.
    """

    smooth = True

    def __init__(self, law: Law) -> None:
        self.law, self.method, self.zero_mass = law, law.method, law.zero_mass
        self.moment_method: str = getattr(law, "moment_method", law.method)
        self.log_survival, self.log_moment = law.log_survival, law.log_moment

    def log_density(self, u: Floats) -> WithError:
        """Return the log density at u and its error."""
        return _density(self.law, np.abs(u))

    def least_order(self) -> float:
        """Return the order at and below which moments are infinite."""
        return -self.law.index()

    def spread(self) -> tuple[Number, Number]:
        """Return the standard deviation and the kurtosis."""
        (second, off), (fourth, away) = self.law.log_moment(2.0), self.law.log_moment(4.0)
        kurtosis = exponential(fourth - 2 * second, away + 2 * off)
        return exponential(second / 2, off), kurtosis


class ActivatedLaw:
    """The law of phi(g), phi(u) = below u for u < 0 and above u else.

    Args:
        law: Of g.
        slopes: (below, above).
    """

    smooth = True

    def __init__(self, law: Law, slopes: tuple[float, float]) -> None:
        self.law, self.slopes, self.method = law, slopes, law.method
        self.moment_method: str = getattr(law, "moment_method", law.method)
        self.sizes = [abs(slope) for slope in slopes if slope]
        self.zero_mass = 1 - (1 - law.zero_mass) * len(self.sizes) / 2

    def log_survival(self, t: Floats) -> WithError:
        """Return log P(|u| > t), t > 0 of any shape, and its error."""
        plain = PlainLaw(self.law)
        with np.errstate(over="ignore", under="ignore"):
            levels = [t / size for size in self.sizes]  # where they overflow, log P is -inf
        return _half_sum([log_survival_from_zero(plain, level) for level in levels], t)

    def log_density(self, u: Floats) -> WithError:
        """Return the log density at u and its error; -inf where phi takes no such value."""
        parts: list[WithError] = []
        positive = u >= 0
        for slope, sign in zip(self.slopes, (-1, 1), strict=True):
            if slope:
                with np.errstate(over="ignore", under="ignore"):
                    level = np.abs(u / slope)
                value, error = _density(self.law, level)
                reached = positive if slope * sign > 0 else ~positive
                value = np.where(reached, value - math.log(abs(slope)) + LOG_2, -np.inf)
                parts.append((value, error))
        return _half_sum(parts, u)

    def log_moment(self, order: float) -> Number:
        """Return log E[|u|^order, u not 0] and its error; order above -1."""
        if not self.sizes:
            return -math.inf, 0.0
        log, error = self.law.log_moment(order)
        largest = max(order * math.log(size) for size in self.sizes)
        rest = sum(math.exp(order * math.log(size) - largest) for size in self.sizes)
        return log + largest + math.log(rest / 2), error + 4 * EPS

    def least_order(self) -> float:
        """Return the order at and below which moments are infinite."""
        return -self.law.index() if len(self.sizes) == 2 else 0.0

    def spread(self) -> tuple[Number, Number]:
        """Return the standard deviation and the kurtosis."""
        logs, errors = zip(*(self.law.log_moment(float(k)) for k in range(1, 5)), strict=True)
        half, (below, above) = logs[1] / 2, self.slopes
        return central_moments(
            [
                exponential(log - k * half, 0.0)[0] * (above**k + (-below) ** k) / 2
                for k, log in enumerate(logs, 1)
            ],
            max(errors) * 5,
            half,
        )


class UnitLaws:
    """The laws of the units of a chain, each made once.

    Args:
        spec: The chain.
    """

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self._laws: dict[int, Law] = {}
        self._units: dict[tuple[int, bool], UnitLaw] = {}

    def law(self, layer: int) -> Law:
        """Return the law of a pre-activation.

        Raises:
            InputError: No such layer.
        """
        self.spec.check_layer(layer)
        if layer not in self._laws:
            self._laws[layer] = law_of(self.spec, layer)
        return self._laws[layer]

    def unit(self, layer: int, post: bool) -> UnitLaw:
        """Return the law of a unit, before or after the activation.

        Raises:
            InputError: No such layer.
        """
        self.spec.check_layer(layer, post=post)
        if (layer, post) not in self._units:
            activation = self.spec.activation if post else None
            self._units[layer, post] = unit_law(self.law(layer), activation)
        return self._units[layer, post]


def unit_law(law: Law, activation: Activation | None) -> UnitLaw:
    """Return the law of a unit.

    Args:
        law: Of g.
        activation: phi for the unit after it, None for g.
    """
    if activation is None:
        return PlainLaw(law)
    if activation.slopes is not None:
        return ActivatedLaw(law, activation.slopes)
    from merkhet.unit_prior.laws.bent_law import BentLaw

    return BentLaw(law, activation)


def log_survival_from_zero(unit: UnitLaw, t: Floats) -> WithError:
    """Return log P(|u| > t) and its error for t from 0 to inf, both among them."""
    zero, infinite = t == 0, np.isposinf(t)
    value, error = unit.log_survival(np.where(zero | infinite, 1.0, t))
    alive = math.log1p(-unit.zero_mass) if unit.zero_mass < 1 else -math.inf
    value = np.where(zero, alive, np.where(infinite, -np.inf, value))
    return value, np.where(zero | infinite, 0.0, error)


def joint_log_density(law: Law, radius: Floats, units: int) -> WithError:
    """Return the log joint density of units of a layer at a distance from 0, 0 among them."""
    zero, infinite = radius == 0, np.isposinf(radius)
    value, error = law.log_joint_density(np.where(zero | infinite, 1.0, radius), units)
    value, error = np.where(infinite, -np.inf, value), np.where(infinite, 0.0, error)
    if zero.any():
        at_zero = getattr(law, "log_density_at_zero", None)
        if at_zero is None:
            raise InputError(
                f"density at 0: the {law.method} gives it off 0 alone; ask for a small number"
            )
        value[zero], error[zero] = at_zero(units)
    return value, error


def _density(law: Law, t: Floats) -> WithError:
    """Return the log density of g at t, 0 among them."""
    return joint_log_density(law, t, 1)


def _half_sum(parts: list[WithError], like: Floats) -> WithError:
    """Return the log of half the sum of parts given by their logs, and its error."""
    total, error = np.full(np.shape(like), -np.inf), np.zeros(np.shape(like))
    for value, spread in parts:
        total = np.logaddexp(total, value)
        error = np.maximum(error, np.where(np.isneginf(value), 0.0, spread))
    return total - LOG_2, error + 4 * EPS
