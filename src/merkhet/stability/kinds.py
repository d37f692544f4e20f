"""The kinds of deformation that stability is measured under, each of a size.

One random direction, sign or smooth field is drawn for each input and kept for all sizes, so
that the points of a curve are paired.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from merkhet.core.deformations import (
    deform,
    rotation,
    scaling,
    smooth_displacement,
    translation,
)
from merkhet.core.errors import InputError, choose

UNITS = {
    "translation": "pixels",
    "rotation": "degrees",
    "scaling": "relative change of size",
    "deformation": "pixels",
}
SIGNAL_DIMENSIONS = 3  # (count, channels, length)
DIRECTIONS = ("columns", "random", "rows")


@dataclass(frozen=True)
class Conditions:
    """How stability is measured.

    Attributes:
        seed: Of the directions, the pairs and the resampling.
        batch_size: Inputs in one forward pass.
        padding: What lies outside the picture, as in `merkhet.core.deformations.deform`.
        interpolation: "bilinear" or "bicubic".
        direction: Of translations of pictures: "random", or along "rows" (up or down) or
            "columns" (left or right), with a random sign.
        smoothness: `|grad tau|_inf` of deformations for each pixel of `|tau|_inf`; None is 4
            over the longest side, a bump or two across the picture.
        pairs: About how many pairs of inputs each yardstick is measured on.
        resamples: Of the bootstrap.

    Raises:
        InputError: A count is too small.
    """

    seed: int = 0
    batch_size: int = 64
    padding: str = "zeros"
    interpolation: str = "bilinear"
    direction: str = "random"
    smoothness: float | None = None
    pairs: int = 2000
    resamples: int = 1000

    def __post_init__(self) -> None:
        for name, least in (("batch_size", 1), ("pairs", 0), ("resamples", 1)):
            if getattr(self, name) < least:
                raise InputError(f"{name} {getattr(self, name)}: give {least} or more")

    def generator(self) -> torch.Generator:
        """Return a new generator with the seed."""
        return torch.Generator().manual_seed(self.seed)


DEFAULTS = Conditions()


@dataclass(frozen=True)
class Moves:
    """What was drawn for each input, ready to be applied at any size.

    Attributes:
        field: (size, slice of the inputs) to their displacement fields.
        norms: A size to `(|tau|_inf, |grad tau|_inf)`, the largest the kind draws at it.
    """

    field: Callable[[float, slice], Tensor]
    norms: Callable[[float], tuple[float, float]]


def deformed(
    inputs: Tensor, kind: str, size: float, *, conditions: Conditions = DEFAULTS
) -> Tensor:
    """Return inputs deformed at random by a kind and size, as `stability_curve` deforms them.

    Args:
        inputs: (batch, channels, height, width) pictures or (batch, channels, length) signals.
        kind: "translation" and "deformation" (size in pixels, or samples), "rotation" (degrees;
            pictures only), "scaling" (0.1 makes it 1.1 or 1/1.1 times as large).
        size: The size, above 0.
        conditions: How; its seed decides the directions.

    Raises:
        InputError: No such kind, it does not apply to the inputs, or a size is not positive.
    """
    (size,) = checked_sizes([size])
    moves = draw(inputs, kind, conditions)
    return apply(inputs, moves.field(size, slice(None)), conditions)


def apply(inputs: Tensor, field: Tensor, conditions: Conditions) -> Tensor:
    """Return inputs, shaped as in `deformed`, moved by their fields."""
    return deform(
        inputs,
        field.to(inputs.device),
        padding=conditions.padding,
        interpolation=conditions.interpolation,
    )


def draw(inputs: Tensor, kind: str, conditions: Conditions) -> Moves:
    """Return one random move of a kind for each input, shaped as in `deformed`.

    Raises:
        InputError: No such kind, or it does not apply to the inputs.
    """
    choose("kind of deformation", kind, UNITS)
    if inputs.dim() not in (3, 4) or not inputs.is_floating_point() or not len(inputs):
        raise InputError(
            f"inputs of shape {tuple(inputs.shape)} and {inputs.dtype} cannot be deformed: give "
            "floats of shape (batch, channels, height, width) or (batch, channels, length)"
        )
    if inputs.dim() == 3 and kind == "rotation":
        raise InputError("signals cannot be rotated: choose translation, scaling or deformation")
    makers = {
        "translation": _translations,
        "rotation": _rotations,
        "scaling": _scalings,
        "deformation": _deformations,
    }
    dtype = torch.promote_types(inputs.dtype, torch.float32)
    return makers[kind](tuple(inputs.shape[2:]), len(inputs), dtype, conditions)


def unit_of(kind: str, inputs: Tensor) -> str:
    """Return the unit of a kind's sizes for pictures, or for signals, whose steps are samples."""
    signals = inputs.dim() == SIGNAL_DIMENSIONS
    return UNITS[kind].replace("pixels", "samples") if signals else UNITS[kind]


