"""Finite groups that act on pictures, signals and the feature maps of group networks.

An element is a number from 0 to `group.order - 1`; 0 is the identity. `L_g x(u) = x(g^-1 u)`:

>>> import torch
>>> turns = cyclic(4)
>>> [turns.name_of(element) for element in turns.elements]
['0 degrees', '90 degrees', '180 degrees', '270 degrees']
>>> turns.compose(3, 2), turns.inverse(1)
(1, 3)
>>> turns.act(torch.tensor([[1, 2], [3, 4]]), 1).tolist()  # counter-clockwise as displayed
[[2, 4], [1, 3]]
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from torch import Tensor

from merkhet.core.errors import InputError
from merkhet.core.group_actions import (
    degrees,
    dihedral_action,
    dihedral_product,
    roll,
    shift_product,
    split,
)

EXACT = (1, 2, 4)  # rotations whose multiples of 360/n degrees only move pixels


@dataclass(frozen=True)
class Group:
    """A finite group with its action on the last one or two axes of tensors.

    Make one with `cyclic`, `dihedral`, `reflections` or `circular_translations`.

    Attributes:
        name: What it is, in words.
        labels: What each element does, in words.
        axes: How many of the last axes it moves: 2 for pictures; groups with 1 also take signals.
        exact: Whether the action only moves pixels: then it is a group action bit for bit.
            Otherwise it interpolates, and `act(act(x, b), a)` only comes near
            `act(x, compose(a, b))`.
        product: (a, b) to the element that does b, then a.
        action: (tensor, element) to the tensor moved.

    References:
        Bietti and Mairal, JMLR 2019 (arXiv 1706.03078), Section 3.
    """

    name: str
    labels: tuple[str, ...]
    axes: int
    exact: bool
    product: Callable[[int, int], int] = field(repr=False, compare=False)
    action: Callable[[Tensor, int], Tensor] = field(repr=False, compare=False)

    @property
    def order(self) -> int:
        """The number of elements."""
        return len(self.labels)

    @property
    def elements(self) -> range:
        """The elements; the first is the identity."""
        return range(self.order)

    def name_of(self, element: int) -> str:
        """Return what an element does, in words."""
        return self.labels[self._checked(element)]

    def compose(self, a: int, b: int) -> int:
        """Return the element that does `b` first and then `a`."""
        return self.product(self._checked(a), self._checked(b))

    def inverse(self, a: int) -> int:
        """Return the element that undoes `a`."""
        self._checked(a)
        return next(b for b in self.elements if self.product(a, b) == 0)

    def act(self, images: Tensor, element: int) -> Tensor:
        """Return images moved by an element: `L_g x(u) = x(g^-1 u)`.

        Args:
            images: (batch, channels, height, width), one picture (height, width), or
                (batch, channels, length) for groups that act on signals; feature maps of any
                size count as pictures too.
            element: The element.

        Raises:
            InputError: No such element, or it does not map this grid of pixels onto itself.
        """
        if images.dim() < self.axes or (self.axes == 2 and images.dim() == 3):
            raise InputError(
                f"{self.name} on shape {tuple(images.shape)}: give (batch, channels, height, width)"
            )
        if self._checked(element) == 0:
            return images.clone()
        return self.action(images, element)

    def act_on_maps(self, maps: Tensor, element: int) -> Tensor:
        """Return feature maps over the group moved: `L_g x(u, h) = x(g^-1 u, g^-1 h)`.

        Space moves as in `act`, and what stood at `h` then stands at `g h`.

        Args:
            maps: (batch, group, channels, height, width), or (batch, group, channels, length)
                for groups that act on signals; the group axis in the order of `elements`.
            element: The element.

        Raises:
            InputError: The second axis does not have one entry per element; or as in `act`.
        """
        if maps.dim() not in range(3 + self.axes, 6) or maps.shape[1] != self.order:
            raise InputError(
                f"maps of shape {tuple(maps.shape)} over {self.name}: give "
                f"(batch, {self.order}, channels, height, width)"
            )
        inverse = self.inverse(element)
        sources = [self.product(inverse, h) for h in self.elements]
        return self.act(maps[:, sources], element)

    def _checked(self, element: int) -> int:
        """Return an element of the group, or refuse it."""
        if element not in self.elements:
            raise InputError(f"no element {element!r} of {self.name}: give 0 to {self.order - 1}")
        return element


def cyclic(n: int, *, padding: str = "zeros") -> Group:
    """Return the rotations of pictures by multiples of 360/n degrees about their centre.

    Exact for n = 1, 2 and 4. Other n interpolate, except at multiples of 90 degrees. Only n = 1
    and 2 act on pictures that are not square.

    Args:
        n: Number of rotations.
        padding: What turns in from outside, as in `deform`, where the group interpolates.

    Raises:
        InputError: n is below 1.
    """
    _check_order(n)
    return Group(
        name=_turning("rotations", n, padding),
        labels=tuple(f"{degrees(n, k)} degrees" for k in range(n)),
        axes=min(n, 2),
        exact=n in EXACT,
        product=partial(dihedral_product, n),
        action=partial(dihedral_action, n, padding),
    )


def dihedral(n: int, *, padding: str = "zeros") -> Group:
    """Return the rotations of `cyclic(n)`, each also after a reflection left to right.

    Elements 0 to n - 1 are the rotations; element n + k reflects, then rotates by k steps.

    Args:
        n: Number of rotations; the group has 2 n elements.
        padding: As in `cyclic`.

    Raises:
        InputError: n is below 1.
    """
    _check_order(n)
    turns = [f"{degrees(n, k)} degrees" for k in range(n)]
    return Group(
        name=_turning("reflections and rotations", n, padding),
        labels=(*turns, *(f"mirrored, {turn}" for turn in turns)),
        axes=min(n, 2),
        exact=n in EXACT,
        product=partial(dihedral_product, n),
        action=partial(dihedral_action, n, padding),
    )


def reflections() -> Group:
    """Return the identity and the reflection of the last axis.

    Pictures are mirrored left to right, signals reversed.
    """
    return Group(
        name="reflections",
        labels=("as it is", "mirrored"),
        axes=1,
        exact=True,
        product=partial(dihedral_product, 1),
        action=partial(dihedral_action, 1, "zeros"),
    )


def circular_translations(shape: Sequence[int], step: int = 1) -> Group:
    """Return the translations by multiples of `step` pixels, around the edges.

    Element `i * (width // step) + j` moves by `i * step` rows and `j * step` columns. On feature
    maps of another size a translation is by the same share of the side, which has to be whole
    pixels: stride 2 asks for `step=2`.

    Args:
        shape: (height, width) of pictures or (length,) of signals.
        step: Divides every side.

    Raises:
        InputError: The step does not divide a side.
    """
    if len(shape) not in (1, 2) or step < 1 or any(side < 1 or side % step for side in shape):
        raise InputError(
            f"step {step} for shape {tuple(shape)}: give a step that divides the sides"
        )
    counts = tuple(side // step for side in shape)
    return Group(
        name=f"circular translations of {'x'.join(map(str, shape))} by multiples of {step}",
        labels=tuple(
            " by ".join(str(i * step) for i in split(element, counts)) + " pixels"
            for element in range(math.prod(counts))
        ),
        axes=len(counts),
        exact=True,
        product=partial(shift_product, counts),
        action=partial(roll, counts),
    )


def _turning(what: str, n: int, padding: str) -> str:
    """Return the name of a group with rotations."""
    outside = "" if n in EXACT else f", interpolated, {padding} outside"
    return f"{what} by multiples of {degrees(n, 1)} degrees{outside}"


def _check_order(n: int) -> None:
    """Refuse a number of rotations below 1."""
    if n < 1:
        raise InputError(f"{n} rotations: give n from 1 on")
