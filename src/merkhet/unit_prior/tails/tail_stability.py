"""The threshold-stability curve: theta by how many of the largest values it is read off."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from merkhet.core.errors import InputError, choose
from merkhet.unit_prior.tails.bias_reduced import bias_reduced_of
from merkhet.unit_prior.tails.estimate import TailEstimate
from merkhet.unit_prior.tails.hill import hill_of, qq_of
from merkhet.unit_prior.tails.sample import LEAST, PART, Largest, Samples, read_largest
from merkhet.unit_prior.tails.stretched import stretched_of

METHODS: dict[str, Callable[[Largest, int], TailEstimate]] = {
    "hill": hill_of,
    "qq": qq_of,
    "bias_reduced": bias_reduced_of,
    "stretched": stretched_of,
}
POINTS = 24


@dataclass(frozen=True)
class StabilityCurve:
    """theta by k. Where it is flat, the threshold has little part in the answer.

    Attributes:
        method: Name of the estimator.
        ks: How many of the largest values, growing, (points,) int64.
        theta: (points,) float64.
        low: Ends of the 95 % intervals, (points,) float64; nan where there is none. Those of
            different k share values: the curve is far smoother than they are wide.
        high: Likewise.
        threshold: The threshold that goes with each k, (points,) float64.
        sample_size: Values in all.
    """

    method: str
    ks: Tensor
    theta: Tensor
    low: Tensor
    high: Tensor
    threshold: Tensor
    sample_size: int

    def __str__(self) -> str:
        columns = (self.ks, self.threshold, self.theta, self.low, self.high)
        rows = zip(*(column.tolist() for column in columns), strict=True)
        head = f"{'k':>9} {'above':>10} {self.method:>12} {'95 % interval':>18}"
        lines = [
            f"{k:>9} {above:>10.4g} {theta:>12.4g} {low:>8.4g} - {high:<7.4g}"
            for k, above, theta, low, high in rows
        ]
        return "\n".join([head, *lines])


def tail_stability(
    samples: Samples, method: str = "hill", ks: Sequence[int] | Tensor | None = None
) -> StabilityCurve:
    """Return an estimate of theta for each of several k, to see how it hangs on the threshold.

    Args:
        samples: (n,) or (n, units), as in `hill_weibull`.
        method: "hill", "qq", "bias_reduced" or "stretched".
        ks: How many of the largest values to use; by default 24 from 20 to a quarter of all
            values, evenly spaced in log k.

    Raises:
        InputError: As in `hill_weibull`, no such method, or ks that are none.
    """
    choose("method", method, METHODS)
    largest = read_largest(samples)
    return curve_of(largest, method, even_counts(largest) if ks is None else _listed(ks))


def _listed(ks: object) -> list[int]:
    """Return several k as a list.

    Raises:
        InputError: There are none, or they are no whole numbers.
    """
    given = ks.tolist() if isinstance(ks, Tensor | np.ndarray) else ks
    found = list(given) if isinstance(given, Iterable) and not isinstance(given, str) else []
    if not found or not all(isinstance(k, int | np.integer) for k in found):
        raise InputError(f"ks = {ks!r}: give whole numbers, as in [20, 50, 100]")
    return found


def even_counts(largest: Largest, points: int = POINTS) -> tuple[int, ...]:
    """Return k from 20 to a quarter of all values, or to as many as are not 0, growing."""
    last = min(largest.size // PART, largest.size - largest.zeros - 1)
    return tuple(np.unique(np.geomspace(LEAST, max(last, LEAST), points).round().astype(int)))


def curve_of(largest: Largest, method: str, ks: Sequence[int]) -> StabilityCurve:
    """Return the curve of a sample that was read."""
    found = [METHODS[method](largest, largest.check(k)) for k in sorted(ks)]
    ends = [one.interval or (float("nan"), float("nan")) for one in found]
    low, high = torch.tensor(ends, dtype=torch.float64).reshape(-1, 2).unbind(1)
    return StabilityCurve(
        method=method,
        ks=torch.tensor([one.k for one in found]),
        theta=torch.tensor([one.theta for one in found], dtype=torch.float64),
        low=low,
        high=high,
        threshold=torch.tensor([one.threshold for one in found], dtype=torch.float64),
        sample_size=largest.size,
    )
