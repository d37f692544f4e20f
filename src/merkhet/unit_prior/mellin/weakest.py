"""The part of a ReLU chain's law in which the weakest layer has a given number of active units.

M(s) has its pole farthest right at -1, from layers with one active unit, of weight H 2^-H: 1e-28
at width 100. For several units the best line lies left of it, and no line between is good. The law
is taken apart by the least number q of active units in any layer: the transform of each part has
its pole at -q, all parts are positive, and each has a line of its own.

D different widths, N places on a vertical line.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from merkhet.unit_prior.mellin.gamma import Complex, Floats
from merkhet.unit_prior.mellin.radii import EPS, ChiRadii, ReluRadii, Tilted, log_binomial
from merkhet.unit_prior.mellin.transform import AT_ONCE, Line, chi_bound, turn_errors


class Weakest:
    """M(s) over the chains whose least number of active units in any layer is q.

    With l_j the term of q active units in layer j, and h_j those of more, it is the product of all
    l_j + h_j less the product of all h_j, times the transform of |z_m|.

    Args:
        widths: H_1 ... H_L, all above q.
        units: m.
        active: q, at most m.
    """

    ratio = 0.0

    def __init__(self, widths: tuple[int, ...], units: int, active: int) -> None:
        found, counts = np.unique(np.asarray(widths, np.int64), return_counts=True)
        assert 1 <= active <= units
        self.widths = np.concatenate([[units], found])
        self.counts = np.concatenate([[1], counts]).astype(np.float64)
        self.units, self.pole = units, -float(active)
        self._unit, self._more = ChiRadii(np.array([units])), ReluRadii(found, active + 1)
        self._few = ChiRadii(np.array([active]))
        self._log_few = log_binomial(np.full_like(found, active), found)

    def at(self, c: float) -> Line:
        """Return log M(c) and what is near it, for c above the pole."""
        assert c > self.pole
        unit, few, more = (part.tilted(c) for part in (self._unit, self._few, self._more))
        counts = self.counts[1:]
        logs = self._log_few + few.log - more.log  # of l_j / h_j
        share, parted = _Shares(logs, counts), (few.first - more.first, few.second - more.second)
        first, second = share.derivatives(*parted)
        log = float(unit.log[0] + counts @ more.log) + share.log_odds
        slack = float(unit.slack[0] + 2 * counts @ more.slack + few.slack[0])
        slack += 8 * EPS * (float(np.abs(self._log_few).max()) + float(counts @ np.abs(more.log)))
        return Line(
            c,
            log,
            first + float(unit.first[0] + counts @ more.first),
            second + float(unit.second[0] + counts @ more.second),
            slack + 8 * EPS * (abs(log) + abs(share.top)),
            self._turn(c, (unit, few, more), share),
        )

    def log_bound(self, c: float, tau: Floats) -> tuple[Floats, Floats]:
        """Bound |M(c + i tau)/M(c)| from above, as for the whole law."""
        return chi_bound(self.widths, self.counts, c, tau)

    def _turn(
        self, c: float, parts: tuple[Tilted, Tilted, Tilted], at: _Shares
    ) -> Callable[[Floats], tuple[Complex, Floats]]:
        """Return the function of `Line`, from |z_m|, l and h."""
        repeats = np.repeat(np.arange(len(self.widths) - 1), self.counts[1:].astype(np.int64))

        def turn(tau: Floats) -> tuple[Complex, Floats]:
            if len(tau) > AT_ONCE:
                pieces = [turn(tau[low : low + AT_ONCE]) for low in range(0, len(tau), AT_ONCE)]
                ratios, wobbles = zip(*pieces, strict=True)
                return np.concatenate(ratios), np.concatenate(wobbles)
            first, few, more = (part.turn(tau) for part in parts)
            errors = turn_errors(self.widths, c, tau)
            found, wobble = _product(at, few[0], more, errors[1:], repeats)
            return first[0] * found, np.abs(first[0]) * wobble + np.abs(found) * errors[0]

        return turn


class _Shares:
    """What part of l_j + h_j is l_j on the real line, and of the products' difference.

    Args:
        logs: (D,) log l_j / h_j, maybe far below the least number.
        counts: (D,) how many layers have that width.
    """

    def __init__(self, logs: Floats, counts: Floats) -> None:
        from scipy.special import expit

        self.few, self.more, self.top = expit(logs), expit(-logs), float(logs.max())
        self.scaled = np.exp(logs - self.top) * self.more  # `few` times one number
        small = logs < -40
        each = np.log1p(np.exp(np.where(small, 0.0, logs))) * math.exp(-max(self.top, -40.0))
        self._total = float(counts @ np.where(small, np.exp(logs - self.top), each))
        self._size = self._total * math.exp(self.top)  # of the sum of log(1 + l_j / h_j)
        self._weights = counts * self.scaled / self._total

    @property
    def log_odds(self) -> float:
        """The log of the product of all 1 + l_j / h_j, less 1."""
        if self._size > 1:
            return self._size + math.log1p(-math.exp(-self._size))
        grown = math.expm1(self._size) / self._size if self._size > 0 else 1.0
        return self.top + math.log(self._total) + math.log(grown)

    def derivatives(self, first: Floats, second: Floats) -> tuple[float, float]:
        """Return the derivatives of `log_odds`, given those of log l_j / h_j, (D,)."""
        left = -math.expm1(-self._size)
        growth = self._size / left if left > 0 else 1.0
        bend = math.exp(-self._size) * growth**2
        slope = float(self._weights @ first)
        rest = float(self._weights @ (second + self.more * first * first))
        return growth * slope, growth * rest - bend * slope**2


def _product(
    at: _Shares, few: Complex, more: Complex, errors: Floats, layers: NDArray[np.int64]
) -> tuple[Complex, Floats]:
    """Return the products' difference on the line, over that at c, and its rounding error.

    Args:
        at: Shares at c.
        few: (N,) E chi_q^s over that at c.
        more: (D, N) the same of h_j.
        errors: (D, N) of either.
        layers: The width of each layer, as a place among the D.
    """
    whole, off = np.ones_like(few), np.zeros(len(few))
    found, wobble, level = np.zeros_like(few), np.zeros(len(few)), 0.0
    for j in layers.tolist():
        factor, term = more[j] * at.more[j], few * at.scaled[j]
        wobble = wobble * np.abs(factor) + np.abs(found) * errors[j] * at.more[j]
        wobble += off * np.abs(term) + np.abs(whole) * errors[j] * at.scaled[j]
        found, level = found * factor + whole * term, level * at.more[j] + at.scaled[j]
        off = off * np.abs(factor + few * at.few[j]) + np.abs(whole) * errors[j]
        whole = whole * (factor + few * at.few[j])
    return found / level, wobble / level
