"""The penalty of `penalty_curve` in torch: its value at units, differentiable twice.

... is any leading shape; m, units that are penalised together; n, the intervals of the spline.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from merkhet.unit_prior.design.penalty_curve import STEP

MARGIN = 10.0  # of the log of a type's largest number, where the tail is taken to overflow


def curve_at(constants: Tensor, pieces: Tensor, given: Tensor, *, together: bool) -> Tensor:
    """Return the penalty of the length of units, whose squares may overflow: they are scaled first.

    Args:
        constants: (7,) float64: floor, the core's two numbers and the tail's four of a `Curve`.
        pieces: (n, 6) float64, its spline.
        given: Units (...), or (..., m) together.
        together: Whether the length is that of the last axis.
    """
    floor, linear, square, *tail = constants.to(given).unbind()
    size = given.detach().abs()
    least = floor.clamp(min=torch.finfo(floor.dtype).tiny)
    size = (size.amax(-1) if together else size).clamp(min=least)
    squares = (given / (size.unsqueeze(-1) if together else size)).square()
    if together:
        squares = squares.sum(-1)
    inside = squares.clamp(max=1.0)
    core = inside * (linear + square * inside)
    length = squares.clamp(min=1.0).log() / 2 + size.log() - constants[0].log().to(given)
    place = length / STEP
    last = len(pieces)
    beyond = _tail((place - last).clamp(min=0.0) * STEP, tail)
    above = torch.where(place < last, _spline(pieces, place.clamp(max=last)), beyond)
    return torch.where(squares < 1, core, above)


def _spline(pieces: Tensor, place: Tensor) -> Tensor:
    """Return the spline at a place, counted in knots, by Horner's rule."""
    index = place.detach().floor().long().clamp(0, len(pieces) - 1)
    coefficients = pieces.to(place)[index]
    inside = place - index
    value = coefficients[..., 5]
    for power in range(4, -1, -1):
        value = value * inside + coefficients[..., power]
    return value


def _tail(z: Tensor, numbers: list[Tensor]) -> Tensor:
    """Return A + B (exp(rate z) - 1) + C z, and inf with a finite gradient where it overflows."""
    start, bend, slope, rate = numbers
    log_bend = bend.abs().clamp(min=1.0).log()
    most = (math.log(torch.finfo(z.dtype).max) - MARGIN - log_bend).clamp(min=1.0)
    power = rate * z
    over = (power - most).clamp(min=0.0)  # goes on along the tangent, for the gradient
    risen = torch.expm1(power.clamp(max=most)) + most.exp() * over
    return start + bend * risen + slope * z + torch.where(over > 0, torch.inf, 0.0).to(z)
