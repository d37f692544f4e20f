"""Norms of examples, smooth at zero where they are differentiated; steps and balls of attacks."""

from __future__ import annotations

import torch
from torch import Tensor

from merkhet.rkhs.looks import widened


def squared_norms(values: Tensor) -> Tensor:
    """Return |v_i|^2, (n,), of (n, *in), in float32 or wider; differentiable everywhere."""
    return widened(values).square().flatten(1).sum(1)


def norms(values: Tensor) -> Tensor:
    """Return |v_i|, (n,), of (n, *in), in float32 or wider, without a graph."""
    lengths: Tensor = torch.linalg.vector_norm(widened(values.detach()).flatten(1), dim=1)
    return lengths


def safe_norms(values: Tensor) -> Tensor:
    """Return `norms` where squares would vanish or overflow, too."""
    values, largest = _scaled(widened(values.detach()))
    return norms(values) * largest


def per_example(numbers: Tensor, like: Tensor) -> Tensor:
    """Return numbers (n,) in a shape that multiplies (n, *in), and in its dtype."""
    return numbers.to(like.dtype).reshape(-1, *(1,) * (like.dim() - 1))


def directions(values: Tensor) -> Tensor:
    """Return (n, *in) scaled to norm 1; what is zero stays zero."""
    # Squares of small gradients would vanish.
    values, _ = _scaled(values)
    length = norms(values)
    return values / per_example(torch.where(length > 0, length, 1), values)


def in_l2_ball(values: Tensor, radius: float) -> Tensor:
    """Return the nearest points to (n, *in) in the l2 ball about zero."""
    length = norms(values)
    factor = torch.where(length > radius, radius / length, 1)
    return values * per_example(factor, values)


def in_box(values: Tensor, clip: tuple[float, float] | None) -> Tensor:
    """Return values of any shape clamped to a range (low, high), or as they are."""
    return values if clip is None else values.clamp(*clip)


def _scaled(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return (n, *in) over its largest entries, and these, (n,); what is zero stays zero."""
    largest = values.flatten(1).abs().amax(1)
    return values / per_example(torch.where(largest > 0, largest, 1), values), largest
