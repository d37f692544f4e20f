"""A step of spherical k-means on processors, float32. Import where used: numba is slow to load.

Cosines of a block of points stay in a core's cache, where a compiled loop reads them while torch
makes the next: a step takes hardly longer than its matrix product.

n points of dimension d, k centres.
"""

from __future__ import annotations

from typing import Any

import numba as nb
import numpy as np
import torch
from torch import Tensor

from merkhet.core.compiled import exact
from merkhet.core.threads import in_parallel

PARTS = 16  # at most; fixed by the sizes, so that sums do not depend on the threads
CACHED = 2**18  # cosines of a block: 1 MB
BLOCKS = 16, 4096  # points of a block, least and most
LANES = 64  # cosines compared at once

# A largest value can be found in any order: cosines of unit rows are never NaN.
_ordered = nb.njit(nogil=True, cache=True, error_model="numpy", fastmath={"nnan", "nsz"})


@_ordered
def _largest(values: Any) -> Any:
    """Return the largest value."""
    found = values[0]
    for place in range(values.shape[0]):
        found = max(found, values[place])
    return found


@exact
def _place_of(value: Any, values: Any) -> int:
    """Return the first place of a value that is there."""
    start, count = 0, values.shape[0]
    while start + LANES <= count:
        hit = np.int32(0)
        for lane in range(LANES):
            hit |= np.int32(values[start + lane] == value)
        if hit:
            break
        start += LANES
    while values[start] != value:
        start += 1
    return start


@exact
def gather(cosines: Any, points: Any, labels: Any, best: Any, sums: Any, counts: Any) -> None:
    """Put each point with its nearest centre, the first of equal ones, and add it to the sum there.

    cosines (n, k), points (n, d); labels and best (n,) are set; sums (k, d) float64 and counts
    (k,) grow.
    """
    for point in range(points.shape[0]):
        row = cosines[point]
        value = _largest(row)
        label = _place_of(value, row)
        labels[point], best[point] = label, value
        counts[label] += 1
        given, total = points[point], sums[label]
        for column in range(given.shape[0]):
            total[column] += given[column]


def assign(points: Tensor, centres: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return labels, cosines (n,), sums (k, d) in float64, counts (k,), as `kmeans.plain_step`.

    Args:
        points: (n, d) unit rows, float32, contiguous, on the CPU.
        centres: (k, d) unit rows.
    """
    (count, width), many = points.shape, len(centres)
    # One part would run on the caller's thread, where torch splits products among all threads.
    parts = max(2, min(PARTS, count // (4 * many)))  # sums take half of the points' memory at most
    cuts = [count * part // parts for part in range(parts + 1)]
    block = min(max(CACHED // many, BLOCKS[0]), BLOCKS[1])
    labels = torch.empty(count, dtype=torch.int64, device="cpu")
    best = torch.empty(count, dtype=torch.float32, device="cpu")
    sums = np.zeros((parts, many, width))
    counts = np.zeros((parts, many), np.int64)

    def run(first: int, last: int) -> None:
        """Go over some parts on one thread."""
        room = torch.empty(block, many, dtype=torch.float32, device="cpu")
        for part in range(first, last):
            for low in range(cuts[part], cuts[part + 1], block):
                high = min(low + block, cuts[part + 1])
                cosines = torch.mm(points[low:high], centres.T, out=room[: high - low])
                to = labels[low:high].numpy(), best[low:high].numpy(), sums[part], counts[part]
                gather(cosines.numpy(), points[low:high].numpy(), *to)

    in_parallel(run, [(part, part + 1) for part in range(parts)])
    return labels, best, torch.from_numpy(sums.sum(0)), torch.from_numpy(counts.sum(0))
