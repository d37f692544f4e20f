"""Displacement fields: how far every pixel's source lies, the norms of a field, rigid motions.

A displacement `tau` moves a picture `x` to `L_tau x(u) = x(u - tau(u))`: what is seen at `u`
afterwards came from `u - tau(u)`. Components are (rows, columns) in pixels, rows count
downwards, and the motions below turn about the centre of the picture, which lies between
pixels where a side is even.

Shapes: a field is (batch, 2, height, width) for pictures and (batch, 1, length) for signals;
`shape` is (height, width) or (length,).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from merkhet.core.errors import InputError

Number = float | Sequence[float] | Tensor


def displacement_norms(displacement: Tensor) -> tuple[Tensor, Tensor]:
    """Return the two norms of displacement fields that stability bounds are stated in.

    `|tau|_inf` is the largest Euclidean length over the pixels. `|grad tau|_inf` is the largest
    spectral norm of the Jacobian of the field *as interpolated between pixels* (bilinearly;
    linearly for signals). Inside a cell of four pixels that Jacobian is a convex combination of
    the four that pair a vertical with a horizontal difference of neighbours, and a norm is
    convex: the largest of these four is the exact supremum over the cell, no estimate. Neither
    norm carries gradients.

    Args:
        displacement: (batch, 2, height, width) or (batch, 1, length), in pixels.

    Returns:
        `|tau|_inf` in pixels and `|grad tau|_inf` in pixels per pixel, each (batch,). A side of
        one pixel has no gradient along it.

    Raises:
        InputError: Not the shape of a displacement.
    """
    _check_field(displacement)
    displacement = displacement.detach()
    largest = displacement.square().sum(1).flatten(1).amax(1).sqrt()
    if displacement.dim() == 3:
        return largest, _differences(displacement, -1).abs().flatten(1).amax(1)
    return largest, _steepest(displacement)


def translation(
    shape: Sequence[int], offset: Number, *, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Return the field that moves pictures or signals by `offset`.

    >>> translation((2, 2), (0.0, 1.0)).tolist()  # everything one pixel to the right
    [[[[0.0, 0.0], [0.0, 0.0]], [[1.0, 1.0], [1.0, 1.0]]]]

    Args:
        shape: (height, width) or (length,).
        offset: (rows, columns) in pixels, positive downwards and to the right, or (batch, 2);
            for signals a number of samples or (batch,).
        dtype: Of the field.

    Raises:
        InputError: The offset does not fit the shape.
    """
    dims = _dimensions(shape)
    values = _double(offset)
    if dims == 1 and values.dim() <= 1:
        values = values.reshape(-1, 1)
    if values.dim() not in (1, 2) or values.shape[-1] != dims:
        wanted = "(rows, columns) or (batch, 2)" if dims == 2 else "a number or (batch,)"
        raise InputError(f"offset of shape {tuple(values.shape)} for {dims}-D: give {wanted}")
    values = values.reshape(-1, dims, *(1,) * dims)
    return values.expand(-1, -1, *shape).to(dtype)


