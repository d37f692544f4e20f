"""Deforming pictures and signals: `L_tau x(u) = x(u - tau(u))`, and the motions made of it.

The displacement fields themselves are in `displacement_fields` (norms, rigid motions) and
`smooth_fields` (random ones); this module re-exports them. `deform` samples through PyTorch's
`grid_sample`; `_deform_plain` below it reads like the definition and is its reference.

Rows count downwards and angles are counter-clockwise as displayed:

>>> picture = torch.tensor([[1.0, 2.0], [3.0, 4.0]])[None, None]
>>> rotate(picture, 90.0).round(decimals=4)[0, 0].tolist()
[[2.0, 4.0], [1.0, 3.0]]
>>> translate(picture, (0.0, 1.0))[0, 0].tolist()  # (rows, columns): one pixel to the right
[[0.0, 1.0], [0.0, 3.0]]
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from merkhet.core.displacement_fields import (
    Number,
    displacement_norms,
    rotation,
    scaling,
    translation,
)
from merkhet.core.errors import InputError, choose
from merkhet.core.smooth_fields import smooth_displacement

__all__ = [
    "INTERPOLATIONS",
    "PADDINGS",
    "Number",
    "deform",
    "displacement_norms",
    "rescale",
    "rotate",
    "rotation",
    "scaling",
    "smooth_displacement",
    "translate",
    "translation",
]

PADDINGS = ("border", "circular", "reflection", "zeros")
INTERPOLATIONS = ("bicubic", "bilinear")


def deform(
    images: Tensor,
    displacement: Tensor,
    *,
    padding: str = "zeros",
    interpolation: str = "bilinear",
) -> Tensor:
    """Return `L_tau x(u) = x(u - tau(u))`, differentiable in pictures and displacement.

    Integer displacements copy pixels, up to the rounding of the coordinates. Half precision is
    sampled in float32, because its coordinates would be off by tenths of a pixel.

    Args:
        images: (batch, channels, height, width) or (batch, channels, length), any float dtype.
        displacement: (batch or 1, 2, height, width) or (batch or 1, 1, length), in pixels.
        padding: What lies outside: "zeros", "border" (the nearest pixel), "reflection" (about
            the centres of the border pixels) or "circular".
        interpolation: "bilinear" or "bicubic" (linear or cubic for signals). Bicubic overshoots
            and is not a contraction; the bounds of the theory are for neither, but bilinear
            keeps the range.

    Returns:
        Tensor like `images`.

    Raises:
        InputError: Shapes do not fit, `images` are not floats, the displacement is not finite,
            or an unknown padding or interpolation.
    """
    _check(images, displacement)
    choose("padding", padding, PADDINGS)
    choose("interpolation", interpolation, INTERPOLATIONS)
    pictures, (rows, columns) = _prepare(images, displacement)
    # Sampled on a circle, a picture is continued by copies on both sides and read modulo.
    if padding == "circular":
        pictures, rows = _wrap(pictures, rows, -2)
        pictures, columns = _wrap(pictures, columns, -1)
    elif padding == "zeros":
        # grid_sample cannot leave a side of one pixel: its coordinates have no scale there.
        pictures = F.pad(pictures, (0, pictures.shape[-1] == 1, 0, pictures.shape[-2] == 1))
    grid = torch.stack((_unit(columns, pictures, -1), _unit(rows, pictures, -2)), -1)
    outside = "border" if padding == "circular" else padding
    sampled = F.grid_sample(
        pictures,
        grid.expand(len(images), -1, -1, -1),
        mode=interpolation,
        padding_mode=outside,
        align_corners=True,
    )
    return sampled.reshape(images.shape).to(images.dtype)


def translate(
    images: Tensor, offset: Number, *, padding: str = "zeros", interpolation: str = "bilinear"
) -> Tensor:
    """Return pictures or signals moved by `offset`, as `translation` takes it."""
    field = translation(images.shape[2:], offset, dtype=_compute_dtype(images))
    return deform(images, field.to(images.device), padding=padding, interpolation=interpolation)


def rotate(
    images: Tensor, degrees: Number, *, padding: str = "zeros", interpolation: str = "bilinear"
) -> Tensor:
    """Return pictures turned by `degrees` about their centre, counter-clockwise as displayed.

    A turn by 90 degrees equals `torch.rot90(images, dims=(-2, -1))` up to rounding.
    """
    field = rotation(images.shape[2:], degrees, dtype=_compute_dtype(images))
    return deform(images, field.to(images.device), padding=padding, interpolation=interpolation)


def rescale(
    images: Tensor, factor: Number, *, padding: str = "zeros", interpolation: str = "bilinear"
) -> Tensor:
    """Return pictures or signals `factor` times as large about the centre, cut to their size."""
    field = scaling(images.shape[2:], factor, dtype=_compute_dtype(images))
    return deform(images, field.to(images.device), padding=padding, interpolation=interpolation)


def _deform_plain(
    images: Tensor,
    displacement: Tensor,
    *,
    padding: str = "zeros",
    interpolation: str = "bilinear",
) -> Tensor:
    """Return what `deform` returns, pixel by pixel as the definition says."""
    pictures, (rows, columns) = _prepare(images, displacement)
    total = torch.zeros_like(pictures)
    for row, row_weight in _taps(rows, interpolation):
        for column, column_weight in _taps(columns, interpolation):
            pixels = _look_up(pictures, row.long(), column.long(), padding)
            total = total + pixels * (row_weight * column_weight)[:, None]
    return total.reshape(images.shape).to(images.dtype)


def _taps(source: Tensor, interpolation: str) -> list[tuple[Tensor, Tensor]]:
    """Return the neighbours of real coordinates along one axis, with their weights.

    The cubic weights are Keys' convolution kernel with a = -3/4, as in PyTorch.
    """
    floor = source.detach().floor()
    t = source - floor
    if interpolation == "bilinear":
        return [(floor, 1 - t), (floor + 1, t)]

    def near(s: Tensor) -> Tensor:
        return 1.25 * s**3 - 2.25 * s**2 + 1

    def far(s: Tensor) -> Tensor:
        return -0.75 * (s**3 - 5 * s**2 + 8 * s - 4)

    weights = (far(1 + t), near(t), near(1 - t), far(2 - t))
    return [(floor + step - 1, weight) for step, weight in enumerate(weights)]


def _look_up(pictures: Tensor, rows: Tensor, columns: Tensor, padding: str) -> Tensor:
    """Return pixels at integer coordinates (batch or 1, height, width), padded outside."""
    batch, channels, height, width = pictures.shape
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    index = _fold(rows, height, padding) * width + _fold(columns, width, padding)
    flat = index.flatten(1)[:, None].expand(batch, channels, -1)
    pixels = pictures.flatten(2).gather(2, flat).reshape(pictures.shape)
    return torch.where(inside[:, None], pixels, 0) if padding == "zeros" else pixels


def _fold(index: Tensor, side: int, padding: str) -> Tensor:
    """Return the pixel that stands for an index outside of a side."""
    if padding == "circular":
        return index % side
    if padding == "reflection" and side > 1:
        index = index % (2 * side - 2)
        return torch.minimum(index, 2 * side - 2 - index)
    return index.clamp(0, side - 1)


def _prepare(images: Tensor, displacement: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Return images (batch, channels, height, width) and the sources' rows and columns.

    A signal becomes a picture of one row.
    """
    dtype = torch.promote_types(_compute_dtype(images), displacement.dtype)
    images, displacement = images.to(dtype), displacement.to(dtype)
    if images.dim() == 3:
        images, displacement = images.unsqueeze(2), displacement.unsqueeze(2)
        displacement = torch.cat((torch.zeros_like(displacement), displacement), 1)
    height, width = images.shape[-2:]
    rows = torch.arange(height, dtype=dtype, device=images.device)[:, None]
    columns = torch.arange(width, dtype=dtype, device=images.device)
    return images, (rows - displacement[:, 0], columns - displacement[:, 1])


