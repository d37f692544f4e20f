"""Estimators that are sums over log-spacings: their value, influence values and variance.

With X_(1) >= X_(2) >= ... the sorted |x| and D_j = log X_(j) - log X_(j+1), an estimator of this
kind is T = sum_j g_j D_j over j = 1 ... k, with weights g that depend on k and the sample size n
alone. Hill's, the bias-reduced one and the slope of the QQ plot are three choices of g.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from merkhet.unit_prior.tails.estimate import TailEstimate, with_interval
from merkhet.unit_prior.tails.sample import Floats, Largest, variance

Weights = Callable[[int, int], Floats]  # n, k -> g (k,)


def by_spacings(largest: Largest, k: int, weights: Weights, method: str) -> TailEstimate:
    """Return the estimate T = sum_j g_j D_j, with its interval.

    Args:
        largest: The sample.
        k: How many of its largest values to use.
        weights: g of the sample size and k.
        method: In words.
    """
    factors, spacings = weights(largest.size, k), largest.spacings(k)
    influence = influence_values(factors, spacings)
    error = math.sqrt(variance(influence, largest.size))
    theta, effect = float((factors * spacings).sum()), largest.design_effect(influence)
    return with_interval(largest, k, method, theta, error, effect)


def influence_values(factors: Floats, spacings: Floats) -> Floats:
    """Return what each of the k largest values adds to T, (k,), all smaller ones adding 0.

    One more value of rank i raises the count of values above x from j to j + 1 in every gap
    j >= i: dT = sum_(j >= i) (g_j - g_(j-1)) D_j. And it moves the threshold up, by the width
    that one value has in log x there, which takes g_k times that off. Sums of these by independent
    rows have the variance of T (the infinitesimal jackknife).

    Args:
        factors: g, (k,).
        spacings: D, (k,).
    """
    steps = np.diff(factors, prepend=0.0) * spacings
    gained = np.cumsum(steps[::-1])[::-1]
    k = len(spacings)
    near = np.arange(k // 2 + 1, k + 1)  # the lower half of the tail, nearest the threshold
    width = float((near * spacings[k // 2 :]).mean()) / k  # j D_j estimates 1 / hazard of log x
    found: Floats = gained - factors[-1] * width
    return found


def log_levels(size: int, count: int) -> Floats:
    """Return log(n / j), where -log P is at the j-th largest value, j = 1 ... count, (count,)."""
    return math.log(size) - np.log(np.arange(1, count + 1))