def rotation(
    shape: Sequence[int], degrees: Number, *, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Return the field that turns pictures about their centre, counter-clockwise as displayed.

    `|grad tau|_inf` is `2 sin(|degrees| / 2)`, everywhere.

    Args:
        shape: (height, width).
        degrees: The angle, or (batch,) angles.
        dtype: Of the field.

    Raises:
        InputError: The shape is a signal's, or the angles are not a number or (batch,).
    """
    if _dimensions(shape) != 2:
        raise InputError("a signal cannot be rotated: give a (height, width) shape")
    angle = torch.deg2rad(_per_example(degrees, "degrees"))[:, None, None]
    rows, columns = _centred(shape[0], angle)[:, None], _centred(shape[1], angle)
    cosine, sine = angle.cos(), angle.sin()
    # The source of (rows, columns) is itself turned back, with rows counting downwards.
    source_rows = cosine * rows + sine * columns
    source_columns = cosine * columns - sine * rows
    return torch.stack((rows - source_rows, columns - source_columns), 1).to(dtype)


def scaling(shape: Sequence[int], factor: Number, *, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return the field that makes pictures or signals `factor` times as large about the centre.

    `|grad tau|_inf` is `|1 - 1/factor|`, everywhere.

    Args:
        shape: (height, width) or (length,).
        factor: Above 1 enlarges, below 1 shrinks; a number or (batch,).
        dtype: Of the field.

    Raises:
        InputError: A factor is not positive.
    """
    dims = _dimensions(shape)
    factors = _per_example(factor, "factor")
    if not (factors > 0).all():
        raise InputError(f"factor {factor}: give factors above 0")
    shrink = (1 - 1 / factors).reshape(-1, *(1,) * dims)
    lines = torch.meshgrid(*(_centred(side, factors) for side in shape), indexing="ij")
    return torch.stack([shrink * line for line in lines], 1).to(dtype)


def _steepest(field: Tensor) -> Tensor:
    """Return the largest spectral norm of the Jacobians at the corners of all cells, (batch,)."""
    down, across = _differences(field, -2), _differences(field, -1)
    if field.shape[-2] == 1:
        across = across.expand(-1, -1, 2, -1)
    if field.shape[-1] == 1:
        down = down.expand(-1, -1, -1, 2)
    norms = [
        _spectral_norm(vertical, horizontal)
        for vertical in (down[..., :-1], down[..., 1:])
        for horizontal in (across[..., :-1, :], across[..., 1:, :])
    ]
    return torch.stack(norms).amax(0)


def _spectral_norm(first: Tensor, second: Tensor) -> Tensor:
    """Return the largest singular value over all 2x2 matrices with these columns, (batch,).

    A 2x2 matrix is a scaled rotation plus a scaled reflection, and its largest singular value
    is the sum of the two scales. Nothing cancels, unlike in the root of the characteristic
    polynomial.

    Args:
        first: (batch, 2, height, width) first columns.
        second: (batch, 2, height, width) second columns.
    """
    (a, c), (b, d) = first.unbind(1), second.unbind(1)
    turning = torch.addcmul((a + d).square_(), b - c, b - c)
    mirroring = torch.addcmul((a - d).square_(), b + c, b + c)
    squared = (turning + mirroring).add_(turning.mul_(mirroring).sqrt_(), alpha=2)
    return squared.flatten(1).amax(1).sqrt() / 2


def _differences(field: Tensor, axis: int) -> Tensor:
    """Return differences of neighbours along an axis; zero along a side of one pixel."""
    if field.shape[axis] == 1:
        return torch.zeros_like(field)
    return field.diff(dim=axis)


def _centred(side: int, like: Tensor) -> Tensor:
    """Return the coordinates of a side's pixels from its centre, (side,)."""
    return torch.arange(side, dtype=like.dtype, device=like.device) - (side - 1) / 2


def _double(value: Number) -> Tensor:
    """Return numbers as a float64 tensor, through which gradients flow."""
    return torch.as_tensor(value).to(torch.float64)


def _per_example(value: Number, what: str) -> Tensor:
    """Return a number or (batch,) numbers as (batch,) float64."""
    values = _double(value)
    if values.dim() > 1:
        raise InputError(f"{what} of shape {tuple(values.shape)}: give a number or (batch,)")
    return values.reshape(-1)


def _dimensions(shape: Sequence[int]) -> int:
    """Return 2 for the shape of pictures and 1 for that of signals."""
    if len(shape) not in (1, 2) or min(shape) < 1:
        raise InputError(f"shape {tuple(shape)}: give (height, width) or (length,)")
    return len(shape)


def _check_field(displacement: Tensor) -> None:
    """Refuse what is no displacement field."""
    dims = displacement.dim() - 2
    if dims not in (1, 2) or displacement.shape[1] != dims or not displacement.is_floating_point():
        raise InputError(
            f"displacement of shape {tuple(displacement.shape)} and {displacement.dtype}: give "
            "floats of shape (batch, 2, height, width) or (batch, 1, length)"
        )
