"""95 % intervals of shares and means."""

from __future__ import annotations

import math

import torch
from torch import Tensor

Z95 = 1.959963984540054


def wilson(hits: int, count: int) -> tuple[float, float]:
    """Return Wilson's score interval of a share (Wilson 1927), at 95 %.

    Args:
        hits: How often it happened.
        count: Of how many.
    """
    assert 0 <= hits <= count
    assert count > 0
    share = hits / count
    middle = share + Z95**2 / (2 * count)
    spread = Z95 * math.sqrt(share * (1 - share) / count + Z95**2 / (4 * count**2))
    scale = 1 + Z95**2 / count
    return max(0.0, (middle - spread) / scale), min(1.0, (middle + spread) / scale)


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