def _wrap(pictures: Tensor, source: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """Return pictures continued around one axis, and the sources' coordinates in them."""
    side = pictures.shape[axis]
    around = torch.arange(-1, side + 2, device=pictures.device) % side
    return pictures.index_select(axis, around), source.remainder(side) + 1


def _unit(source: Tensor, pictures: Tensor, axis: int) -> Tensor:
    """Return pixel coordinates as grid_sample wants them: -1 and 1 at the border pixels."""
    return source * (2 / max(pictures.shape[axis] - 1, 1)) - 1


def _compute_dtype(images: Tensor) -> torch.dtype:
    """Return the dtype to sample in: float32 or wider; float32 for what will be refused."""
    if not images.is_floating_point():
        return torch.float32
    return torch.promote_types(images.dtype, torch.float32)


def _check(images: Tensor, displacement: Tensor) -> None:
    """Refuse what does not fit together."""
    if images.dim() not in (3, 4) or not images.is_floating_point():
        raise InputError(
            f"images of shape {tuple(images.shape)} and {images.dtype}: give floats of shape "
            "(batch, channels, height, width) or (batch, channels, length)"
        )
    sides = tuple(images.shape[2:])
    fits = tuple(displacement.shape[1:]) == (len(sides), *sides)
    if not fits or displacement.dim() != images.dim() or len(displacement) not in (1, len(images)):
        raise InputError(
            f"displacement of shape {tuple(displacement.shape)} for images of shape "
            f"{tuple(images.shape)}: give ({len(images)} or 1, {len(sides)}, "
            f"{', '.join(map(str, sides))})"
        )
    if not displacement.is_floating_point() or not torch.isfinite(displacement).all():
        raise InputError("the displacement has entries that are not finite floats: give pixels")
