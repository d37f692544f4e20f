"""Kernels of small networks with sixty digits: plain loops in mpmath, one pair of units at a time.

Kernels of two pictures are dictionaries over pairs of positions; a vector has one position.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import torch
from mpmath import mp, mpf

from merkhet import kernels as k

mp.dps = 60
Place = tuple[int, int]
Covariance = dict[tuple[Place, Place], mpf]
ZERO = mpf(0)


def slow_distance(network: k.Layer, x: torch.Tensor, y: torch.Tensor, kind: str) -> mpf:
    """Return |Phi(x) - Phi(y)| by the formula that cancels; x and y are (d) or (c, h, w)."""
    one, other = _read(x), _read(y)
    pairs = [(one, one), (other, other), (one, other)]
    start = {"xx": 0, "yy": 1, "xy": 2}
    covariances = {name: _inner(*pairs[place]) for name, place in start.items()}
    tangents = {name: dict.fromkeys(found, ZERO) for name, found in covariances.items()}
    found = _after(network, covariances, tangents)[0 if kind == "nngp" else 1]
    only = ((0, 0), (0, 0))
    return mp.sqrt(found["xx"][only] + found["yy"][only] - 2 * found["xy"][only])


def _read(x: torch.Tensor) -> dict[Place, list[mpf]]:
    """Return the numbers at each position."""
    if x.dim() == 1:
        return {(0, 0): [mpf(float(one)) for one in x]}
    places = product(range(x.shape[1]), range(x.shape[2]))
    return {(i, j): [mpf(float(one)) for one in x[:, i, j]] for i, j in places}


def _inner(x: dict[Place, list[mpf]], y: dict[Place, list[mpf]]) -> Covariance:
    """Return inner products over channels, divided by their number."""
    return {(p, q): mp.fdot(x[p], y[q]) / len(x[p]) for p, q in product(x, y)}


def _after(layer: k.Layer, c: Any, t: Any) -> tuple[Any, Any]:
    """Return covariances and tangent kernels of xx, yy and xy after a layer."""
    if isinstance(layer, k.Sequential):
        for step in layer.steps:
            c, t = _after(step, c, t)
        return c, t
    if isinstance(layer, k.Residual):
        body = _after(layer.branches[1], c, t)
        both = zip((c, t), body, strict=True)
        return tuple(
            {name: {at: one[name][at] + two[name][at] for at in one[name]} for name in one}
            for one, two in both
        )
    if isinstance(layer, k.Linear | k.Conv2d):
        return _weighed(layer, c, t)
    if isinstance(layer, k.Flatten):
        return _each(_flat, c), _each(_flat, t)
    if isinstance(layer, k.AvgPool2d | k.GaussianPool2d | k.GlobalAvgPool2d):
        return _each(_pooled(layer), c), _each(_pooled(layer), t)
    return _activated(layer, c, t)


def _each(of: Callable[[Covariance], Covariance], found: dict[str, Covariance]) -> Any:
    return {name: of(one) for name, one in found.items()}


def _weighed(layer: Any, c: Any, t: Any) -> tuple[Any, Any]:
    """Follow weights: nngp' = W^2 nngp + b^2, ntk' = nngp' + W^2 ntk."""
    scale, added = mpf(layer.weight_std) ** 2, mpf(layer.bias_std) ** 2
    if isinstance(layer, k.Conv2d):
        c, t = _each(_patches(layer), c), _each(_patches(layer), t)
    c = {name: {at: scale * v + added for at, v in one.items()} for name, one in c.items()}
    t = {name: {at: c[name][at] + scale * v for at, v in one.items()} for name, one in t.items()}
    return c, t


