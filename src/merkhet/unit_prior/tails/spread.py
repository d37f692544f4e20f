"""Kurtosis and quantiles of |x| from a sample, with intervals that count rows, not values."""

from __future__ import annotations

import math

import numpy as np

from merkhet.core.intervals import Z95
from merkhet.unit_prior.tails.sample import Floats, Largest, variance

WithInterval = tuple[float, tuple[float, float]]
FEWEST_ABOVE = 10  # values above the last quantile


def kurtosis(values: Floats) -> WithInterval:
    """Return E x^4 / (E x^2)^2 with its 95 % interval: 3 for a Gaussian, nan if all x are 0.

    About 0, where units before the activation are centred; so the sign of x has no part in it.
    The interval, even on the log scale, is of the sampling error of a mean: a sample from a heavy
    tail has not seen its largest values, and both are too small then.

    Args:
        values: x or |x|, (n, units), rows independent.
    """
    largest = float(np.abs(values).max())
    if largest == 0:
        return math.nan, (math.nan, math.nan)
    squares = np.square(values / largest)
    second, fourth = float(squares.mean()), float(np.square(squares).mean())
    found = fourth / second**2
    # d log(m4 / m2^2), of each value over its row.
    influence = (squares * (squares / fourth - 2 / second) + 1).mean(1)
    spread = math.exp(Z95 * math.sqrt(variance(influence, len(values))) / len(values))
    return found, (found / spread, found * spread)


def quantiles(largest: Largest) -> dict[float, WithInterval]:
    """Return t with P(|x| > t) = p, for p = 0.1, 0.01, ... while 10 values are above, by p.

    The interval is between order statistics: as many places up and down as the count of values
    above t varies, by rows. It ends at inf where the count may be none.
    """
    levels = [10.0**-power for power in range(1, 20) if largest.size >= FEWEST_ABOVE * 10**power]
    return {level: _quantile(largest, round(largest.size * level)) for level in levels}


def _quantile(largest: Largest, rank: int) -> WithInterval:
    """Return the value of a rank, counted from 1, and the interval of its quantile."""
    by_row = np.bincount(largest.rows[:rank]).astype(np.float64)
    apart = Z95 * math.sqrt(variance(by_row, largest.count))
    low, middle, high = (_value(largest, place) for place in (rank + apart, rank, rank - apart))
    return middle, (low, high)


def _value(largest: Largest, rank: float) -> float:
    """Return the value of a rank, rounded outwards: inf before the first, 0 past the last."""
    place = math.ceil(rank)
    if rank < 1:
        return math.inf
    return math.exp(largest.logs[place - 1]) if place <= len(largest.logs) else 0.0
