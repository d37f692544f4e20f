"""Rows of an analysis from draws of one unit over fresh weights, where there is no exact law."""

from __future__ import annotations

import math

from torch import Tensor

from merkhet.core.errors import InputError
from merkhet.core.intervals import Z95, wilson
from merkhet.unit_prior.analysis.places import Place
from merkhet.unit_prior.analysis.result import Measured, Row
from merkhet.unit_prior.tails.hill import hill_weibull
from merkhet.unit_prior.tails.sample import LEAST

INFINITE = "infinite: tails are powers of index {index:g}, and moments from it on do not exist"


def sampled_row(
    place: Place, sample: Tensor, probabilities: tuple[float, ...], index: float | None
) -> Row:
    """Return what draws say about a unit; the tail in the limit is left unknown.

    Args:
        place: Of the unit.
        sample: (n,) independent draws.
        probabilities: Beyond which the local index is estimated.
        index: Of the power in the tails, where the rule has one; None of lighter tails.
    """
    std, kurtosis = spread_of(sample, index)
    effective = {p: effective_of(sample, p) for p in probabilities}
    zero = zeros_of(sample)
    row = (None, False, None, "", std, kurtosis, effective, zero, "sampled")
    return Row(place.path, place.operation, place.units, place.weighted, *row)


def effective_of(sample: Tensor, p: float) -> Measured:
    """Return Hill's estimate of the tail parameter beyond what is exceeded with a probability.

    Args:
        sample: (n,) independent draws.
        p: The probability.
    """
    beyond = int(p * len(sample))
    if beyond < LEAST:
        enough = f"give n = {LEAST / p:,.0f} or more"
        return Measured(None, note=f"theta({p:g}): of {len(sample):,} draws too few; {enough}")
    try:
        found = hill_weibull(sample, beyond)
    except InputError as error:
        return Measured(None, note=f"theta({p:g}): {error}")
    return Measured(found.theta, found.interval, "; ".join(found.notes))


def spread_of(sample: Tensor, index: float | None = None) -> tuple[Measured, Measured]:
    """Return the standard deviation and the kurtosis of a sample, with intervals.

    Intervals are by the delta method, on the log scale. Of heavy tails a sample's kurtosis is
    below the truth more often than not.

    Args:
        sample: (n,) independent draws.
        index: Of the power in the tails; None of lighter ones.
    """
    centred = sample.double() - sample.double().mean()
    variance = float(centred.square().mean())
    if index is not None and index <= 2:
        nothing = Measured(None, note=INFINITE.format(index=index))
        return nothing, nothing
    if variance == 0:
        constant = Measured(None, note="the same in every draw")
        return Measured(0.0, (0.0, 0.0)), constant
    std = math.sqrt(variance)
    y = centred / std
    squares = y.square()
    found = _with_interval(std, (squares - 1) / 2)
    if index is not None and index <= 4:
        return found, Measured(None, note=INFINITE.format(index=index))
    third, fourth = float(y.pow(3).mean()), float(y.pow(4).mean())
    influence = squares.square() / fourth - 1 - 2 * (squares - 1) - 4 * third / fourth * y
    return found, _with_interval(fourth, influence)


def zeros_of(sample: Tensor) -> Measured:
    """Return the share of zeros of a sample (n,), with Wilson's interval."""
    hits = int((sample == 0).sum())
    return Measured(hits / len(sample), wilson(hits, len(sample)))


def _with_interval(value: float, influence: Tensor) -> Measured:
    """Return a value with the interval that each draw's influence on its logarithm gives."""
    spread = math.exp(Z95 * float(influence.square().mean().sqrt()) / math.sqrt(len(influence)))
    return Measured(value, (value / spread, value * spread))