def _patches(layer: k.Conv2d) -> Callable[[Covariance], Covariance]:
    """The mean over the offsets of two patches; stride 1, "same" or "circular"."""
    side = layer.kernel_size
    assert layer.stride == 1
    assert side % 2 == 1
    assert layer.padding in ("same", "circular")
    reach = range(-(side // 2), side // 2 + 1)

    def of(c: Covariance) -> Covariance:
        height, width = (1 + max(p[axis] for p, _ in c) for axis in range(2))

        def at(p: Place, i: int, j: int) -> Place:
            if layer.padding == "circular":
                return (p[0] + i) % height, (p[1] + j) % width
            return p[0] + i, p[1] + j

        return {
            (p, q): sum(
                (c.get((at(p, i, j), at(q, i, j)), ZERO) for i in reach for j in reach), ZERO
            )
            / side**2
            for p, q in c
        }

    return of


def _flat(c: Covariance) -> Covariance:
    own = [v for (p, q), v in c.items() if p == q]
    return {((0, 0), (0, 0)): sum(own, ZERO) / len(own)}


def _pooled(layer: Any) -> Callable[[Covariance], Covariance]:
    """Weighted means over the windows of both positions."""

    def of(c: Covariance) -> Covariance:
        size = tuple(1 + max(p[axis] for p, _ in c) for axis in range(2))
        rows, columns = (
            [[mpf(float(w)) for w in row] for row in one] for one in layer.weights(size)
        )
        windows = {
            (i, j): {(a, b): row[a] * column[b] for a, b in product(*map(range, size))}
            for (i, row), (j, column) in product(enumerate(rows), enumerate(columns))
        }
        half = {
            (i, q): sum((w * c[p, q] for p, w in window.items() if w), ZERO)
            for i, window in windows.items()
            for q in product(*map(range, size))
        }
        return {
            (i, j): sum((w * half[i, q] for q, w in window.items() if w), ZERO)
            for i in windows
            for j, window in windows.items()
        }

    return of


def _activated(layer: Any, c: Any, t: Any) -> tuple[Any, Any]:
    """Duals and slopes of each pair of units."""
    own = {name: {p: c[name * 2][p, p] for p, q in c[name * 2] if p == q} for name in "xy"}
    duals: Any = {name: {} for name in c}
    tangents: Any = {name: {} for name in c}
    for name, one in c.items():
        for (p, q), value in one.items():
            a, b = own[name[0]][p], own[name[1]][q]
            dual, slope = FORMULAS[type(layer)](layer, value, a, b)
            duals[name][p, q], tangents[name][p, q] = dual, slope * t[name][p, q]
    return duals, tangents


def _arc_cosines(c: mpf, a: mpf, b: mpf) -> tuple[mpf, mpf, mpf, mpf]:
    """Return N, the cosine, k0 and k1."""
    norm = mp.sqrt(a * b)
    u = c / norm if norm else ZERO
    u = min(max(u, mpf(-1)), mpf(1))
    k0 = 1 - mp.acos(u) / mp.pi
    return norm, u, k0, u * k0 + mp.sqrt(1 - u * u) / mp.pi


def _leaky(layer: Any, c: mpf, a: mpf, b: mpf) -> tuple[mpf, mpf]:
    norm, u, k0, k1 = _arc_cosines(c, a, b)
    below = mpf(getattr(layer, "negative_slope", 0))
    bend = (1 - below) ** 2 / 2
    return norm * (below * u + bend * k1), below + bend * k0


def _exponential(layer: Any, c: mpf, a: mpf, b: mpf) -> tuple[mpf, mpf]:
    norm, u, _, _ = _arc_cosines(c, a, b)
    squared = mpf(layer.sigma) ** 2
    grown = mp.exp((u - 1) / squared) / 2
    return norm * grown, grown / squared


def _erf(_: Any, c: mpf, a: mpf, b: mpf) -> tuple[mpf, mpf]:
    both = (1 + 2 * a) * (1 + 2 * b)
    return 2 / mp.pi * mp.asin(2 * c / mp.sqrt(both)), 4 / mp.pi / mp.sqrt(both - 4 * c * c)


def _gelu(_: Any, c: mpf, a: mpf, b: mpf) -> tuple[mpf, mpf]:
    both = (1 + a) * (1 + b)
    left = both - c * c
    bend = a * b + c * c * (1 - a / (1 + a) - b / (1 + b))
    arc = mp.asin(c / mp.sqrt(both))
    turned = c * (1 / (1 + a) + 1 / (1 + b) + 1 / left) / mp.sqrt(left)
    return c / 4 + (bend / mp.sqrt(left) + c * arc) / (2 * mp.pi), mpf(1) / 4 + (turned + arc) / (
        2 * mp.pi
    )


def _sine(_: Any, c: mpf, a: mpf, b: mpf) -> tuple[mpf, mpf]:
    near, far = mp.exp(c - (a + b) / 2), mp.exp(-c - (a + b) / 2)
    return (near - far) / 2, (near + far) / 2


FORMULAS: dict[type, Callable[[Any, mpf, mpf, mpf], tuple[mpf, mpf]]] = {
    k.ReLU: _leaky,
    k.LeakyReLU: _leaky,
    k.Exponential: _exponential,
    k.Erf: _erf,
    k.GELU: _gelu,
    k.Sine: _sine,
}
