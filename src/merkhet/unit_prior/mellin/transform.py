"""The Mellin transform M(s) = E[|x|^s; x not 0] of a product of independent norms, near a real s.

x = |z_m| R_1 ... R_L with z_m ~ N(0, I_m) and R_j = |phi(z)|, z ~ N(0, I_(H_j)): a unit (m = 1) or
the length of m units of one layer, but for its scale.

D different widths, N places on a vertical line.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from merkhet.unit_prior.mellin.gamma import Complex, Floats, trigamma
from merkhet.unit_prior.mellin.radii import EPS, ChiRadii, Radii, ReluRadii, Tilted
from merkhet.unit_prior.mellin.sphere import SlopedRadii

AT_ONCE = 1024  # places on the line
SUM_ERROR = 32.0  # rounding of a mixture's weighted sum, in eps


@dataclass(frozen=True)
class Line:
    """log M(c) and M on the vertical line through c.

    Attributes:
        c: Real part.
        log: log M(c).
        first: Its derivative: the mean of log x under the law tilted by x^c.
        second: Its second derivative: the variance.
        slack: Rounding error of `log`, absolute, a bound to first order.
        turn: Maps tau (N,) to M(c + i tau)/M(c), (N,), and to bounds of the rounding error of
            each, absolute, (N,).
    """

    c: float
    log: float
    first: float
    second: float
    slack: float
    turn: Callable[[Floats], tuple[Complex, Floats]]


class Chain(Protocol):
    """What a contour needs of a transform: see `Transform`."""

    widths: NDArray[np.int64]
    counts: Floats
    pole: float
    units: int
    ratio: float

    def at(self, c: float) -> Line:
        """Return log M(c) and what is near it, for c above the pole."""

    def log_bound(self, c: float, tau: Floats) -> tuple[Floats, Floats]:
        """Bound |M(c + i tau)/M(c)| from above, in logs, and give the bound's rate of fall."""


class Transform:
    """M(s) for a chain of layers without bias whose activation is linear on each side of 0.

    Args:
        widths: H_1 ... H_L of the layers before; none for a Gaussian.
        ratio: The gentler slope over the steeper one, in absolute value, from 0 (ReLU) to 1.
        units: m.
        least: With ReLU, the part of the law with that many active units in every layer or more.
    """

    def __init__(
        self, widths: tuple[int, ...], ratio: float, units: int = 1, least: int = 1
    ) -> None:
        found, counts = np.unique(np.asarray(widths, np.int64), return_counts=True)
        self.widths = np.concatenate([[units], found])
        self.counts = np.concatenate([[1], counts]).astype(np.float64)
        self.parts: tuple[Radii, ...] = (ChiRadii(np.array([units])),)
        if len(found):
            self.parts += (_radii(found, ratio, least),)
        self.pole = max(part.pole for part in self.parts)
        self.units, self.ratio = units, ratio

    def at(self, c: float) -> Line:
        """Return log M(c) and what is near it, for c above the pole."""
        assert c > self.pole
        tilted = [part.tilted(c) for part in self.parts]
        log, first, second, slack = (
            float(self.counts @ np.concatenate([getattr(one, name) for one in tilted]))
            for name in ("log", "first", "second", "slack")
        )
        rounding = 2 * EPS * sum(float(np.abs(one.log).sum()) for one in tilted)
        return Line(c, log, first, second, slack + rounding, self._turn(c, tilted))

    def scale_at(self, c: float) -> tuple[float, float] | None:
        """Return log E[(R_1 ... R_L)^c] and its rounding error, or None where it is infinite."""
        part = self.parts[1]
        if c <= part.pole:
            return None
        tilted = part.tilted(c)
        return float(self.counts[1:] @ tilted.log), float(self.counts[1:] @ tilted.slack)

    def log_bound(self, c: float, tau: Floats) -> tuple[Floats, Floats]:
        """Bound |M(c + i tau)/M(c)| from above, whatever the slopes.

        No chi variable of the mixtures has more than H_j degrees of freedom, moduli of transforms
        of chi variables grow with them, and |Gamma(a + iy)/Gamma(a)|^2 is the product over n of
        1/(1 + y^2/(a + n)^2), bounded by its integral over n.

        Returns:
            log of the bound, (N,), and the rate at which it falls with tau, (N,), which grows.
        """
        return chi_bound(self.widths, self.counts, c, tau)

    def _turn(self, c: float, tilted: list[Tilted]) -> Callable[[Floats], tuple[Complex, Floats]]:
        """Return the function of `Line`."""

        def turn(tau: Floats) -> tuple[Complex, Floats]:
            if len(tau) > AT_ONCE:
                parts = [turn(tau[low : low + AT_ONCE]) for low in range(0, len(tau), AT_ONCE)]
                ratios, wobbles = zip(*parts, strict=True)
                return np.concatenate(ratios), np.concatenate(wobbles)
            each = np.concatenate([one.turn(tau) for one in tilted])
            size = np.abs(each)
            with np.errstate(divide="ignore"):
                total = np.exp(self.counts @ np.log(size))
            phase = self.counts @ np.angle(each)
            error = self._errors(c, tau) / np.maximum(size, np.finfo(np.float64).tiny)
            wobble = total * (self.counts @ np.minimum(error, 1.0)) + EPS * total * np.abs(phase)
            return total * np.exp(1j * phase), wobble

        return turn

    def _errors(self, c: float, tau: Floats) -> Floats:
        """Return bounds of the rounding error of each width's transform on the line, (D, N)."""
        return turn_errors(self.widths, c, tau)


