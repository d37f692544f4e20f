"""Arithmetic on mixed differences, without the cancellation that subtracting values brings.

The squared distance between two feature maps is K(x, x) - K(y, x) - K(x, y) + K(y, y): a mixed
difference of a function of two arguments, each of which is x or y. Every operation here takes the
differences of its operands to those of its result by products, sums and quotients that keep their
relative accuracy: sums of differences are never formed from the values that they are differences
of. Discrete forms of the rules of calculus; where x and y are equal every difference is exactly 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Differences:
    """A quantity F(p, q) at the four ways to choose p and q among x and y.

    The four tensors broadcast to one shape.

    Attributes:
        value: F(x, x).
        first: F(y, x) - F(x, x).
        second: F(x, y) - F(x, x).
        mixed: F(x, x) - F(y, x) - F(x, y) + F(y, y).
    """

    value: Tensor
    first: Tensor
    second: Tensor
    mixed: Tensor

    @property
    def corners(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """F(x, x), F(y, x), F(x, y) and F(y, y)."""
        one, other = self.value + self.first, self.value + self.second
        return self.value, one, other, one + (self.second + self.mixed)

    def stacked(self) -> Tensor:
        """Return the four as one tensor, (4, ...)."""
        found = torch.broadcast_tensors(self.value, self.first, self.second, self.mixed)
        return torch.stack(found)

    def __add__(self, other: Differences | Tensor | float) -> Differences:
        if not isinstance(other, Differences):
            return Differences(self.value + other, self.first, self.second, self.mixed)
        return Differences(
            self.value + other.value,
            self.first + other.first,
            self.second + other.second,
            self.mixed + other.mixed,
        )

    def __neg__(self) -> Differences:
        return Differences(-self.value, -self.first, -self.second, -self.mixed)

    def __sub__(self, other: Differences) -> Differences:
        return self + -other

    def __mul__(self, other: Differences | Tensor | float) -> Differences:
        if not isinstance(other, Differences):
            return Differences(*(part * other for part in self._parts()))
        f, g = self, other
        _, f_yx, _, _ = f.corners
        _, _, _, g_yy = g.corners
        return Differences(
            f.value * g.value,
            f.first * g.value + f_yx * g.first,
            f.second * g.value + (f.value + f.second) * g.second,
            f.mixed * g_yy + f.second * (g.first + g.mixed) + f_yx * g.mixed + f.first * g.second,
        )

    def _parts(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.value, self.first, self.second, self.mixed

    def swapped(self) -> Differences:
        """Return the same with the arguments in the other order."""
        return Differences(self.value, self.second, self.first, self.mixed)

    def where(self, chosen: Tensor, other: Differences) -> Differences:
        """Return this where `chosen`, of a shape that broadcasts, and `other` elsewhere."""
        both = zip(self._parts(), other._parts(), strict=True)
        return Differences(*(torch.where(chosen, one, two) for one, two in both))


def differences_at(xx: Tensor, yx: Tensor, xy: Tensor, yy: Tensor) -> Differences:
    """Return the differences of four values, of one shape, by plain subtraction.

    It cancels: their error is that of the values.
    """
    return Differences(xx, yx - xx, xy - xx, (yy - xy) - (yx - xx))


def reciprocal(f: Differences) -> Differences:
    """Return 1 / f."""
    xx, yx, xy, yy = f.corners
    both = (f.first + f.mixed) * yx + xy * f.first  # f(y,y) f(y,x) - f(x,y) f(x,x)
    return Differences(
        1 / xx,
        -f.first / (yx * xx),
        -f.second / (xy * xx),
        (f.second * both - f.mixed * xy * xx) / (xx * yx * xy * yy),
    )


def root(f: Differences) -> Differences:
    """Return sqrt(f), of an f that is above 0."""
    xx, yx, xy, yy = (corner.sqrt() for corner in f.corners)
    grown = (f.first + f.mixed) / (yy + xy) + f.first / (yx + xx)
    return Differences(
        xx,
        f.first / (yx + xx),
        f.second / (xy + xx),
        (f.mixed - f.second * grown / (xy + xx)) / (yy + yx),
    )


def exponential(f: Differences) -> Differences:
    """Return exp(f)."""
    one, other = f.first.expm1(), f.second.expm1()
    value = f.value.exp()
    mixed = one * other + (f.first + f.second).exp() * f.mixed.expm1()
    return Differences(value, value * one, value * other, value * mixed)
