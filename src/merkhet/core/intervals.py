"""95 % intervals of shares and means."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

import torch
from torch import Tensor

from merkhet.core.errors import InputError

Z95 = 1.959963984540054


def wilson(hits: int, count: int) -> tuple[float, float]:
    """Return the interval of a share (Wilson, JASA 1927), at 95 %.

    Args:
        hits: How often it happened.
        count: Of how many.

    Raises:
        InputError: `hits` is not between 0 and `count`, or `count` is 0.
    """
    if not 0 <= hits <= count or count == 0:
        raise InputError(f"{hits} of {count}: give a count above 0, and at most it of it")
    share, weight = hits / count, Z95**2 / count
    centre = (share + weight / 2) / (1 + weight)
    half = math.sqrt(weight * (share * (1 - share) + weight / 4)) / (1 + weight)
    # At the ends the interval touches 0 or 1 exactly, which rounding would blur.
    low = 0.0 if hits == 0 else centre - half
    return low, 1.0 if hits == count else centre + half


def bootstrap(
    values: Tensor, generator: torch.Generator | None = None, resamples: int = 1000
) -> tuple[float, float]:
    """Return the percentile bootstrap interval of a mean, at 95 %.

    Args:
        values: (count,) independent values.
        generator: Draws the resamples; by default one with seed 0.
        resamples: How many.
    """
    generator = generator or torch.Generator().manual_seed(0)
    values = values.detach().double().cpu()
    drawn = torch.randint(len(values), (resamples, len(values)), generator=generator)
    means = values[drawn].mean(1)
    low, high = torch.quantile(means, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return low, high


def student(values: Sequence[float]) -> tuple[float, float]:
    """Return Student's interval of a mean, at 95 %: for a few values that are near normal.

    Args:
        values: Two independent values or more, such as one for each seed.

    Raises:
        InputError: Fewer than two.
    """
    from scipy import stats

    if len(values) < 2:
        raise InputError(f"an interval of {len(values)} values: give two or more")
    spread = statistics.stdev(values) / math.sqrt(len(values))
    half = float(stats.t.ppf(0.975, len(values) - 1)) * spread
    return statistics.mean(values) - half, statistics.mean(values) + half
