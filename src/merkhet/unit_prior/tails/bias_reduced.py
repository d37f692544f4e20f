"""The bias-reduced estimator of the Weibull tail coefficient: Hill's, extrapolated."""

from __future__ import annotations

import numpy as np

from merkhet.unit_prior.tails.estimate import TailEstimate
from merkhet.unit_prior.tails.sample import Floats, Largest, Samples, read_largest
from merkhet.unit_prior.tails.spacings import by_spacings, log_levels

POWER = 0.8  # k = n^0.8: the regression needs many values, and has its bias taken off


def bias_reduced(samples: Samples, k: int | None = None) -> TailEstimate:
    """Estimate theta by a regression that takes the first term of the bias off.

    Z_j = j log(n/j) [log X_(j) - log X_(j+1)], j <= k, are near theta + b x_j with
    x_j = log(n/k) / log(n/j), where b is the bias at k: the intercept of Z over x is theta. It is
    a step of extrapolation towards P = 0, where x is 0; on units of deep networks it closes a
    part of the gap to the asymptotic theta, at about log(n/k) times Hill's error for the same k.
    Its difference to Hill's estimate tells how much bias there is.

    Args:
        samples: As in `hill_weibull`.
        k: How many of the largest values to use, from 20 to a quarter of all; by default n^0.8
            of n values, the same for every tail.

    Returns:
        The estimate; one from few values may fall below 0, and is left as it is.

    Raises:
        InputError: As in `hill_weibull`.

    Reference:
        Diebolt, Gardes, Girard and Guillou, "Bias-reduced estimators of the Weibull
        tail-coefficient", Test 17, 2008.
    """
    largest = read_largest(samples)
    return bias_reduced_of(largest, largest.chosen(k, POWER))


def bias_reduced_of(largest: Largest, k: int) -> TailEstimate:
    """Return the intercept from the k largest values."""
    return by_spacings(largest, k, intercept_weights, "bias-reduced")


def intercept_weights(size: int, k: int) -> Floats:
    """Return g_j = w_j j log(n/j), (k,), where w gives the intercept of a regression on x_j.

    w_j = 1 / k - mean x (x_j - mean x) / sum_i (x_i - mean x)^2.
    """
    levels = log_levels(size, k)
    x = levels[-1] / levels
    apart = x - x.mean()
    shares = 1 / k - x.mean() * apart / float(apart @ apart)
    weights: Floats = shares * np.arange(1, k + 1) * levels
    return weights