def checked_sizes(sizes: Sequence[float]) -> tuple[float, ...]:
    """Return sizes as floats; 0 is left out because the distance there is 0.

    Raises:
        InputError: They are not positive, finite and increasing.
    """
    given = tuple(float(size) for size in sizes)
    increasing = all(a < b for a, b in zip((0.0, *given), given, strict=False))
    if not given or not increasing or not math.isfinite(given[-1]):
        raise InputError(f"sizes {list(given)}: give increasing numbers above 0")
    return given


def _translations(
    shape: tuple[int, ...], count: int, dtype: torch.dtype, conditions: Conditions
) -> Moves:
    """Draw directions, uniform on the circle or along an axis."""
    choose("direction", conditions.direction, DIRECTIONS)
    generator = conditions.generator()
    if len(shape) == 1:
        heading = _signs(count, generator)
    elif conditions.direction == "random":
        angle = torch.rand(count, generator=generator, dtype=torch.float64) * (2 * math.pi)
        heading = torch.stack((angle.sin(), angle.cos()), 1)
    else:
        axis = torch.tensor([1.0, 0.0] if conditions.direction == "rows" else [0.0, 1.0])
        heading = _signs(count, generator)[:, None] * axis
    return Moves(
        lambda size, part: translation(shape, size * heading[part], dtype=dtype),
        lambda size: (size, 0.0),
    )


def _rotations(
    shape: tuple[int, ...], count: int, dtype: torch.dtype, conditions: Conditions
) -> Moves:
    """Draw the sense of each rotation."""
    signs = _signs(count, conditions.generator())

    def norms(size: float) -> tuple[float, float]:
        gradient = 2 * abs(math.sin(math.radians(size) / 2))
        return gradient * _radius(shape), gradient

    return Moves(lambda size, part: rotation(shape, size * signs[part], dtype=dtype), norms)


def _scalings(
    shape: tuple[int, ...], count: int, dtype: torch.dtype, conditions: Conditions
) -> Moves:
    """Draw whether each input grows by 1 + size or shrinks by it."""
    signs = _signs(count, conditions.generator())
    return Moves(
        lambda size, part: scaling(shape, (1 + size) ** signs[part], dtype=dtype),
        # Shrinking moves the sources further out: 1/factor - 1 = size, against size/(1 + size).
        lambda size: (size * _radius(shape), size),
    )


def _deformations(
    shape: tuple[int, ...], count: int, dtype: torch.dtype, conditions: Conditions
) -> Moves:
    """Draw a smooth field with `|tau|_inf = 1` for each input; the size multiplies it."""
    smoothness = 4 / max(shape) if conditions.smoothness is None else conditions.smoothness
    fields = smooth_displacement(
        shape, 1.0, smoothness, generator=conditions.generator(), count=count, dtype=dtype
    )
    return Moves(lambda size, part: size * fields[part], lambda size: (size, smoothness * size))


def _signs(count: int, generator: torch.Generator) -> Tensor:
    """Return random signs, (count,) float64."""
    return torch.randint(2, (count,), generator=generator).double() * 2 - 1


def _radius(shape: Sequence[int]) -> float:
    """Return how far the corner pixels lie from the centre."""
    return math.hypot(*((side - 1) / 2 for side in shape))
