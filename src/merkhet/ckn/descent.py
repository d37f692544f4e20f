"""Descent of many functions at once, each of its own row.

L-BFGS (Liu and Nocedal, Mathematical Programming 1989) with a history and a step for each row, so
that none depends on the others in the batch.

n rows, d numbers of each.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Objective = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
MEMORY = 10  # pairs of steps and changes of the gradient that are kept
HALVINGS = 12  # of a step, before the descent of a row ends
DECREASE = 1e-4  # of the decrease that the gradient promises, at which a step is taken


def minimise(
    objective: Objective, x: Tensor, steps: int, advance: Callable[[int], None] = lambda _: None
) -> Tensor:
    """Return where many functions, each of its own row, are small: L-BFGS with backtracking.

    Args:
        objective: Returns values (n,) and gradients (n, d) at points (n, d) of the rows named.
        x: (n, d), where they start.
        steps: At most.
        advance: Told of each step.

    Returns:
        (n, d); no value is above that of the start.
    """
    active = torch.arange(len(x), device=x.device)
    at = _Points(x, *objective(x, active))
    # The first length is that to the minimum of a parabola which is 0 there.
    scale = 2 * at.values / at.gradients.square().sum(1).clamp_min(torch.finfo(x.dtype).tiny)
    pairs: list[tuple[Tensor, Tensor, Tensor]] = []
    for _ in range(steps):
        new, active = _searched(objective, at, -_newton(at.gradients, pairs, scale), active)
        step, change = new.x - at.x, new.gradients - at.gradients
        product, curved = (step * change).sum(1), change.square().sum(1)
        good = product > 1e-8 * step.norm(dim=1) * curved.sqrt()  # or it tells of no curvature
        pairs = [*pairs, (step, change, torch.where(good, 1 / product, 0))][-MEMORY:]
        scale = torch.where(good, product / curved, scale)
        at = new
        advance(1)
    return at.x


@dataclass
class _Points:
    """Points (n, d) with values (n,) and gradients (n, d)."""

    x: Tensor
    values: Tensor
    gradients: Tensor


def _newton(gradients: Tensor, pairs: list[tuple[Tensor, Tensor, Tensor]], scale: Tensor) -> Tensor:
    """Return inverse Hessians, as the pairs tell of them, times gradients: (n, d)."""
    found, shares = gradients, []
    for step, change, inverse in reversed(pairs):
        shares.append(inverse * (step * found).sum(1))
        found = found - shares[-1][:, None] * change
    found = scale[:, None] * found
    for step, change, inverse in pairs:
        back = inverse * (change * found).sum(1)
        found = found + (shares.pop() - back)[:, None] * step
    return found


def _searched(
    objective: Objective, at: _Points, direction: Tensor, active: Tensor
) -> tuple[_Points, Tensor]:
    """Return the points a step further, halved until the values fall, and the rows that moved."""
    new = _Points(at.x.clone(), at.values.clone(), at.gradients.clone())
    slopes = (direction * at.gradients).sum(1)
    waiting, length = active[slopes[active] < 0], 1.0
    moved = [active[:0]]
    for _ in range(HALVINGS):
        if not len(waiting):
            break
        x = at.x[waiting] + length * direction[waiting]
        values, gradients = objective(x, waiting)
        fell = values <= at.values[waiting] + DECREASE * length * slopes[waiting]
        rows = waiting[fell]
        new.x[rows], new.values[rows], new.gradients[rows] = x[fell], values[fell], gradients[fell]
        moved.append(rows)
        waiting, length = waiting[~fell], length / 2
    return new, torch.cat(moved).sort().values
