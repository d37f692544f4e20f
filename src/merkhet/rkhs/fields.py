"""Displacement fields by the batch: a pool of smooth ones, drawn once, in ever new variants."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from merkhet.core.deformations import smooth_displacement
from merkhet.core.errors import InputError, choose
from merkhet.rkhs.penalty import is_from_zero

POOL, LEAST, NUMBERS = 64, 8, 1 << 20  # fields; fewer where that would be more numbers
MODES = {
    "zeros": "constant",
    "border": "replicate",
    "circular": "circular",
    "reflection": "reflect",
}


def random_fields(
    x: Tensor,
    max_displacement: float,
    max_gradient: float,
    *,
    seed: int = 0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return a random smooth displacement field for each picture or signal.

    A field with given norms costs a search. A pool of 64 (of fewer, at least 8, for large
    pictures) is drawn once for each shape and pair of norms; each example gets one of them at
    random, mirrored along each axis or not and with either sign, which leaves both norms as they
    are.

    Args:
        x: (n, channels, height, width) or (n, channels, length).
        max_displacement: |tau|_inf of every field, in pixels.
        max_gradient: |grad tau|_inf of every field; 0 makes translations.
        seed: Of the pool.
        generator: Of the choices, on the CPU; None is PyTorch's global one.

    Returns:
        (n, 2, height, width) or (n, 1, length), float32 or wider, on the device of `x`.

    Raises:
        InputError: `x` is not such, or no field has these norms.
    """
    check_pictures(x)
    shape = tuple(x.shape[2:])
    dims = len(shape)
    pool = _pool(shape, float(max_displacement), float(max_gradient), seed, str(x.device))
    choice = torch.randint(len(pool), (len(x),), generator=generator)
    bits = torch.randint(2, (1 + dims, len(x), *(1,) * (1 + dims)), generator=generator)
    fields = pool[choice.to(x.device)]
    sign, *mirrored = bits.to(x.device)
    fields = fields * (2 * sign - 1)
    for axis, mirror in enumerate(mirrored):
        reversed_ = fields.flip(2 + axis)
        reversed_[:, axis] *= -1
        fields = torch.where(mirror.bool(), reversed_, fields)
    return fields.to(torch.promote_types(x.dtype, torch.float32))


def tangents(x: Tensor, fields: Tensor, padding: str = "zeros") -> Tensor:
    """Return t = d/ds L_(s tau) x at s = 0, like `x`: -sum_a tau_a(u) d_a x(u).

    The derivatives of a picture on a grid are central differences: the mean of the two one-sided
    derivatives that bilinear interpolation has at a pixel.

    Args:
        x: (n, channels, height, width) or (n, channels, length).
        fields: (n, 2, height, width) or (n, 1, length), tau in pixels.
        padding: What lies outside, as in `merkhet.core.deformations.deform`.
    """
    total = torch.zeros_like(x)
    dims = x.dim() - 2
    for axis in range(dims):
        sides = [0, 0] * dims
        sides[2 * (dims - 1 - axis) : 2 * (dims - axis)] = [1, 1]
        around = F.pad(x, sides, MODES[choose("padding", padding, MODES)])
        length = x.shape[2 + axis]
        ahead, behind = around.narrow(2 + axis, 2, length), around.narrow(2 + axis, 0, length)
        total = total - fields[:, axis : axis + 1].to(x.dtype) * (ahead - behind) / 2
    return total


def check_fields(max_gradient: object, seed: object) -> None:
    """Refuse settings of fields that no field has.

    Raises:
        InputError: The gradient is no finite number from 0 on, or the seed no whole number.
    """
    if not is_from_zero(max_gradient):
        raise InputError(f"max_gradient = {max_gradient!r}: give a number from 0 on, such as 0.25")
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise InputError(f"seed = {seed!r}: give a whole number")


def check_pictures(x: Tensor) -> None:
    """Refuse what cannot be deformed.

    Raises:
        InputError: It is neither pictures nor signals.
    """
    if x.dim() not in (3, 4):
        raise InputError(
            f"inputs of shape {tuple(x.shape)} cannot be deformed: give pictures (n, channels, "
            "height, width) or signals (n, channels, length)"
        )


@functools.lru_cache(maxsize=16)
def _pool(
    shape: Sequence[int], displacement: float, gradient: float, seed: int, device: str
) -> Tensor:
    """Return the pool of fields; the same on every device."""
    numbers = len(shape) * math.prod(shape)
    count = max(LEAST, min(POOL, NUMBERS // numbers))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        return smooth_displacement(
            shape, displacement, gradient, generator=generator, count=count
        ).to(device)
