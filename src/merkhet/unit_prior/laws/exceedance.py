"""Where an activation exceeds a level: what turns the law of g into the law of phi(g)."""

from __future__ import annotations

import functools
import math

import numpy as np
import torch
from numpy.typing import NDArray

from merkhet.core.errors import InputError
from merkhet.unit_prior.activations import Activation
from merkhet.unit_prior.laws.law import Floats

PERIODIC = ("sin", "cos")
SMALLEST, LARGEST = 1e-307, 1e307
A_DECADE = 20  # points of the grid
BENT, STEP = 60.0, 0.005  # activations bend within it; no bump is narrower than a step
HALVINGS = 80  # of an interval between neighbours of the grid, down to neighbouring floats

Interval = tuple[float, float]
Sides = tuple[tuple[Interval, ...], tuple[Interval, ...]]


def exceedances(activation: Activation, t: float) -> Sides:
    """Return where |phi| exceeds a level, on each side of 0.

    Args:
        activation: phi, with finitely many bends, all within 60 of 0 and none closer together
            than 0.005.
        t: The level, from 0 on.

    Returns:
        For u > 0 and for u < 0, the intervals (low, high) of |u| in which |phi(u)| > t, in order;
        an end is right to the last bit or two, the last may be inf.

    Raises:
        InputError: phi is periodic and exceeds t on infinitely many intervals.
    """
    if activation.name in PERIODIC:
        raise InputError(
            f"{activation.name} exceeds a level on infinitely many intervals: ask for the unit "
            "before the activation, or draw it with sample(n, layer, post=True)"
        )
    return _of_side(activation, 1.0, t), _of_side(activation, -1.0, t)


def _of_side(activation: Activation, side: float, t: float) -> tuple[Interval, ...]:
    """Return the intervals of |u| on one side."""
    above = _sizes(activation, side) > t
    turns = np.flatnonzero(above[1:] != above[:-1])
    ends = _turning(activation, side, t, turns).tolist()
    if above[0]:
        ends.insert(0, 0.0)
    if above[-1]:
        ends.append(math.inf)
    return tuple(zip(ends[::2], ends[1::2], strict=True))


def _turning(activation: Activation, side: float, t: float, turns: NDArray[np.intp]) -> Floats:
    """Return where |phi| crosses t between each of some points of the grid and the next."""
    grid = _grid()
    low, high = grid[turns], grid[turns + 1]
    rises = _size(activation, side * high) > t
    for _ in range(HALVINGS):
        middle = low + (high - low) / 2
        beyond = (_size(activation, side * middle) > t) == rises
        low, high = np.where(beyond, low, middle), np.where(beyond, middle, high)
    return high


@functools.cache
def _grid() -> Floats:
    """Return |u| from 0 to the largest, close together where activations bend."""
    decades = math.log10(LARGEST) - math.log10(SMALLEST)
    points = np.geomspace(SMALLEST, LARGEST, round(decades * A_DECADE) + 1)
    found: Floats = np.unique(np.concatenate([[0.0], points, np.arange(STEP, BENT, STEP)]))
    return found


@functools.lru_cache(maxsize=16)
def _sizes(activation: Activation, side: float) -> Floats:
    """Return |phi| on the grid of one side."""
    return _size(activation, side * _grid())


def _size(activation: Activation, u: Floats) -> Floats:
    """Return |phi(u)|, of u's shape."""
    found: Floats = activation(torch.from_numpy(u)).abs().numpy()
    return found
