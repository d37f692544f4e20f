"""Quadratures of the norm V^(1/2) of a random direction after phi, for two slopes: see `sphere`.

The law of y, B = e^2y / (1 + e^2y), is a sum over the number K of units on the steeper side. Its
terms are smooth in K, nearly (a Gaussian)^(3/2) of a binomial's variance: where that is wide, a sum
over every m-th K times m is the sum over all but for exp(-2 pi^2 variance / m^2), by Poisson's
formula.

D widths; K numbers of units; Q nodes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from merkhet.unit_prior.mellin.gamma import Floats
from merkhet.unit_prior.mellin.radii import LOG_2, Whole

DROP = 45.0  # nodes whose weight is under exp(-45) of the largest are left out
COARSE = 0.25  # step of the grid on which they are looked for
REACH = 45.0  # beyond |y| of this, but for log(1/a), no weight is left
BAND = 4.5  # numbers K about the likeliest, in square roots of H
ALIASED = 45.0  # -log of what leaving out numbers K may cost


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


def quadratures(widths: Whole, log_ratio: float, low: float, high: float, rests: Floats) -> Nodes:
    """Return nodes that serve E V^(c/2) for c from `low` to `high`.

    Args:
        widths: (D,) H.
        log_ratio: log a.
        low: Least c.
        high: Largest c.
        rests: log (j/2)! less Stirling's formula at j, up to 2 H.
    """
    pieces, steps = _places(widths, _regions(widths, log_ratio, low, high, rests))
    sizes = np.array([len(piece) for piece in pieces])
    inside = np.repeat(np.arange(len(widths)), sizes)
    y = np.concatenate(pieces)
    log_sum = np.concatenate(_log_sums(widths, pieces, rests))
    bulk = log_sum - widths[inside] / 2 * _log_cosh(y) + np.log(steps)[inside]
    # Before a width's nodes of y come its atoms, K = H and K = 0.
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    atoms = np.repeat(starts, 2)
    norms = np.tile([0.0, log_ratio], len(widths))
    return Nodes(
        np.insert(_log_norm(y, log_ratio), atoms, norms),
        np.insert(bulk, atoms, np.repeat(-widths * LOG_2, 2)),
        np.repeat(np.arange(len(widths)), sizes + 2),
        starts + 2 * np.arange(len(widths)),
    )


def _places(widths: Whole, regions: tuple[Floats, Floats, Floats]) -> tuple[list[Floats], Floats]:
    """Return the nodes of y of each width, none where it is 1, and their steps, (D,)."""
    first, last, bend = regions
    steps = 1 / np.sqrt(50 + bend)
    starts, stops = np.floor(first / steps), np.ceil(last / steps) + 1
    stops = np.where(widths == 1, starts, stops)
    ends = zip(starts.tolist(), stops.tolist(), steps.tolist(), strict=True)
    return [step * np.arange(start, stop) for start, stop, step in ends], steps


def _regions(
    widths: Whole, log_ratio: float, low: float, high: float, rests: Floats
) -> tuple[Floats, Floats, Floats]:
    """Return where in y there is weight for any c from `low` to `high`, and how it bends there.

    More c moves the weight to lower y, as V falls with y. The bend is that of (1 + e^2y) to the
    power of -(H + c)/2, which is what grows off the real axis.

    Returns:
        (D,) the least y, the largest y, and the bend.
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
    return first, last, bend


def _log_sums(widths: Whole, pieces: list[Floats], rests: Floats) -> list[Floats]:
    """Return the log of the density of y, but for cosh y, all K from 1 to H - 1 together.

    The density is that times P(0 < K < H); one array a width, of its nodes' shape.
    """
    ranges = [
        _numbers(width, y) if len(y) else np.arange(1, 1)
        for width, y in zip(widths.tolist(), pieces, strict=True)
    ]
    sizes = [len(k) for k in ranges]
    log_weight, slope = _terms(np.repeat(widths, sizes), np.concatenate(ranges), rests)
    found, stop = [], 0
    for k, y in zip(ranges, pieces, strict=True):
        start, stop = stop, stop + len(k)
        found.append(_log_sum(log_weight[start:stop], slope[start:stop], k, y))
    return found


def _numbers(width: int, y: Floats) -> Whole:
    """Return evenly spaced numbers K, of those that have weight at some y; 1 apart at an end."""
    margin = 5 + BAND * math.sqrt(width)
    least, most = float(_likely(y[-1])), float(_likely(y[0]))
    low, high = math.floor(width * least - margin), math.ceil(width * most + margin)
    if low < 1 or high > width - 1:
        return np.arange(max(low, 1), min(high, width - 1) + 1)
    variance = width * min(least * (1 - least), most * (1 - most)) / 1.5
    apart = max(1, math.floor(math.pi * math.sqrt(2 * variance / ALIASED)))
    return np.arange(low, high + 1, apart)


def _log_sum(log_weight: Floats, slope: Floats, k: Whole, y: Floats) -> Floats:
    """Return log of the sum over all K of e^(log_weight + slope y), from those given."""
    if not len(y):
        return y
    logs = np.multiply.outer(slope, y)
    logs += log_weight[:, None]
    top = logs.max(0)
    logs -= top
    apart = float(k[1] - k[0]) if len(k) > 1 else 1.0
    found: Floats = top + np.log(np.exp(logs, out=logs).sum(0) * apart)
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
