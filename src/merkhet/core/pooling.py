"""Weights of Gaussian pooling along one side of a map."""

from __future__ import annotations

import torch
from torch import Tensor


def gaussian_windows(length: int, factor: int, stride: int | None = None) -> Tensor:
    """Return Gaussian means over windows of 2 factor + 1, with sigma = factor / sqrt(2).

    ceil(length / stride) windows lie symmetrically about the centre of the side, so that the grid
    of windows is mapped onto itself by reflections and by quarter turns; their weights add up to
    1 inside it. Where the windows cannot be centred on positions they have 2 factor weights.

    Args:
        length: Positions before.
        factor: Scale of the pooling.
        stride: Step between windows; by default the factor.

    Returns:
        (positions after, length), float64.

    References:
        Bietti and Mairal, NeurIPS 2019 (arXiv 1905.12173), Section 3; the placing is ours.
    """
    step = stride or factor
    count = -(-length // step)
    centres = (length - 1) / 2 + step * (
        torch.arange(count, device="cpu").double() - (count - 1) / 2
    )
    distances = torch.arange(length, device="cpu") - centres[:, None]
    # exp(-d^2 / 2 sigma^2) with sigma^2 = factor^2 / 2
    found = (-((distances / factor) ** 2)).exp() * (distances.abs() <= factor)
    return found / found.sum(1, keepdim=True)
