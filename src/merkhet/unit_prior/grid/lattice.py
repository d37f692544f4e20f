"""The law of a sum of squares under a tilt, on a lattice: masses split, transformed, to a power."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from merkhet.unit_prior.grid.nodes import Squares
from merkhet.unit_prior.grid.tilts import Tilt, alive, masses
from merkhet.unit_prior.laws.law import Floats

LOST = 37.0  # -log of what may be lost at either end of a lattice
LONGEST = 32768  # points of a lattice; a law with nearly all its mass near 0 asks for more
AGREED = 0.01  # how well two lattices must agree on the mass below
BIG = 700.0  # exponents beyond which exp overflows
NEGLIGIBLE = 1e-17  # masses of one square below, relative to the largest, are left out
ROUNDING = 2e-16  # of a transform to a power, for each factor, relative to the largest mass


@dataclass(frozen=True)
class Measure:
    """The law of A > 0 at nodes: masses times e^-exponent.

    Masses may be negative: their sums against smooth functions are what they stand for.

    Attributes:
        log_a: Log of the nodes, (k,), -inf where A = 0 is kept.
        mass: Tilted masses, (k,).
        exponent: theta a - log_mgf at the nodes, (k,).
        near: Tilted mass of A > 0 that the lattice has at 0 and that is left out.
        near_exponent: The exponent there.
    """

    log_a: Floats
    mass: Floats
    exponent: Floats
    near: float = 0.0
    near_exponent: float = 0.0


def split(position: Floats, mass: Floats, size: int) -> Floats:
    """Return masses at whole numbers modulo `size` that keep sums, means, squares and cubes.

    Each mass at a position >= 0 goes to four neighbours, by Lagrange's weights, of which none is
    below 0: integrals of a function change by its fourth derivative times at most 1/24 of the
    mass.
    """
    first = np.maximum(np.floor(position) - 1, 0.0)
    y = position - first
    weights = (
        (1 - y) * (2 - y) * (3 - y) / 6,
        y * (2 - y) * (3 - y) / 2,
        y * (y - 1) * (3 - y) / 2,
        y * (y - 1) * (y - 2) / 6,
    )
    start = np.mod(first, size).astype(np.int64)
    found = np.zeros(size + 3)
    for offset, weight in enumerate(weights):
        found += np.bincount(start + offset, weights=mass * weight, minlength=size + 3)
    found[:3] += found[size:]
    return found[:size]


def lattice_measure(
    squares: Squares, width: int, tilt: Tilt, spacing: float, *, keep_zero: bool
) -> Measure:
    """Return the law of A under a tilt on the lattice 0, d, 2 d, ..., d = spacing mean.

    The transform of one square's masses to the power `width`; the lattice is a circle long enough
    that what comes round is below e^-37 (A is about sub-gamma with scale variance / mean above
    its mean, sub-Gaussian below).

    Args:
        squares: Nodes of X.
        width: H.
        tilt: Of them.
        spacing: d as a part of the mean.
        keep_zero: Whether A = 0 is a node (there is a bias), or left out with its atom.
    """
    step, low, size = _extent(tilt, spacing)
    one, zero, _ = masses(squares, tilt.theta)
    mass = alive(one, width) if zero else 1.0
    kept = one > NEGLIGIBLE * one.max()
    found = _power(split(squares.value[kept] / step, one[kept], size), zero, width) / mass
    if keep_zero:
        found[0] += zero**width / mass
    found = np.roll(found, -low)
    place = low + np.arange(size)
    found[np.abs(found) <= ROUNDING * (width + 16) * np.abs(found).max()] = 0.0
    near = 0.0 if keep_zero or low else float(found[0])
    if not keep_zero:
        found[place == 0] = 0.0
    found = thinned(found, low, tilt.mean / step)
    good = found != 0
    a = step * place[good]
    with np.errstate(divide="ignore"):
        return Measure(np.log(a), found[good], tilt.theta * a - tilt.log_mgf, near, -tilt.log_mgf)


def thinned(mass: Floats, low: int, mean: float) -> Floats:
    """Return masses on every second point above 2 means, every fourth above 4, and so on.

    What is between goes to the four neighbours that stay, by Lagrange's weights: a lattice's
    spacing need only keep up with its place.

    Args:
        mass: At the points low, low + 1, ..., (k,).
        low: The first.
        mean: In points.
    """
    found = mass.copy()
    stride, cut = 1, 2 * mean
    while cut - low < len(mass) - 8 * stride:
        first = 2 * stride * math.ceil((max(cut, low) + 4 * stride) / (2 * stride)) + stride
        odd = np.arange(first - low, len(mass) - 3 * stride, 2 * stride)
        moved = found[odd].copy()
        found[odd] = 0.0
        for offset, weight in ((-3, -1 / 16), (-1, 9 / 16), (1, 9 / 16), (3, -1 / 16)):
            found[odd + offset * stride] += weight * moved
        stride, cut = 2 * stride, 2 * cut
    return found


def _power(one: Floats, zero: float, width: int) -> Floats:
    """Return the masses of a sum off its atom at 0, (zero + one)^width - zero^width, (size,)."""
    from scipy.fft import irfft, rfft

    transform = rfft(one)
    if zero > 0.5:
        power = zero**width * np.expm1(width * np.log1p(transform / zero))
    else:
        power = (transform + zero) ** width - zero**width
    found: Floats = irfft(power, len(one))
    return found


def _extent(tilt: Tilt, spacing: float) -> tuple[float, int, int]:
    """Return a lattice's spacing, its first index and its length."""
    from scipy.fft import next_fast_len

    below = math.sqrt(2 * LOST * tilt.second)
    above = math.sqrt(2 * LOST) * tilt.std + LOST * tilt.std**2 / tilt.mean
    bottom, top = max(0.0, tilt.mean - below), tilt.mean + above
    step = max(spacing * tilt.mean, (top - bottom) / LONGEST)
    low = math.floor(bottom / step)
    return step, low, int(next_fast_len(math.ceil(top / step) - low + 8, real=True))


