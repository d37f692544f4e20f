"""The Hill-type estimator of the Weibull tail coefficient, and the slope of the QQ plot."""

from __future__ import annotations

import numpy as np

from merkhet.unit_prior.tails.estimate import TailEstimate
from merkhet.unit_prior.tails.sample import Floats, Largest, Samples, read_largest
from merkhet.unit_prior.tails.spacings import by_spacings, log_levels

POWER = 0.6  # k = n^0.6: below it errors of sampling grow faster than the bias falls


def hill_weibull(samples: Samples, k: int | None = None) -> TailEstimate:
    """Estimate theta by the mean excess of log |x| over a high threshold.

    theta = sum_(i <= k) [log X_(i) - log X_(k+1)] / sum_(i <= k) [loglog(n/i) - loglog(n/(k+1))]
    with X_(1) the largest |x| of n. Its mean is that of the effective tail parameter over
    probabilities p below k / n, with weights p / log(1 / p) in log p: nearly all of it lies within
    a factor of 20 of k / n. It is the steadiest of the four and the most biased.

    Args:
        samples: Draws (n,) of a unit, or (n, units) of units of one layer with independent rows;
            |x| is taken, zeros count as mass below the threshold.
        k: How many of the largest values to use, from 20 to a quarter of all; by default
            n^0.6 of n values, the same for every tail.

    Returns:
        The estimate. For independent values and small k / n its standard error is
        theta / sqrt(k); units of one row widen it.

    Raises:
        InputError: Fewer than 100 rows, NaN or infinite values, k out of its range, too many
            zeros or ties.

    Reference:
        Beirlant, Broniatowski, Teugels and Vynckier, "The mean residual life function at great
        age", Journal of Statistical Planning and Inference 45, 1995; Girard, "A Hill type
        estimator of the Weibull tail-coefficient", Communications in Statistics 33, 2004.
    """
    largest = read_largest(samples)
    return hill_of(largest, largest.chosen(k, POWER))


def weibull_qq(samples: Samples, k: int | None = None) -> TailEstimate:
    """Estimate theta by the slope of the Weibull QQ plot, log X_(i) over loglog(n/i), i <= k.

    Least squares, with every point the same weight; the largest values sway it more than Hill's
    mean does, so that it varies a little more and looks a little farther into the tail.

    Args:
        samples: As in `hill_weibull`.
        k: As in `hill_weibull`.

    Raises:
        InputError: As in `hill_weibull`.

    Reference:
        Beirlant, Broniatowski, Teugels and Vynckier (as in `hill_weibull`), for the plot.
    """
    largest = read_largest(samples)
    return qq_of(largest, largest.chosen(k, POWER))


def hill_of(largest: Largest, k: int) -> TailEstimate:
    """Return Hill's estimate from the k largest values."""
    return by_spacings(largest, k, hill_weights, "Hill type")


def qq_of(largest: Largest, k: int) -> TailEstimate:
    """Return the QQ plot's slope from the k largest values."""
    return by_spacings(largest, k, qq_weights, "Weibull QQ")


def hill_weights(size: int, k: int) -> Floats:
    """Return g_j = j / sum_i [loglog(n/i) - loglog(n/(k+1))], (k,)."""
    heights = np.log(log_levels(size, k + 1))
    weights: Floats = np.arange(1, k + 1) / float((heights[:-1] - heights[-1]).sum())
    return weights


def qq_weights(size: int, k: int) -> Floats:
    """Return g_j = sum_(i <= j) (y_i - mean y) / sum_i (y_i - mean y)^2, y_i = loglog(n/i), (k,).

    The slope is the sum over i of these shares times log X_(i), summed by parts; the shares add
    up to 0, so that X_(k+1) has no part in it.
    """
    heights = np.log(log_levels(size, k))
    heights = heights - heights.mean()
    weights: Floats = np.cumsum(heights) / float(heights @ heights)
    return weights
