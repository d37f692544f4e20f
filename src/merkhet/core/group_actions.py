"""What the elements of merkhet's groups do: products and moves of pixels.

Module-level functions rather than closures, so that groups can be pickled and copied.
"""

from __future__ import annotations

from fractions import Fraction

import torch
from torch import Tensor

from merkhet.core.deformations import rotate
from merkhet.core.errors import InputError


def dihedral_product(n: int, a: int, b: int) -> int:
    """Return b, then a, in `dihedral(n)`, of which `cyclic(n)` is the first half."""
    (mirror_a, turn_a), (mirror_b, turn_b) = divmod(a, n), divmod(b, n)
    # A reflection after a rotation is that rotation backwards after the reflection.
    turn = turn_a - turn_b if mirror_a else turn_a + turn_b
    return (mirror_a ^ mirror_b) * n + turn % n


def dihedral_action(n: int, padding: str, images: Tensor, element: int) -> Tensor:
    """Return images reflected and turned by an element of `dihedral(n)`."""
    mirror, turn = divmod(element, n)
    images = images.flip(-1) if mirror else images
    return _turn(images, turn, n, padding) if n > 1 else images


def shift_product(counts: tuple[int, ...], a: int, b: int) -> int:
    """Return the sum of two circular translations."""
    total = 0
    for i, j, n in zip(split(a, counts), split(b, counts), counts, strict=True):
        total = total * n + (i + j) % n
    return total


def split(element: int, counts: tuple[int, ...]) -> tuple[int, ...]:
    """Return a circular translation's steps along each side."""
    return (element,) if len(counts) == 1 else divmod(element, counts[1])


def _turn(images: Tensor, k: int, n: int, padding: str) -> Tensor:
    """Return images turned by k steps of 360/n degrees."""
    height, width = images.shape[-2:]
    if n > 2 and height != width:
        raise InputError(
            f"pictures of {height}x{width} cannot be rotated by {degrees(n, k)} degrees: "
            "give square ones, or use cyclic(2) or reflections()"
        )
    quarters, rest = divmod(4 * k, n)
    if rest == 0:
        return torch.rot90(images, quarters, (-2, -1))
    flat = images.reshape(-1, 1, height, width)
    return rotate(flat, 360 * k / n, padding=padding).reshape(images.shape)


def roll(counts: tuple[int, ...], images: Tensor, element: int) -> Tensor:
    """Return images rolled by a translation's share of each of their last sides."""
    steps = split(element, counts)
    sides = images.shape[-len(counts) :]
    if len(sides) != len(counts) or any(
        side * i % n for side, i, n in zip(sides, steps, counts, strict=True)
    ):
        shares = ", ".join(str(Fraction(i, n)) for i, n in zip(steps, counts, strict=True))
        raise InputError(
            f"a translation by ({shares}) of the sides is not whole pixels on shape "
            f"{tuple(images.shape)}: give a larger step"
        )
    shifts = [side * i // n for side, i, n in zip(sides, steps, counts, strict=True)]
    return images.roll(shifts, tuple(range(-len(counts), 0)))


def degrees(n: int, k: int) -> str:
    """Return k steps of 360/n in degrees, as text."""
    return f"{360 * k / n:g}"
