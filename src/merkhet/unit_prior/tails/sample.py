"""The largest values of a sample, in order: all that estimators of a tail look at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from merkhet.core.errors import InputError
from merkhet.unit_prior.answer import Answer

Floats = NDArray[np.float64]
Samples = Tensor | NDArray[Any] | Sequence[Any]

FEWEST = 100  # rows
LEAST = 20  # order statistics, and rows they come from where an interval is given
DISTINCT = 10  # values among them
PART = 4  # at most one value in so many is in the tail: log(n / k) stays above 1


@dataclass(frozen=True, eq=False)
class Largest:
    """The largest values of a sample of rows, of one unit or of several.

    Attributes:
        logs: Logarithms of the largest |x| above 0, from the largest down, (m,) float64.
        rows: The row of each, (m,).
        count: Rows, which are independent of each other.
        units: Values in a row, which need not be.
        zeros: Values that are 0, as of dead units: a mass below any threshold.
    """

    logs: Floats
    rows: NDArray[np.intp]
    count: int
    units: int
    zeros: int

    @property
    def size(self) -> int:
        """Values in all."""
        return self.count * self.units

    def check_range(self, k: object) -> None:
        """Check that k is a whole number from 20 to a quarter of all values.

        Raises:
            InputError: It is not.
        """
        last = self.size // PART
        if isinstance(k, bool) or not isinstance(k, int | np.integer) or not LEAST <= k <= last:
            raise InputError(
                f"k = {k!r}: give a whole number from {LEAST} to {last}, a quarter of the "
                f"{self.size} values"
            )

    def check(self, k: int) -> int:
        """Return k if a tail can be read off the k largest values.

        Raises:
            InputError: k is too small or too large, or there are too few values above 0, or too
                few different ones.
        """
        self.check_range(k)
        above = self.size - self.zeros
        if above <= k:
            smaller = f"k below {above}, or " if above > LEAST else ""
            raise InputError(
                f"k = {k}: only {above} of {self.size} values are not 0; give {smaller}a larger "
                "sample"
            )
        different = 1 + np.count_nonzero(np.diff(self.logs[:k]))
        if different < DISTINCT:
            raise InputError(
                f"the {k} largest values are {different} different ones: a tail needs {DISTINCT} "
                "at least; give values of a continuous variable, or a larger k"
            )
        return int(k)

    def chosen(self, k: int | None, power: float) -> int:
        """Return k, by default sample_size^power and at least 20, if a tail can be read off it.

        Raises:
            InputError: As in `check`.
        """
        if k is None:
            k = min(max(LEAST, round(self.size**power)), self.size // PART)
        return self.check(k)

    def spacings(self, k: int) -> Floats:
        """Return log X_(j) - log X_(j+1) for j = 1 ... k, X_(1) being the largest, (k,)."""
        return self.logs[:k] - self.logs[1 : k + 1]

    def rows_above(self, k: int) -> int:
        """Return how many rows have one of the k largest values."""
        return k if self.units == 1 else int(np.count_nonzero(np.bincount(self.rows[:k])))

    def tied(self, k: int) -> tuple[str, ...]:
        """Say how many of the k largest values equal the next, if a tenth or more do."""
        ties = k - int(np.count_nonzero(self.spacings(k)))
        return (f"{ties} of the {k} largest values are ties",) if ties > k / 10 else ()

    def design_effect(self, influence: Floats) -> float:
        """Return how many times rows raise a variance over that of independent values, from 1 on.

        Args:
            influence: What each of the k largest values adds to an estimator, all others adding
                the same, (k,).
        """
        if self.units == 1:
            return 1.0
        by_row = np.bincount(self.rows[: len(influence)], influence).astype(np.float64)
        alone, together = variance(influence, self.size), variance(by_row, self.count)
        return max(1.0, together / alone)


def variance(influence: Floats, count: int) -> float:
    """Return the variance of a sum of `count` independent terms, all but these being 0.

    Args:
        influence: The terms that are not 0, (k,).
        count: How many there are in all.
    """
    return float(np.square(influence).sum()) - float(influence.sum()) ** 2 / count


def read_largest(samples: Samples) -> Largest:
    """Return the largest quarter of a sample.

    Args:
        samples: Real numbers (n,), or (n, units) with rows that are independent of each other; a
            tensor, an array or a list. |x| is taken.

    Raises:
        InputError: Other shapes, NaN or infinite values, fewer than 100 rows.
    """
    return largest_of(absolute(samples))


def largest_of(values: Floats) -> Largest:
    """Return the largest quarter of values (n, units) from 0 on."""
    flat = values.reshape(-1)
    above = int(np.count_nonzero(flat))
    first = flat.size - min(flat.size // PART + 1, above)
    places = np.argpartition(flat, min(first, flat.size - 1))[first:]
    places = places[np.argsort(flat[places])[::-1]]
    count, units = values.shape
    return Largest(np.log(flat[places]), places // units, count, units, flat.size - above)


def absolute(samples: Samples) -> Floats:
    """Return |x| of a checked sample, (n, units) float64; `samples` as in `read_largest`.

    Raises:
        InputError: As in `read_largest`.
    """
    values = np.atleast_1d(real_numbers(samples, "samples"))
    if values.ndim > 2 or not values.size:
        raise InputError(f"samples of shape {values.shape}: give (n,) or (n, units)")
    values = values.reshape(len(values), -1)
    if len(values) < FEWEST:
        raise InputError(
            f"samples of {len(values)} rows: a tail needs {FEWEST} draws of the weights at least, "
            "as (draws,) or (draws, units); units of one network are no independent draws"
        )
    return np.abs(values)


def real_numbers(given: Samples | Answer, name: str) -> Floats:
    """Return finite real numbers as float64, of their shape.

    Args:
        given: A tensor, an array or a list.
        name: What they are, for the message.

    Raises:
        InputError: They are not real numbers, or some are NaN or infinite.
    """
    try:
        if isinstance(given, Tensor):
            given = given.detach().cpu().to(torch.promote_types(given.dtype, torch.float64)).numpy()
        values = np.asarray(given)
        if values.dtype.kind not in "fiu":
            raise TypeError(f"they are of type {values.dtype}")
    except (TypeError, ValueError) as error:
        raise InputError(f"{name}: {error}; give a tensor or an array of real numbers") from error
    bad = values.size - int(np.count_nonzero(np.isfinite(values)))
    if bad:
        raise InputError(f"{name}: {bad} of {values.size} are NaN or infinite; give finite numbers")
    return values.astype(np.float64, copy=False)
