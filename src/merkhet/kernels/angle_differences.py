"""Mixed differences of angles and of arc-cosine kernels, for cosines however near 1.

An angle between 0 and pi is carried by the sine and cosine of its half. Of two angles, phi is half
the sum and d half the difference: cos(first) - cos(second) = 2 sin(phi) sin(d) gives d from the
difference of the cosines.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from merkhet.kernels.differences import Differences

SMALL = 0.5  # below it d cos d - sin d is summed as a series
# d^3, d^5, ...: 2k (-1)^k / (2k + 1)!; the first left out is below 1e-16 of the sum
TERMS = tuple(2 * k * (-1) ** k / math.factorial(2 * k + 1) for k in range(1, 9))


@dataclass(frozen=True)
class Turn:
    """What leads from one angle to another, all of one shape.

    Attributes:
        sine: sin(phi), phi half the sum of the angles.
        cosine: cos(phi).
        phi: Half the sum.
        d: Half the second angle minus half the first.
        sine_d: sin(d).
    """

    sine: Tensor
    cosine: Tensor
    phi: Tensor
    d: Tensor
    sine_d: Tensor

    def bend(self) -> Tensor:
        """Return half the difference of angle cos(angle) - sin(angle) along the turn."""
        return self.cosine * bend(self.d) - self.phi * self.sine * self.sine_d


@dataclass(frozen=True)
class Square:
    """Four angles, of 1 - f the cosines, and the turns between them.

    Attributes:
        f: 1 minus the cosines; what rounding puts outside [0, 2] counts as the nearer end.
        low: The turn of the first argument from x to y, the second being x.
        high: The same, the second being y.
        left: The turn of the second argument from x to y, the first being x.
        across: The change of phi from `low` to `high`.
        wide: Where the angles are far from 0 and pi, measured by how much they change. Elsewhere
            angles are as small as their differences, which plain subtraction then leaves accurate.
    """

    f: Differences
    low: Turn
    high: Turn
    left: Turn
    across: Tensor
    wide: Tensor

    def sine_step(self) -> Tensor:
        """Return sin(d) of `high` minus that of `low`, where `wide`.

        sin(d) is the difference of cosines over 2 sin(phi); both change from `low` to `high`.
        """
        moved = self.low.sine_d * self.sine_across()
        return (self.f.mixed / 2 - moved) / _safe(self.high.sine)

    def sine_across(self) -> Tensor:
        """Return sin(phi) of `high` minus that of `low`."""
        return 2 * self._middle().cos() * (self.across / 2).sin()

    def cosine_across(self) -> Tensor:
        """Return cos(phi) of `high` minus that of `low`."""
        return -2 * self._middle().sin() * (self.across / 2).sin()

    def _middle(self) -> Tensor:
        return self.low.phi + self.across / 2


def square(f: Differences) -> Square:
    """Return the four angles of cosines 1 - f."""
    xx, yx, xy, yy = map(_half, f.corners)
    low, high = _turn(xx, yx, f.first), _turn(xy, yy, f.first + f.mixed)
    left, right = _turn(xx, xy, f.second), _turn(yx, yy, f.second + f.mixed)
    across = left.d + right.d
    wide = 2 * across.abs() <= torch.minimum(low.sine, high.sine)
    return Square(f, low, high, left, across, wide & (low.sine > 0) & (high.sine > 0))


def angle(four: Square) -> Differences:
    """Return the angles themselves."""
    low, high = four.low, four.high
    step = 2 * (four.sine_step() / (2 * ((low.d + high.d) / 2).cos())).clamp(-1, 1).asin()
    mixed = 2 * torch.where(four.wide, step, high.d - low.d)
    return Differences(low.phi - low.d, 2 * low.d, 2 * four.left.d, mixed)


def arc_cosine_0(angles: Differences) -> Differences:
    """Return k0 = 1 - angle / pi."""
    return angles * (-1 / math.pi) + 1


def arc_bend(four: Square, angles: Differences) -> Differences:
    """Return k1 minus the cosine, (sin(t) - t cos(t)) / pi of angles t; it keeps small angles."""
    low, high = four.low, four.high
    grown = four.across * high.sine + low.phi * four.sine_across()  # of phi sin(phi)
    wide = (
        high.cosine * (bend(high.d) - bend(low.d))
        + four.cosine_across() * bend(low.d)
        - high.phi * high.sine * four.sine_step()
        - grown * low.sine_d
    )
    mixed = 2 * torch.where(four.wide, wide, high.bend() - low.bend())
    bent = Differences(bend(angles.value), 2 * low.bend(), 2 * four.left.bend(), mixed)
    return bent * (-1 / math.pi)


def bend(d: Tensor) -> Tensor:
    """Return d cos(d) - sin(d), of any shape, accurate for small d."""
    squared = d * d
    series = torch.zeros_like(d)
    for term in reversed(TERMS):
        series = series * squared + term
    return torch.where(d.abs() < SMALL, series * squared * d, d * d.cos() - d.sin())


def _half(f: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sine and cosine of half the angle whose cosine is 1 - f."""
    inside = f.clamp(0, 2) / 2
    return inside.sqrt(), (1 - inside).sqrt()


def _turn(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor], step: Tensor) -> Turn:
    """Return the turn between two angles, `step` the first cosine minus the second."""
    (s, c), (s_other, c_other) = one, other
    sine, cosine = s_other * c + c_other * s, c * c_other - s * s_other
    sine_d = (step / (2 * _safe(sine))).clamp(-1, 1) * (sine > 0)
    d = torch.atan2(sine_d, c * c_other + s * s_other)
    return Turn(sine, cosine, torch.atan2(sine, cosine), d, sine_d)


def _safe(positive: Tensor) -> Tensor:
    """Return what may be divided by: 1 where it is 0."""
    return torch.where(positive > 0, positive, torch.ones_like(positive))