def turn_errors(widths: NDArray[np.int64], c: float, tau: Floats) -> Floats:
    """Return bounds of the rounding error of each width's transform on the line, (D, N)."""
    reach = 2 + np.log(np.maximum((widths + c) / 2, 1.0))
    found: Floats = EPS * (SUM_ERROR + 2 * np.outer(reach, tau))
    return found


def chi_bound(
    widths: NDArray[np.int64], counts: Floats, c: float, tau: Floats
) -> tuple[Floats, Floats]:
    """Return the bound of `Transform.log_bound` and its rate, for chi variables of such degrees."""
    base = (widths + c)[:, None]
    slope = tau / base
    angle = np.arctan(slope)
    logs = tau * angle - base / 2 * np.log1p(slope * slope)
    return -0.5 * (counts @ logs), 0.5 * (counts @ angle)


class Rough:
    """A transform near the exact one where c > 0: chi variables of matching mean and variance.

    Args:
        transform: The exact one.
    """

    def __init__(self, transform: Chain) -> None:
        ratio = transform.ratio
        mean, spread = (1 + ratio**2) / 2, 3 * (1 + ratio**4) / 2
        spread -= mean**2
        each = np.array([2.0, *[spread / mean] * (len(transform.widths) - 1)])
        share = np.array([0.5, *[mean**2 / spread] * (len(transform.widths) - 1)])
        self.counts = transform.counts
        self.half: Floats = share * transform.widths.astype(np.float64)
        self.offset = float(self.counts @ np.log(each)) / 2
        self.pole = max(transform.pole, -2 * float(self.half.min()))

    def at(self, c: float) -> Line:
        """Return the derivatives of log M at c; nothing else of the line is there."""
        from scipy.special import digamma

        at = self.half + c / 2
        first = self.offset + float(self.counts @ digamma(at)) / 2
        second = float(self.counts @ trigamma(at)) / 4
        return Line(c, math.nan, first, second, math.nan, _no_turn)


def _no_turn(tau: Floats) -> tuple[Complex, Floats]:
    """Refuse: a rough transform has no line."""
    raise AssertionError("a rough transform is for first guesses")


def _radii(widths: NDArray[np.int64], ratio: float, least: int) -> Radii:
    """Return the norms of layers by the ratio of the slopes."""
    if ratio == 1:
        return ChiRadii(widths)
    return SlopedRadii(widths, ratio) if ratio > 0 else ReluRadii(widths, least)
