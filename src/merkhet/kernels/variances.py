"""Variances of images with themselves at equal positions, through networks without pooling."""

from __future__ import annotations

import numpy as np

from merkhet.kernels.images import Array
from merkhet.kernels.plan import EXPONENTIAL, Act, Patch, Plan


def equal_positions(plan: Plan, norms: Array) -> tuple[Array, list[Array]]:
    """Return the kernels (2, n) of images with themselves, and norms at later activations.

    All cosines are 1 there, so that the rules are products.

    Args:
        plan: A network of one block without pooling.
        norms: (n, H, W), of the patches of the first layer.
    """
    (block,) = plan.blocks
    s, later = norms**2, list[Array]()
    t = s.copy()
    for step in block.steps:
        if isinstance(step, Patch):
            s = step.weight * _patch_sums(step, s) + step.bias
            t = s + step.weight * _patch_sums(step, t)
            continue
        if step.place >= 0:
            later.append(np.sqrt(s))
        dual, slope = _at_one(step)
        s, t = dual * s, slope * t
    return np.stack([k.mean((1, 2)) for k in (s, t)]), later


def _at_one(act: Act) -> tuple[float, float]:
    """Return an activation's dual and slope at the cosine 1."""
    if act.kind == EXPONENTIAL:
        return 0.5, 0.5 / act.parameter**2
    both = (1 + act.parameter**2) / 2
    return both, both


def _patch_sums(step: Patch, k: Array) -> Array:
    """Return sums (n, H_out, W_out) over patches of k (n, H, W), with zeros around."""
    for axis in (1, 2):
        size, low, after = step.patch[axis - 1], step.low[axis - 1], step.after[axis - 1]
        high = max(after + size - 1 - low - k.shape[axis], 0)
        around = [(0, 0), (0, 0), (0, 0)]
        around[axis] = (low, high)
        wide = np.moveaxis(np.pad(k, around), axis, 0)
        summed = np.sum([wide[a : a + after] for a in range(size)], 0)
        k = np.moveaxis(summed, 0, axis)
    return k
