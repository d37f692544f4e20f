"""Transforms of |phi(z)| for two slopes: a chi variable times the norm of a direction after phi.

z = |z| u with u uniform on the sphere, independent: |phi(z)| = |z| V^(1/2), V = |phi(u)|^2. Given
that K of H units are on the steeper side, V = 1 - (1 - a^2) B with B ~ Beta((H - K)/2, K/2), a the
ratio of the slopes. With B = e^2y / (1 + e^2y) the law of y is a mixture over K of functions that
are analytic for |Im y| < pi/2, and so is V: the trapezoidal rule in y is as good as exact, however
small a is. K = 0 and K = H are atoms, V = a^2 and V = 1.

D widths; K numbers of units; Q nodes; N places on the vertical line through c.
"""

from __future__ import annotations

import math

import numpy as np

from merkhet.unit_prior.mellin.directions import Nodes, quadratures
from merkhet.unit_prior.mellin.gamma import Complex, Floats, stirling_rest
from merkhet.unit_prior.mellin.radii import EPS, LOG_2, ChiRadii, Tilted, Whole

ATOM_ALONE = 1e13  # c beyond which log M is 1e13 and more
LIGHT = 1e-19  # weight below which a node is left out on the line


class SlopedRadii:
    """|phi(z)| for slopes 1 and a.

    Args:
        widths: (D,) ascending.
        ratio: a, above 0 and under 1.
    """

    def __init__(self, widths: Whole, ratio: float) -> None:
        self.widths, self.log_ratio = widths, math.log(ratio)
        self.chi = ChiRadii(widths)
        self.pole = self.chi.pole
        halves = np.arange(1, 2 * max(widths[-1], 2) + 1, dtype=np.float64) / 2
        self._rests = np.concatenate([[0.0], stirling_rest(halves)])
        self._nodes: dict[int, Nodes] = {}

    def tilted(self, c: float) -> Tilted:
        """Return the transforms near c."""
        nodes = self._near(c)
        logs = nodes.log_weight + c * nodes.log_norm
        top = np.maximum.reduceat(logs, nodes.starts)
        weights = np.exp(logs - top[nodes.rows])
        total = np.add.reduceat(weights, nodes.starts)
        weights /= total[nodes.rows]
        mean = np.add.reduceat(weights * nodes.log_norm, nodes.starts)
        off = nodes.log_norm - mean[nodes.rows]
        spread = np.add.reduceat(weights * off * off, nodes.starts)
        chi = self.chi.tilted(c)
        sphere = top + np.log(total)
        slack = chi.slack + EPS * (64 + 4 * np.abs(sphere) + 4 * abs(c) * np.abs(mean))

        def turn(tau: Floats) -> Complex:
            return chi.turn(tau) * _turn(nodes, weights, tau)

        return Tilted(chi.log + sphere, chi.first + mean, chi.second + spread, slack, turn)

    def _near(self, c: float) -> Nodes:
        """Return nodes that serve a range of c about this one."""
        level = _level(c)
        if level not in self._nodes:
            self._nodes[level] = self._build(*_range(level, self.pole))
        return self._nodes[level]

    def _build(self, low: float, high: float) -> Nodes:
        """Return nodes that serve c from `low` to `high`."""
        if low > ATOM_ALONE:
            return self._atoms()
        return quadratures(self.widths, self.log_ratio, low, high, self._rests)

    def _atoms(self) -> Nodes:
        """Return the atoms K = H alone: where c is huge the rest is 1e-6 or less of E V^(c/2)."""
        places = np.arange(len(self.widths))
        return Nodes(np.zeros(len(places)), -LOG_2 * self.chi.widths, places, places)


def _turn(nodes: Nodes, weights: Floats, tau: Floats) -> Complex:
    """Return E V^((c + i tau)/2) over E V^(c/2), (D, N)."""
    heavy = np.flatnonzero(weights > LIGHT)
    starts = np.searchsorted(nodes.rows[heavy], np.arange(len(nodes.starts)))
    angle = np.multiply.outer(nodes.log_norm[heavy], tau)
    turns = np.empty(angle.shape, np.complex128)
    np.multiply(np.cos(angle), weights[heavy, None], out=turns.real)
    np.multiply(np.sin(angle), weights[heavy, None], out=turns.imag)
    found: Complex = np.add.reduceat(turns, starts)
    return found


def _level(c: float) -> int:
    """Return the number of the range that c is in."""
    if c < -1:
        return -math.floor(math.log2(-c) / 4)
    return 1 + max(math.floor((math.log2(c + 2) - 2) / 4), 0)


def _range(level: int, pole: float) -> tuple[float, float]:
    """Return the range of c of a level: to -16, to -1, to 62, to 1022, to 16382, and so on."""
    if level < 1:
        return max(-(16.0 ** (1 - level)), pole), -(16.0**-level)
    return 4 * 16.0 ** (level - 1) - 2 if level > 1 else -1.0, 4 * 16.0**level - 2
