"""Random smooth displacement fields that have both norms exactly as asked for.

A field is a sum of random waves seen at a length scale: the smaller the scale, the larger the
gradient for a given displacement. Bisection finds, field by field, two close scales on either
side of the wanted ratio `|grad tau|_inf / |tau|_inf`; a blend of the two fields hits it.

Shapes: C fields of K components over D dimensions (K = D), M waves each, sides H x W or L.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from merkhet.core.displacement_fields import displacement_norms, translation
from merkhet.core.errors import InputError

WAVES = 16  # enough for sums to look Gaussian, few enough to be fast
BISECTIONS = 6  # leaves the two scales within about 10 % of each other
TOLERANCE = 1e-10  # relative, on the ratio of the norms
CHUNK = 1 << 17  # numbers in the fields worked on at a time: what a cache holds

Make = Callable[[Tensor], Tensor]


def smooth_displacement(
    shape: Sequence[int],
    max_displacement: float,
    max_gradient: float,
    *,
    generator: torch.Generator,
    count: int = 1,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Return random smooth fields whose `|tau|_inf` and `|grad tau|_inf` are those given.

    Each component is a sum of waves with random directions, phases and Gaussian frequencies,
    less its mean: close to white noise smoothed by a Gaussian, with no edge or period; the scale
    follows from the two norms. Both hold to 1e-9 relative in float64, as measured by
    `displacement_norms`. Where the wanted gradient is smaller than a field of zero mean can
    have (about 2 displacements over the longest side), a constant translation is added to the
    smoothest field; where it is larger than fields of one pixel's scale have (about one
    displacement a pixel), a checkerboard is, and the field is smooth in name only.

    Args:
        shape: (height, width) or (length,).
        max_displacement: `|tau|_inf` in pixels.
        max_gradient: `|grad tau|_inf`; 0 makes pure translations in random directions. The
            theory of stability wants at most 1/2; from 1 on a deformation may fold.
        generator: Where randomness comes from; the fields are made on its device.
        count: Number of fields.
        dtype: Of the fields, which are computed in float64.

    Returns:
        (count, 2, height, width) or (count, 1, length), in pixels.

    Raises:
        InputError: A norm is negative or not finite, or the gradient is larger than a grid of
            pixels can hold; names the largest possible.
    """
    _check(shape, max_displacement, max_gradient)
    dims = len(shape)
    options: dict[str, Any] = {
        "generator": generator,
        "dtype": torch.float64,
        "device": generator.device,
    }
    frequency = torch.randn(count, dims, WAVES, dims, **options)
    phase = torch.rand(count, dims, WAVES, **options) * (2 * math.pi)
    heading = torch.nn.functional.normalize(torch.randn(count, dims, **options), dim=1)
    if max_gradient == 0:
        offset = heading * max_displacement
        return translation(shape, offset if dims == 2 else offset[:, 0], dtype=dtype).clone()
    fields = torch.empty(count, dims, *shape, dtype=dtype, device=generator.device)
    for part in _parts(count, dims * math.prod(shape)):
        make = _waves(shape, frequency[part], phase[part])
        unit = _with_ratio(shape, max_gradient / max_displacement, heading[part], make)
        fields[part] = unit * max_displacement
    return fields


def largest_ratio(shape: Sequence[int]) -> float:
    """Return the largest `|grad tau|_inf / |tau|_inf` that any field on this grid has.

    Neighbours differ by at most twice `|tau|_inf`, along each side of more than one pixel; a
    checkerboard reaches it.
    """
    return 2 * math.sqrt(sum(side > 1 for side in shape))


def _with_ratio(shape: Sequence[int], ratio: float, heading: Tensor, make: Make) -> Tensor:
    """Return fields with `|tau|_inf = 1` and `|grad tau|_inf = ratio`.

    Args:
        shape: The sides.
        ratio: The gradient wanted.
        heading: (C, K) directions of the translation or checkerboard added at the extremes.
        make: Returns fields of unit displacement at (C,) length scales.
    """
    offset = heading.reshape(*heading.shape, *(1,) * len(shape))
    rough = offset * _checkerboard(shape, heading)
    smooth = offset.expand_as(rough)
    low = torch.zeros(len(heading), dtype=torch.float64, device=heading.device)
    high = low + math.log(4 * max(shape))
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        field = make(middle.exp())
        above = displacement_norms(field)[1] > ratio
        pick = above.reshape(-1, *(1,) * (field.dim() - 1))
        rough, smooth = torch.where(pick, field, rough), torch.where(pick, smooth, field)
        low, high = torch.where(above, middle, low), torch.where(above, high, middle)
    return _unit(_blend(rough, smooth, ratio))


