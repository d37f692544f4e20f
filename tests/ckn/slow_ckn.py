"""A layer of a convolutional kernel network, position by position, as the papers define it."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def k(kind: str, u: float, sigma: float) -> float:
    u = max(-1.0, min(1.0, u))
    if kind == "exp":
        return math.exp((u - 1) / sigma**2)
    if kind == "inverse":
        return 1 / (2 - u)
    if kind == "poly":
        return ((1 + u) / 2) ** 2
    return (u * (math.pi - math.acos(u)) + math.sqrt(1 - u * u)) / math.pi


def patch(x: Tensor, at: tuple[int, int], side: int, turn: int = 0) -> Tensor:
    """The patch (channels, side, side) whose first corner is `at`, zeros outside, turned back."""
    out = x.new_zeros(len(x), side, side)
    for a in range(side):
        for b in range(side):
            i, j = at[0] + a, at[1] + b
            if 0 <= i < x.shape[1] and 0 <= j < x.shape[2]:
                out[:, a, b] = x[:, i, j]
    return torch.rot90(out, -turn, (1, 2))


def mapped(z: Tensor, filters: Tensor, kind: str, sigma: float, ridge: float) -> Tensor:
    """|z| k(W W^T + ridge)^(-1/2) k(W z / |z|) / sqrt(|S|), with the symmetric root."""
    norm = float(z.norm())
    if norm == 0:
        return z.new_zeros(len(filters))
    among = torch.tensor([[k(kind, float(a @ b), sigma) for b in filters] for a in filters])
    values, vectors = torch.linalg.eigh(among + ridge * torch.eye(len(among)))
    with_filters = torch.tensor([k(kind, float(w @ z) / norm, sigma) for w in filters])
    return norm * vectors @ ((vectors.T @ with_filters) / values.sqrt())


def pool(maps: Tensor, scale: int, step: int) -> Tensor:
    """Gaussian means (channels, h', w'), each window by its definition."""
    _, h, w = maps.shape
    counts = [math.ceil(h / step), math.ceil(w / step)]
    centres = [
        [(n - 1) / 2 + step * (place - (count - 1) / 2) for place in range(count)]
        for n, count in zip((h, w), counts, strict=True)
    ]
    out = maps.new_zeros(len(maps), *counts)
    for i, row in enumerate(centres[0]):
        for j, column in enumerate(centres[1]):
            total = 0.0
            for a in range(h):
                for b in range(w):
                    if abs(a - row) <= scale and abs(b - column) <= scale:
                        sigma2 = scale**2 / 2
                        weight = math.exp(-((a - row) ** 2 + (b - column) ** 2) / (2 * sigma2))
                        out[:, i, j] += weight * maps[:, a, b]
                        total += weight
            out[:, i, j] /= total
    return out


def layer(
    x: Tensor,
    filters: Tensor,
    *,
    side: int,
    kind: str,
    sigma: float,
    ridge: float,
    pooling: tuple[int, int] = (1, 1),
    valid: bool = False,
    centred: Tensor | None = None,
    turn: int = 0,
) -> Tensor:
    """The maps (filters, h', w') of one picture (channels, h, w)."""
    first = 0 if valid else -((side - 1) // 2)
    reach = side - 1 if valid else 0
    h, w = x.shape[1] - reach, x.shape[2] - reach
    out = x.new_zeros(len(filters), h, w)
    for i in range(h):
        for j in range(w):
            z = patch(x, (first + i, first + j), side, turn).flatten()
            z = z if centred is None else centred @ z
            out[:, i, j] = mapped(z, filters, kind, sigma, ridge) / side
    return out if pooling == (1, 1) else pool(out, *pooling)
