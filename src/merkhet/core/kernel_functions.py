"""Dot-product kernels as functions of the cosine, differentiable up to both ends.

Bietti & Mairal, NeurIPS 2019 (arXiv 1905.12173), Section 2; Cho & Saul, NIPS 2009.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def angle(u: Tensor) -> Tensor:
    """Return arccos of cosines of any shape, clamped to [-1, 1].

    Where the cosine is 1 or -1 the derivative is infinite; 0 is given in its stead, so that the
    gradient of a kernel at equal inputs is that of its diagonal.
    """
    inside = u.abs() < 1
    ends = torch.where(u > 0, torch.zeros_like(u), torch.full_like(u, math.pi))
    return torch.where(inside, torch.arccos(torch.where(inside, u, torch.zeros_like(u))), ends)


def sine(u: Tensor) -> Tensor:
    """Return sqrt(1 - u^2) for cosines of any shape, with derivative 0 at both ends."""
    squared = (1 - u) * (1 + u)
    inside = squared > 0
    return torch.where(inside, squared.where(inside, torch.ones_like(u)).sqrt(), 0 * u)


def arc_cosine_0(u: Tensor) -> Tensor:
    """Return k0(u) = (pi - arccos u) / pi, of any shape."""
    return 1 - angle(u) / math.pi


def arc_cosine_1(u: Tensor) -> Tensor:
    """Return k1(u) = u k0(u) + sqrt(1 - u^2) / pi, of any shape."""
    clamped = u.clamp(-1, 1)
    return clamped * arc_cosine_0(u) + sine(clamped) / math.pi


def exponential(u: Tensor, sigma: Tensor | float = 1.0) -> Tensor:
    """Return exp((u - 1) / sigma^2), of any shape: 1 at equal directions."""
    return ((u.clamp(-1, 1) - 1) / sigma**2).exp()
