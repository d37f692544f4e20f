"""Centres of k-means without points, and several of one direction: each gets a poorly fitted point.

n points of dimension d, k centres.
"""

from __future__ import annotations

import torch
from torch import Tensor

SAME = 16  # roundings by which cosines of one direction may differ from 1
# Labels (n,), cosines (n,) with those centres, sums (k, d) in float64, counts (k,).
Assignment = tuple[Tensor, Tensor, Tensor, Tensor]


def repair(points: Tensor, assigned: Assignment) -> tuple[int, int]:
    """Give each centre without points the worst-fitted point, in place; return moved and left.

    Centres of one direction become one first. A point that is taken leaves its old centre; the
    next is that farthest from its centre and from those taken, so that directions are distinct.
    The objective does not fall by it: sums s of points that lose x have |s - x| + |x| >= |s|.

    Args:
        points: (n, d) unit rows.
        assigned: As `plain_step` returns it; labels, sums and counts are changed.

    Returns:
        How many centres were moved, and how many were not as every point fits to rounding.
    """
    labels, cosines, sums, counts = assigned
    least = SAME * torch.finfo(points.dtype).eps
    _merge(labels, sums, counts, least)
    dead = (counts == 0).nonzero().flatten().tolist()
    if not dead:
        return 0, 0
    worst, moved = cosines.sort(stable=True).indices, 0
    for among in (worst[: 16 * len(dead)], worst):
        moved += _take(points, among, dead[moved:], assigned, least)
    return moved, len(dead) - moved


def _merge(labels: Tensor, sums: Tensor, counts: Tensor, least: float) -> None:
    """Give the points of centres of one direction, to rounding, to the first of these, in place."""
    directions = sums / sums.norm(dim=1, keepdim=True).clamp(min=1e-300)
    near = (directions @ directions.T > 1 - least).fill_diagonal_(True)
    first = near.to(torch.uint8).argmax(1)
    if bool((first == torch.arange(len(first), device=first.device)).all()):
        return
    while not torch.equal(first, first[first]):
        first = first[first]
    labels.copy_(first[labels])
    sums.copy_(torch.zeros_like(sums).index_add_(0, first, sums))
    counts.copy_(torch.zeros_like(counts).index_add_(0, first, counts))


def _take(
    points: Tensor, among: Tensor, dead: list[int], assigned: Assignment, least: float
) -> int:
    """Give dead centres the worst-fitted of some points, as far as there are; return how many."""
    if not dead:
        return 0
    labels, _, sums, counts = assigned
    x, own = points[among], labels[among]
    directions = (sums / sums.norm(dim=1, keepdim=True).clamp(min=1e-300)).to(points.dtype)
    # 1 - cosine by differences, which are exact where rows are near: cosines would be rounded.
    gaps = (x - directions[own]).square().sum(1) / 2
    for done, centre in enumerate(dead):
        fit = torch.where(counts[own] > 1, gaps, 0)  # a point alone is its own centre
        place = int(fit.argmax())
        if fit[place] <= least:
            return done
        row, old = x[place].double(), int(own[place])
        sums[old] -= row
        counts[old] -= 1
        sums[centre], counts[centre] = row, 1
        labels[among[place]] = own[place] = centre
        gaps = torch.minimum(gaps, (x - x[place]).square().sum(1) / 2)
    return len(dead)