def _blend(rough: Tensor, smooth: Tensor, ratio: float) -> Tensor:
    """Return blends of rough and smooth fields whose ratio of norms is as wanted.

    Finds the zero of `gradient - ratio * displacement`, positive for the rough field and not
    for the smooth one, by regula falsi with Anderson and Bjorck's correction (BIT, 1973), for
    all fields at once; those that are there drop out.
    """
    change = smooth - rough
    result = torch.empty_like(rough)
    active = torch.arange(len(rough), device=rough.device)
    left = torch.zeros(len(rough), dtype=rough.dtype, device=rough.device)
    right = left + 1
    above, below = _excess(rough, ratio), _excess(smooth, ratio)
    for _ in range(100):
        crossing = left - above * (right - left) / (below - above)
        # A rough field at the grid's very limit is itself the answer.
        t = torch.where(above > 0, crossing.clamp(0, 1), left)
        field = rough[active] + change[active] * t.reshape(-1, *(1,) * (rough.dim() - 1))
        result[active] = field
        found = _excess(field, ratio)
        positive = found > 0
        # The value at the end that stays is lowered, or one end would never move.
        stays = 1 - found / torch.where(positive, above, below)
        stays = torch.where(stays > 0, stays, 0.5)
        above, below = (
            torch.where(positive, found, above * stays),
            torch.where(positive, below * stays, found),
        )
        left, right = torch.where(positive, t, left), torch.where(positive, right, t)
        missing = found.abs() > TOLERANCE * ratio
        if not bool(missing.any()):
            return result
        kept = (active, left, right, above, below)
        active, left, right, above, below = (values[missing] for values in kept)
    raise AssertionError("regula falsi did not converge")


def _excess(field: Tensor, ratio: float) -> Tensor:
    """Return by how much the ratio of the norms exceeds the one wanted, (C,)."""
    displacement, gradient = displacement_norms(field)
    return gradient / displacement - ratio


def _waves(shape: Sequence[int], frequency: Tensor, phase: Tensor) -> Make:
    """Return a function from length scales (C,) to fields (C, K, ...) of unit displacement.

    Args:
        shape: The sides.
        frequency: (C, K, M, D) radians a length scale.
        phase: (C, K, M).
    """
    lines = [torch.arange(side, dtype=phase.dtype, device=phase.device) for side in shape]
    lines = [line - line.mean() for line in lines]

    def make(scale: Tensor) -> Tensor:
        angles = [
            frequency[..., axis, None] / scale[:, None, None, None] * line
            for axis, line in enumerate(lines)
        ]
        angles[0] = angles[0] + phase[..., None]
        field = angles[0].cos().sum(2) if len(angles) == 1 else _cosines_of_sums(*angles)
        return _unit(field - field.mean(tuple(range(2, field.dim())), keepdim=True))

    return make


def _cosines_of_sums(rows: Tensor, columns: Tensor) -> Tensor:
    """Return `sum_m cos(rows_m + columns_m)` over (C, K, M, H) and (C, K, M, W): (C, K, H, W).

    Split as cos cos - sin sin, the cosines of a grid are a product of matrices.
    """
    left = torch.cat((rows.cos(), -rows.sin()), 2)
    right = torch.cat((columns.cos(), columns.sin()), 2)
    return left.transpose(2, 3) @ right


def _unit(field: Tensor) -> Tensor:
    """Return fields scaled to a largest displacement of 1."""
    largest = field.square().sum(1, keepdim=True).flatten(1).amax(1).sqrt()
    return field / largest.reshape(-1, *(1,) * (field.dim() - 1))


def _checkerboard(shape: Sequence[int], like: Tensor) -> Tensor:
    """Return 1 and -1 in turns along every side."""
    board = torch.ones(tuple(shape), dtype=like.dtype, device=like.device)
    for axis, side in enumerate(shape):
        sign = 1 - 2 * (torch.arange(side, device=like.device) % 2)
        board = board * sign.reshape(-1, *(1,) * (len(shape) - 1 - axis))
    return board


def _parts(count: int, size: int) -> Iterator[slice]:
    """Yield slices of the fields, so many at a time that memory stays small."""
    step = max(1, CHUNK // size)
    return (slice(start, start + step) for start in range(0, count, step))


def _check(shape: Sequence[int], max_displacement: float, max_gradient: float) -> None:
    """Refuse norms that no field has."""
    if len(shape) not in (1, 2) or min(shape) < 1:
        raise InputError(f"shape {tuple(shape)}: give (height, width) or (length,)")
    for name, value in (("max_displacement", max_displacement), ("max_gradient", max_gradient)):
        if not (math.isfinite(value) and value >= 0):
            raise InputError(f"{name} {value}: give a number of pixels from 0 on")
    limit = largest_ratio(shape) * max_displacement
    if max_gradient > limit:
        raise InputError(
            f"no field on {'x'.join(map(str, shape))} pixels with |tau| <= {max_displacement} has "
            f"a gradient of {max_gradient}: ask for at most {limit:.6g}"
        )
