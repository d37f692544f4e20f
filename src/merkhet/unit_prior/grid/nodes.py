"""Nodes of a Gaussian integral over a unit: where phi bends, the law of phi(u)^2 by panels."""

from __future__ import annotations

import functools
import itertools
import math
from dataclasses import dataclass

import numpy as np
import torch

from merkhet.core.errors import InputError
from merkhet.unit_prior.activations import Activation
from merkhet.unit_prior.laws.law import Floats

PROBED = 60.0  # kinks are looked for at |u| below
CELL = math.pi / 200  # of the first look, so that no kink at a round number is a cell's middle
HALVINGS = 26
SLOPE_JUMP = 1e-4
SMALLEST, ALONE = 20, 200  # panels [4^-k, 4^(1-k)] about 0; for a square that is not summed
PANEL = 0.5  # width of the others, in standard deviations
LEAST = 1e-300  # squares that are 0 in floating point only
HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


@dataclass(frozen=True)
class Squares:
    """The law of X = phi(sqrt(q) z)^2, z standard normal, at nodes.

    Attributes:
        value: X at each node, (k,).
        log_weight: Log of its mass, (k,).
        zero: P(X = 0), the mass of phi's flat parts at 0; their nodes are left out.
    """

    value: Floats
    log_weight: Floats
    zero: float


def evaluate(activation: Activation, u: Floats) -> Floats:
    """Return phi(u), float64.

    Raises:
        InputError: It is not finite, or not of u's shape.
    """
    with torch.no_grad():
        found = activation(torch.from_numpy(np.ascontiguousarray(u))).to(torch.float64).numpy()
    if found.shape != u.shape or not np.isfinite(found).all():
        raise InputError(
            f"activation {activation.name!r} is not finite, or does not act on each entry alone: "
            "give a function that returns a finite tensor of the same shape"
        )
    return found


@functools.lru_cache(maxsize=64)
def kinks(activation: Activation) -> tuple[float, ...]:
    """Return where phi's slope jumps, for |u| up to 60, to eight decimals, in order.

    A cell is halved towards the larger second difference; a kink keeps it in proportion to the
    cell, a smooth function loses it in proportion to the square.
    """
    cells = np.arange(math.ceil(2 * PROBED / CELL) + 12, dtype=np.float64)
    left: Floats = -PROBED - 0.1 + CELL * cells
    width = CELL
    for _ in range(HALVINGS):
        width /= 2
        first, second = _bend(activation, left, width), _bend(activation, left + width, width)
        left = np.where(second > first, left + width, left)
    places = np.unique(np.round(left + width / 2, 8)) + 0.0
    step = 1e-5
    away = [evaluate(activation, places + side * step) for side in (-2, -1, 1, 2)]
    jump = np.abs((away[3] - away[2]) - (away[1] - away[0])) / step
    found = places[jump > SLOPE_JUMP]
    apart = np.diff(found, prepend=-np.inf) > 1e-6
    return tuple(float(place) for place in found[apart])


def _bend(activation: Activation, left: Floats, width: float) -> Floats:
    """Return the size of the second difference of phi over cells, (k,)."""
    ends = [evaluate(activation, left + part * width) for part in (0.0, 0.5, 1.0)]
    return np.abs(ends[0] - 2 * ends[1] + ends[2])


@functools.lru_cache(maxsize=64)
def flat_parts(activation: Activation) -> tuple[tuple[float, float], ...]:
    """Return the intervals between kinks where phi is 0, the outer ones without end.

    A smooth function that is 0 in floating point only (GELU far below 0) has none.
    """
    ends = (-math.inf, *kinks(activation), math.inf)
    found = []
    for low, high in itertools.pairwise(ends):
        if math.isinf(low) and math.isinf(high):
            continue
        start = high - 8.0 if math.isinf(low) else low
        stop = low + 8.0 if math.isinf(high) else high
        inside = np.linspace(start, stop, 9)[1:-1]
        if not evaluate(activation, inside).any():
            found.append((low, high))
    return tuple(found)


def squares(
    activation: Activation, variance: float, reach: float, order: int, *, alone: bool = False
) -> Squares:
    """Return the law of phi(sqrt(variance) z)^2 at Gauss-Legendre nodes of panels.

    Panels end where phi bends, are geometric about z = 0, where a unit of large variance has its
    structure, and half a standard deviation wide further out.

    Args:
        activation: phi.
        variance: Of the unit, above 0.
        reach: Largest |z|.
        order: Nodes of a panel.
        alone: Whether X is not summed with others, so that its smallest values tell.
    """
    root = math.sqrt(variance)
    breaks = [kink / root for kink in kinks(activation)]
    z, weight = _panels(breaks, reach, order, ALONE if alone else SMALLEST)
    value = np.maximum(evaluate(activation, root * z) ** 2, LEAST)
    flat = np.zeros(z.shape, dtype=bool)
    for low, high in flat_parts(activation):
        flat |= (z > low / root) & (z < high / root)
    log_weight = np.log(weight) - 0.5 * z**2 - HALF_LOG_2PI
    zero = float(np.exp(log_weight[flat]).sum())
    return Squares(value[~flat], log_weight[~flat], zero)


def _panels(breaks: list[float], reach: float, order: int, smallest: int) -> tuple[Floats, Floats]:
    """Return nodes and weights of the integral dz over [-reach, reach]."""
    outer = np.arange(1.0, reach + PANEL, PANEL)
    inner = 4.0 ** -np.arange(1.0, smallest + 1)
    half = np.concatenate([inner, [0.5], outer])
    own = [place for place in breaks if abs(place) < half.max()]
    edges = np.unique(np.concatenate([-half, [0.0], half, own]))
    node, weight = np.polynomial.legendre.leggauss(order)
    middle, radius = (edges[1:] + edges[:-1]) / 2, np.diff(edges) / 2
    return (
        (middle[:, None] + radius[:, None] * node).ravel(),
        (radius[:, None] * weight).ravel(),
    )
