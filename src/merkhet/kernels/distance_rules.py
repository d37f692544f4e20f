"""What activations do to the differences between two inputs' covariances.

The closed forms of `merkhet.kernels.activations`, on `Differences` instead of values.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import singledispatch

import torch
from torch import Tensor

from merkhet.kernels.activations import GELU, Activation, Erf, Exponential, LeakyReLU, ReLU, Sine
from merkhet.kernels.angle_differences import angle, arc_bend, arc_cosine_0, square
from merkhet.kernels.differences import Differences, differences_at, exponential, reciprocal, root
from merkhet.kernels.layers import Number

ROUNDING = 2.0**-48  # what is below this part of what it was subtracted from may be 0


@dataclass(frozen=True)
class Variances:
    """Something of one unit that x and y excite, of any shape.

    Attributes:
        x: What it is for x.
        step: What it is for y minus that.
        apart: The variance of the difference between what x and y excite.
    """

    x: Tensor
    step: Tensor
    apart: Tensor

    @property
    def y(self) -> Tensor:
        """What it is for y."""
        return self.x + self.step

    @property
    def first(self) -> Differences:
        """As a quantity of the first argument alone."""
        zero = torch.zeros_like(self.x)
        return Differences(self.x, self.step, zero, zero)

    @property
    def second(self) -> Differences:
        """As a quantity of the second argument alone."""
        return self.first.swapped()

    def settled(self) -> Variances:
        """Return variances of which what rounding left of a 0 is 0."""
        gone = self.y <= ROUNDING * self.x
        return replace(self, step=torch.where(gone, -self.x, self.step))

    def root(self) -> Variances:
        """Return the square roots, of settled variances."""
        x, y = self.x.sqrt(), self.y.sqrt()
        both = torch.where(x + y > 0, x + y, torch.ones_like(x))
        return replace(self, x=x, step=torch.where(y == 0, -x, self.step / both))

    def there(self) -> Variances:
        """Return variances of which a 0 is as for the other input; 1 where both are 0."""
        some = torch.where(self.x > 0, self.x, self.y)
        alone = (self.x == 0) | (self.y == 0)
        filled = torch.where(some > 0, some, torch.ones_like(some))
        return replace(self, x=filled, step=torch.where(alone, 0.0, self.step))

    def relative(self) -> Tensor:
        """Return the squared difference relative to the larger of x and y."""
        most = torch.maximum(self.x, self.y)
        return self.apart / torch.where(most > 0, most, torch.ones_like(most))


@dataclass(frozen=True)
class Units:
    """Pairs of Gaussian units, p and q, that x and y excite; shapes broadcast.

    Attributes:
        c: Their covariances.
        a: The variances at p.
        b: The variances at q.
        same: Where p and q are one unit.
    """

    c: Differences
    a: Variances
    b: Variances
    same: Tensor


@dataclass(frozen=True)
class Blur:
    """What rounding may have done to 1 minus the cosines of pairs of units.

    Attributes:
        squared: How far x and y are at these units, relative and squared: the error of `mixed` is
            rounding times this, that of `first` and `second` rounding times its root.
        same: Where both are one unit, whose `mixed` alone is not known beforehand.
    """

    squared: Tensor
    same: Tensor


OfCosine = Callable[[Differences, Blur], tuple[Differences, Differences]]


@singledispatch
def dual_and_slope(activation: Activation, units: Units) -> tuple[Differences, Differences]:
    """Return the differences of an activation's dual and of its slope.

    An activation that has no rule here is evaluated four times and subtracted: its error is that
    of float64 beside the covariances, not beside their differences.
    """
    corners = list(zip(units.c.corners, units.a.first.corners, units.b.second.corners, strict=True))
    dual, slope = (
        differences_at(*(of(*corner) for corner in corners))
        for of in (activation.dual, activation.slope)
    )
    return dual, slope


@dual_and_slope.register
def _(activation: ReLU, units: Units) -> tuple[Differences, Differences]:
    return _homogeneous(units, _rectified(0.0))


@dual_and_slope.register
def _(activation: LeakyReLU, units: Units) -> tuple[Differences, Differences]:
    return _homogeneous(units, _rectified(activation.negative_slope))


def _rectified(below: Number) -> OfCosine:
    """Return dual and slope of max(z, below z): arc-cosine kernels (Cho & Saul, NIPS 2009)."""
    bend = (1 - below) ** 2 / 2

    def of(f: Differences, blur: Blur) -> tuple[Differences, Differences]:
        four = square(_snapped(f, blur))
        angles = angle(four)
        dual = (-f + 1) * (below + bend) + arc_bend(four, angles) * bend
        return dual, arc_cosine_0(angles) * bend + below

    return of


@dual_and_slope.register
def _(activation: Exponential, units: Units) -> tuple[Differences, Differences]:
    squared = activation.sigma**2

    def of(f: Differences, blur: Blur) -> tuple[Differences, Differences]:
        grown = exponential(f * (-1 / squared))
        return grown * 0.5, grown * (1 / (2 * squared))

    return _homogeneous(units, of)


@dual_and_slope.register
def _(activation: Erf, units: Units) -> tuple[Differences, Differences]:
    a, b = units.a.first * 2 + 1, units.b.second * 2 + 1
    c = units.c * 2
    cosine = c * reciprocal(root(a)) * reciprocal(root(b))
    left = root(a * b - c * c)
    angles = angle(square(-cosine + 1))
    return (-angles + math.pi / 2) * (2 / math.pi), reciprocal(left) * (4 / math.pi)


@dual_and_slope.register
def _(activation: GELU, units: Units) -> tuple[Differences, Differences]:
    a, b, c = units.a.first + 1, units.b.second + 1, units.c
    of_a, of_b = reciprocal(a), reciprocal(b)
    squares, parts = c * c, of_a + of_b
    left = a * b - squares
    over = reciprocal(root(left))
    angles = angle(square(-(c * root(of_a) * root(of_b)) + 1))
    arcs = -angles + math.pi / 2
    bent = (units.a.first * units.b.second + squares * (parts + -1.0)) * over
    turned = c * (parts + reciprocal(left)) * over
    half = 1 / (2 * math.pi)
    return c * 0.25 + (bent + c * arcs) * half, (turned + arcs) * half + 0.25


@dual_and_slope.register
def _(activation: Sine, units: Units) -> tuple[Differences, Differences]:
    mean = (units.a.first + units.b.second) * 0.5
    near, far = exponential(units.c - mean), exponential(-(units.c + mean))
    return (near - far) * 0.5, (near + far) * 0.5


def _homogeneous(units: Units, of: OfCosine) -> tuple[Differences, Differences]:
    """Return N f and the slope from what `of` makes of 1 minus the cosines; N = sqrt(a b).

    A unit that is 0 for one input borrows its direction from the other: N is 0 there, and so is
    the tangent kernel, which any slope leaves at 0.
    """
    a, b = units.a.settled(), units.b.settled()
    c = _borrowed(_borrowed(units.c, a).swapped(), b).swapped()
    lengths = (a.there().root().first, b.there().root().second)
    cosine = c * reciprocal(lengths[0]) * reciprocal(lengths[1])
    blur = Blur(torch.maximum(a.relative(), b.relative()), units.same)
    dual, slope = of(_from_one(cosine, units.same), blur)
    found = a.root().first * b.root().second * dual
    return _without(_without(found, a).swapped(), b).swapped(), slope


def _from_one(cosine: Differences, same: Tensor) -> Differences:
    """Return 1 minus cosines; of a unit with itself the cosine is 1 for equal inputs."""
    apart = cosine.mixed.clamp(min=0)
    own = Differences(torch.zeros_like(apart), apart / 2, apart / 2, -apart)
    return own.where(same, -cosine + 1)


def _snapped(f: Differences, blur: Blur) -> Differences:
    """Return 1 minus cosines with what rounding left of a 0 as 0: an angle is its square root.

    Zeros are those of units of one direction: of a unit with itself where y is a multiple of x,
    of different units in flat areas of pictures.
    """
    apart = torch.where(f.mixed >= -ROUNDING * blur.squared, 0.0, f.mixed)
    own = Differences(torch.zeros_like(apart), -apart / 2, -apart / 2, apart)
    value = torch.where(f.value <= ROUNDING, 0.0, f.value)
    least = ROUNDING * torch.where(value == 0, blur.squared.sqrt(), 1.0)
    first = torch.where(value + f.first <= least, -value, f.first)
    second = torch.where(value + f.second <= least, -value, f.second)
    rest = value + first + second
    mixed = torch.where(rest + f.mixed <= least, -rest, f.mixed)
    return own.where(blur.same, Differences(value, first, second, mixed))


def _borrowed(c: Differences, a: Variances) -> Differences:
    """Return covariances in which p that one input lacks is as the other has it."""
    zero = torch.zeros_like(c.value)
    as_y = Differences(c.value + c.first, zero, c.second + c.mixed, zero)
    as_x = Differences(c.value, zero, c.second, zero)
    return as_y.where(a.x == 0, as_x.where(a.y == 0, c))


def _without(dual: Differences, a: Variances) -> Differences:
    """Return the dual in which what y lacks at p is 0 to the last digit."""
    empty = Differences(dual.value, -dual.value, dual.second, -dual.second)
    return empty.where(a.y == 0, dual)
