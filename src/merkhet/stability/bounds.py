"""What theory says about translations: how far a pooling filter moves, exactly and bounded."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from merkhet.core.errors import InputError

GRID = 65  # frequencies along an axis in each round of the search
ROUNDS = 5  # the last step is about 1e-9, and the error near a peak its square


def pooling_gap(weights: Tensor, offsets: Tensor) -> Tensor:
    """Return `|L_c A - A|`, the operator norm of a translation's effect on a pooling filter.

    A convolution's norm on square-summable signals is the largest modulus of its transfer
    function, here the maximum over frequencies w of `|exp(-i w.c) - 1| |A^(w)|`. It is found by
    a search over a grid of frequencies that is refined around the largest value, to rounding:
    the value for the filter in use, not a bound on it (the search could in principle miss a
    taller peak, and then gives a lower bound). For signals on the infinite grid, and for
    periodic ones moved by whole pixels, `|A L_c x - A x| <= pooling_gap * |x|`.

    Args:
        weights: (taps,) of a filter along one axis, or (rows, columns).
        offsets: (count,) translations in pixels along that axis, or (count, 2), at the
            resolution that the filter pools; need not be whole.

    Returns:
        (count,) float64.

    Raises:
        InputError: Shapes do not fit.

    References:
        Bietti and Mairal, JMLR 2019 (arXiv 1706.03078), Section 3.
    """
    if weights.dim() == 1 and offsets.dim() == 1:
        offsets = offsets[:, None]
    if weights.dim() not in (1, 2) or offsets.dim() != 2 or offsets.shape[1] != weights.dim():
        raise InputError(
            f"weights of shape {tuple(weights.shape)} and offsets of shape "
            f"{tuple(offsets.shape)}: give (taps,) and (count,), or (rows, columns) and (count, 2)"
        )
    weights, offsets = weights.double(), offsets.double()
    return torch.stack([_largest(weights, offset) for offset in offsets])


def gaussian_gap_bound(offset: float, sigma: float) -> float:
    """Return `|c| / (sigma sqrt(e))`, which bounds `|L_c A - A|` from above.

    It is for a Gaussian A of standard deviation sigma, continuous and not cut off; a filter of a
    few taps can exceed it, which `pooling_gap` tells.

    Args:
        offset: Length of the translation, in pixels.
        sigma: Standard deviation of the Gaussian, in pixels.

    References:
        Bietti and Mairal, JMLR 2019 (arXiv 1706.03078), Section 3. The maximum over w of
        `|w| |c| exp(-sigma^2 w^2 / 2)` lies at w = 1/sigma.
    """
    return abs(offset) / (sigma * math.sqrt(math.e))


def _largest(weights: Tensor, offset: Tensor) -> Tensor:
    """Return the maximum over frequencies of the transfer function's modulus."""
    reach = [side + abs(float(c)) for side, c in zip(weights.shape, offset, strict=True)]
    # Several frequencies to each wave of the transfer function, so that no peak is missed.
    counts = [max(GRID, 16 * math.ceil(r) + 1) for r in reach]
    centre, width = [0.0] * weights.dim(), math.pi
    best = torch.zeros((), dtype=torch.float64)
    for _ in range(ROUNDS):
        axes = [
            torch.linspace(c - width, c + width, n, dtype=torch.float64).clamp(-math.pi, math.pi)
            for c, n in zip(centre, counts, strict=True)
        ]
        values = _transfer(weights, offset, axes)
        place = torch.unravel_index(values.argmax(), values.shape)
        best = torch.maximum(best, values[place])
        centre = [float(axis[i]) for axis, i in zip(axes, place, strict=True)]
        width *= 2 / (min(counts) - 1)
        counts = [GRID] * weights.dim()
    return best


def _transfer(weights: Tensor, offset: Tensor, axes: list[Tensor]) -> Tensor:
    """Return `|exp(-i w.c) - 1| |A^(w)|` on a grid of frequencies."""
    response = weights.to(torch.complex128)
    for axis in reversed(range(weights.dim())):
        waves = torch.exp(-1j * axes[axis][:, None] * torch.arange(weights.shape[axis]))
        response = torch.tensordot(waves, response, dims=([1], [weights.dim() - 1]))
    phase = sum(
        line.reshape(-1, *(1,) * (len(axes) - 1 - axis)) * offset[axis]
        for axis, line in enumerate(axes)
    )
    assert isinstance(phase, Tensor)
    return 2 * (phase / 2).sin().abs() * response.abs()
