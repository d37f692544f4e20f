"""Mellin transforms of the norms |phi(z)| of Gaussian vectors, for several widths at once.

z ~ N(0, I_H) and phi linear on each side of 0, the steeper slope 1: |phi(z)| is a chi variable for
a linear layer, a binomial mixture of them for ReLU, and a chi variable times the norm of a random
direction after phi for two slopes. `tilted(c)` gives E|phi(z)|^c and what is needed near it.

D widths; K numbers of active units; Q nodes; N places on the vertical line through c.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from merkhet.unit_prior.mellin.gamma import (
    Complex,
    Floats,
    log_gamma_ratio,
    log_gamma_turn,
    stirling_rest,
    trigamma,
)

Whole = NDArray[np.int64]
EPS = float(np.finfo(np.float64).eps)
LIGHT = -45.0  # log of the weight, over the largest, below which a node is left out
LOG_2 = math.log(2)


@dataclass(frozen=True)
class Tilted:
    """log E|phi(z)|^s near a real s = c, for D widths.

    Attributes:
        log: (D,) at c.
        first: (D,) its derivative, the mean of log|phi(z)| under the law tilted by |phi(z)|^c.
        second: (D,) its second derivative, the variance.
        slack: (D,) rounding error of `log`, absolute, a bound to first order.
        turn: Maps tau (N,) to E|phi(z)|^(c + i tau) over E|phi(z)|^c, (D, N), of modulus <= 1.
    """

    log: Floats
    first: Floats
    second: Floats
    slack: Floats
    turn: Callable[[Floats], Complex]


class Radii(Protocol):
    """Norms |phi(z)| of D widths."""

    pole: float  # the transforms exist where Re s is above it

    def tilted(self, c: float) -> Tilted:
        """Return the transforms near c."""


class ChiRadii:
    """|z|: chi variables, E|z|^s = 2^(s/2) Gamma((H + s)/2) / Gamma(H/2).

    Args:
        widths: (D,) ascending.
    """

    def __init__(self, widths: Whole) -> None:
        self.widths = widths.astype(np.float64)
        self.pole = -float(widths[0])

    def tilted(self, c: float) -> Tilted:
        """Return the transforms near c."""
        half = self.widths / 2
        log = log_gamma_ratio(half, c / 2) + c / 2 * LOG_2
        first, second = chi_derivatives(self.widths, c)
        at = half + c / 2

        def turn(tau: Floats) -> Complex:
            return np.exp(log_gamma_turn(at, tau / 2) + 1j * (tau / 2 * LOG_2))

        return Tilted(log, first, second, chi_slack(self.widths, c), turn)


class ReluRadii:
    """|max(z, 0)| off 0: given that K of H units are active, a chi variable of K degrees.

    Args:
        widths: (D,) ascending.
        least: What K is at least, up to the least width: elsewhere the norm counts as 0.
    """

    def __init__(self, widths: Whole, least: int = 1) -> None:
        assert 1 <= least <= widths[0]
        self.widths, self.least, self.pole = widths, least, -float(least)
        sizes = widths - (least - 1)
        self.starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
        self.rows = np.repeat(np.arange(len(widths)), sizes)
        self.active = np.arange(len(self.rows)) - self.starts[self.rows] + least
        self.log_binomial = log_binomial(self.active, widths[self.rows])
        self.all_active = np.arange(least, int(widths[-1]) + 1, dtype=np.float64)

    def tilted(self, c: float) -> Tilted:
        """Return the transforms near c."""
        k = self.all_active
        chi = log_gamma_ratio(k / 2, c / 2) + c / 2 * LOG_2
        logs = self.log_binomial + chi[self.active - self.least]
        top = np.maximum.reduceat(logs, self.starts)
        logs -= top[self.rows]
        heavy = np.flatnonzero(logs > LIGHT)
        rows, active, weights = self.rows[heavy], self.active[heavy], np.exp(logs[heavy])
        starts = np.searchsorted(rows, np.arange(len(self.widths)))
        total = np.add.reduceat(weights, starts)
        weights /= total[rows]
        log = top + np.log(total)
        first, second = (one[active - self.least] for one in chi_derivatives(k, c))
        mean = np.add.reduceat(weights * first, starts)
        off = first - mean[rows]
        off[np.abs(off) < 16 * EPS * np.abs(first)] = 0.0  # rounding, not variance
        spread = np.add.reduceat(weights * (second + off * off), starts)
        count = np.add.reduceat(weights * active, starts)
        slack = chi_slack(count, c) + EPS * (8 + 4 * np.abs(log))
        slack += 4 * EPS * np.abs(2 * count - self.widths)

        def turn(tau: Floats) -> Complex:
            return mixture(weights, rows, active, c, tau)

        return Tilted(log, mean, spread, slack, turn)


def mixture(weights: Floats, rows: Whole, k: Whole, c: float, tau: Floats) -> Complex:
    """Return mixtures over k of E chi_k^(c + i tau) over E chi_k^c, (D, N), by one product.

    Args:
        weights: (q,).
        rows: (q,) the mixture that a weight belongs to, ascending, each from 0 on.
        k: (q,) degrees of freedom.
        c: Real part.
        tau: (N,).
    """
    present = np.zeros(k.max() + 1, bool)
    present[k] = True
    columns = np.cumsum(present) - 1
    at = (np.flatnonzero(present) + c) / 2
    turns = np.exp(log_gamma_turn(at, tau / 2) + 1j * (tau / 2 * LOG_2))
    matrix = np.zeros((rows[-1] + 1, len(turns)))
    matrix[rows, columns[k]] = weights
    found: Complex = (matrix @ turns.view(np.float64)).view(np.complex128)
    return found


def chi_derivatives(k: Floats, c: float) -> tuple[Floats, Floats]:
    """Return the first and second derivative of log E chi_k^c in c."""
    from scipy.special import digamma

    at = (k + c) / 2
    return (digamma(at) + LOG_2) / 2, trigamma(at) / 4


def chi_slack(k: Floats, c: float) -> Floats:
    """Return a bound of the rounding error of log E chi_k^c."""
    at = (k + max(c, 0.0)) / 2
    found: Floats = EPS * (4 + (abs(c) + 64) * (1 + np.abs(np.log(at))))
    return found


def log_binomial(k: Whole, n: Whole) -> Floats:
    """Return log(C(n, k) 2^-n), k from 1 to n, by Loader's expansion about k = n/2.

    Loader, "Fast and accurate computation of binomial probabilities", 2000.
    """
    left = n - k
    excess = np.where(left > 0, (k - left) / n, 0.0)
    found = -(k * np.log1p(excess) + left * np.log1p(-excess))
    found += 0.5 * np.log(n / (2 * np.pi * k * np.maximum(left, 1.0)))
    rest = np.concatenate([[0.0], stirling_rest(np.arange(1, n.max() + 1, dtype=np.float64))])
    found += rest[n] - rest[k] - rest[left]
    logs: Floats = np.where(left > 0, found, -n * LOG_2)
    return logs