def long(tilt: Tilt, spacing: float) -> bool:
    """Return whether a lattice so fine would have too many points."""
    return _extent(tilt, spacing)[0] > spacing * tilt.mean


def direct_measure(squares: Squares, *, keep_zero: bool) -> Measure:
    """Return the law of a single square at its own nodes, all of it in the exponents."""
    log_a, exponent = np.log(squares.value), -squares.log_weight
    if keep_zero and squares.zero:
        log_a = np.append(log_a, -np.inf)
        exponent = np.append(exponent, -math.log(squares.zero))
    return Measure(log_a, np.ones(log_a.shape), exponent)


def point_measure(tilt: Tilt) -> Measure:
    """Return the law of a sum that is constant."""
    return Measure(np.array([math.log(tilt.mean)]), np.ones(1), np.zeros(1))


def joined(lower: Measure, upper: Measure, middle: float, ratio: float) -> Measure:
    """Return one measure: `lower` up to a place, `upper` above it.

    About the place they are blended smoothly, so that each is only summed against smooth functions.

    Args:
        lower: Precise up to middle * ratio.
        upper: Precise from middle / ratio on.
        middle: The place.
        ratio: Of the blend's end to its middle.
    """
    low = 1 - _blend(lower.log_a, middle, ratio)
    high = _blend(upper.log_a, middle, ratio)
    below, above = low > 0, high > 0
    return Measure(
        np.concatenate([lower.log_a[below], upper.log_a[above]]),
        np.concatenate([(lower.mass * low)[below], (upper.mass * high)[above]]),
        np.concatenate([lower.exponent[below], upper.exponent[above]]),
        lower.near,
        lower.near_exponent,
    )


def agree(lower: Measure, upper: Measure, middle: float, ratio: float) -> bool:
    """Return whether two measures give the same mass, tilted as the upper, below a place."""
    found = []
    slope = _slope(upper)
    for measure in (lower, upper):
        a = np.exp(measure.log_a)
        moved = slope * a + upper.near_exponent - measure.exponent
        share = measure.mass * (1 - _blend(measure.log_a, middle, ratio))
        near = measure.near * math.exp(min(upper.near_exponent - measure.near_exponent, BIG))
        found.append(float(share @ np.exp(np.clip(moved, -BIG, BIG))) + near)
    return abs(found[0] - found[1]) <= AGREED * abs(found[1])


def _slope(measure: Measure) -> float:
    """Return theta of a measure under a single tilt."""
    last = int(np.argmax(measure.log_a))
    return float((measure.exponent[last] - measure.near_exponent) / np.exp(measure.log_a[last]))


def _blend(log_a: Floats, middle: float, ratio: float) -> Floats:
    """Return a polynomial step from 0 to 1 about `middle`, three times differentiable."""
    x = (log_a - math.log(middle)) / math.log(ratio)
    y = np.clip((x + 1) / 2, 0.0, 1.0)
    square = y * y
    found: Floats = square * square * (35 - y * (84 - y * (70 - 20 * y)))
    return found
