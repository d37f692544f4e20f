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
from dataclasses import dataclass

import numpy as np

from merkhet.unit_prior.mellin.gamma import Complex, Floats, stirling_rest
from merkhet.unit_prior.mellin.radii import EPS, LOG_2, ChiRadii, Tilted, Whole

DROP = 45.0  # nodes whose weight is under exp(-45) of the largest are left out
COARSE = 0.25  # step of the grid on which they are looked for
REACH = 45.0  # beyond |y| of this, but for log(1/a), no weight is left
ATOM_ALONE = 1e13  # c beyond which log M is 1e13 and more
LIGHT = 1e-19  # weight below which a node is left out on the line
BAND = 4.5  # numbers K about the likeliest, in square roots of H


@dataclass(frozen=True)
class Nodes:
    """Quadratures for all widths, one after another.

    Attributes:
        log_norm: (Q,) log V^(1/2).
        log_weight: (Q,).
        rows: (Q,) which width a node belongs to.
        starts: (D,) where a width's nodes start.
    """

    log_norm: Floats
    log_weight: Floats
    rows: Whole
    starts: Whole


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
        level = 0 if c < -1 else 1 + math.floor(max(math.log2(c + 2), 0) / 4)
        if level not in self._nodes:
            self._nodes[level] = self._build(*_range(level, self.pole))
        return self._nodes[level]

    def _build(self, low: float, high: float) -> Nodes:
        """Return nodes that serve c from `low` to `high`."""
        if low > ATOM_ALONE:
            return self._atoms()
        regions = _regions(self.widths, self.log_ratio, low, high, self._rests)
        norms, weights, sizes = [], [], []
        for width, first, last, bend in zip(self.widths.tolist(), *regions, strict=True):
            step = 1 / math.sqrt(50 + bend)
            places = np.arange(math.floor(first / step), math.ceil(last / step) + 1)
            places = places[: 0 if width == 1 else None]
            y = step * places.astype(np.float64)
            norms += [np.array([0.0, self.log_ratio]), _log_norm(y, self.log_ratio)]
            atoms = np.array([-width * LOG_2] * 2)  # K = H and K = 0
            weights += [atoms, _log_density(width, y, self._rests) + math.log(step)]
            sizes.append(2 + len(y))
        starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
        rows = np.repeat(np.arange(len(sizes)), sizes)
        return Nodes(np.concatenate(norms), np.concatenate(weights), rows, starts)

    def _atoms(self) -> Nodes:
        """Return the atoms K = H alone: where c is huge the rest is 1e-6 or less of E V^(c/2)."""
        places = np.arange(len(self.widths))
        return Nodes(np.zeros(len(places)), -LOG_2 * self.chi.widths, places, places)


def _turn(nodes: Nodes, weights: Floats, tau: Floats) -> Complex:
    """Return E V^((c + i tau)/2) over E V^(c/2), (D, N)."""
    heavy = np.flatnonzero(weights > LIGHT)
    starts = np.searchsorted(nodes.rows[heavy], np.arange(len(nodes.starts)))
    turns = weights[heavy, None] * np.exp(1j * np.outer(nodes.log_norm[heavy], tau))
    found: Complex = np.add.reduceat(turns, starts)
    return found


def _range(level: int, pole: float) -> tuple[float, float]:
    """Return the range of c of a level: to -1, to 14, to 254, to 4094, and so on."""
    return (16.0 ** (level - 1) - 2 if level else pole), 16.0**level - 2


def _regions(
    widths: Whole, log_ratio: float, low: float, high: float, rests: Floats
) -> tuple[list[float], list[float], list[float]]:
    """Return where in y there is weight for any c from `low` to `high`, and how it bends there.

    More c moves the weight to lower y, as V falls with y. The bend is that of (1 + e^2y) to the
    power of -(H + c)/2, which is what grows off the real axis.

    Returns:
        For each width the least y, the largest y, and the bend.
    """
    y = np.arange(-REACH, REACH - log_ratio, COARSE, dtype=np.float64)
    width = np.maximum(widths, 2)[:, None]
    k = np.clip(np.rint(width * _likely(y)).astype(np.int64), 1, width - 1)
    log_weight, slope = _terms(width, k, rests)
    profile = log_weight + slope * y - width / 2 * _log_cosh(y)
    norm = _log_norm(y, log_ratio)
    above, below = (
        total > total.max(1, keepdims=True) - DROP
        for total in (profile + high * norm, profile + low * norm)
    )
    first = y[above.argmax(1)] - COARSE
    last = y[::-1][below[:, ::-1].argmax(1)] + COARSE
    flattest = np.clip(0.0, first, last)
    bend = (widths + max(high, 0.0)) / np.cosh(flattest) ** 2
    return first.tolist(), last.tolist(), bend.tolist()


def _log_density(width: int, y: Floats, rests: Floats) -> Floats:
    """Return the log of the density of y for all K from 1 to H - 1 together, times P(0 < K < H)."""
    if not len(y):
        return y
    margin = 5 + BAND * math.sqrt(width)
    low = max(1, math.floor(width * _likely(y[-1]) - margin))
    high = min(width - 1, math.ceil(width * _likely(y[0]) + margin))
    log_weight, slope = _terms(width, np.arange(low, high + 1), rests)
    logs = log_weight[:, None] + np.outer(slope, y)
    top = logs.max(0)
    found: Floats = top + np.log(np.exp(logs - top).sum(0)) - width / 2 * _log_cosh(y)
    return found


def _likely(y: Floats | float) -> Floats:
    """Return the likeliest share of units on the steeper side, given y."""
    return 1 / (1 + np.exp(2 * np.asarray(y) / 3))


def _terms(width: Whole | int, k: Whole, rests: Floats) -> tuple[Floats, Floats]:
    """Return the log of C(H, k) 2^-H times the density of y given k, 0 < k < H, for y = 0.

    Both by Stirling's formula with its rest, so that what is large cancels on paper; and the
    slope of that log in y, but for -H/2 log cosh y.

    Args:
        width: H.
        k: Any shape that broadcasts with it.
        rests: log (j/2)! less Stirling's formula at j.
    """
    left = width - k
    excess = (k - left) / width
    pull = -(k * np.log1p(excess) + left * np.log1p(-excess))
    rest = rests[2 * width] - rests[2 * k] - rests[2 * left]
    rest += rests[width] - rests[k] - rests[left]
    # sqrt(H / (2 pi k l)) from the binomial times 2 sqrt(k l / (4 pi H)) from the density.
    return 1.5 * pull + rest - math.log(math.sqrt(2) * math.pi), (left - k) / 2


def _log_cosh(y: Floats) -> Floats:
    """Return log cosh y, accurate about 0."""
    size = np.abs(y)
    near = np.log1p(2 * np.sinh(np.minimum(size, 1.0) / 2) ** 2)
    found: Floats = np.where(size < 1, near, size + np.log1p(np.exp(-2 * size)) - LOG_2)
    return found


def _log_norm(y: Floats, log_ratio: float) -> Floats:
    """Return log V^(1/2) = log((1 + a^2 e^2y)/(1 + e^2y))/2."""
    found: Floats = (np.logaddexp(0, 2 * (y + log_ratio)) - np.logaddexp(0, 2 * y)) / 2
    return found
