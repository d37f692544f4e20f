"""Norms of convolutions on a torus by Fourier blocks; with others' boundaries, from above.

Legend: g groups, o and c channels out and in of one group, t taps, u offsets on the coarse grid,
p phases of the stride, q = c p, r the smaller side of a block, f frequencies.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from merkhet.core.linear.steps import Sizes
from merkhet.rkhs.gram import EPS, LargestEigenvalue

CHUNK = 1 << 22  # entries of the blocks that are made at once
DENSITY = 64  # frequencies a degree at most: more are bounded between the grid's points
HEAVY = 1e9  # operations from which on only two grids are tried


@dataclass(frozen=True)
class Axis:
    """One dimension of a torus that a convolution acts on.

    Attributes:
        dilation: Of the kernel.
        stride: Of the convolution.
        points: Of the coarse grid; the torus has stride * points.
        twisted: Whether a factor -1 for every turn around the torus leaves the bound valid.
        repeated: How often one output of the torus is read at most.
        exact: Whether the torus is the operator itself.
    """

    dilation: int
    stride: int
    points: int
    twisted: bool = True
    repeated: int = 1
    exact: bool = False


def torus_norm(weight: Tensor, axes: tuple[Axis, ...], limit: float = math.inf) -> float:
    """Return an upper bound of the norm of convolutions on a torus, exact up to rounding.

    y_j = sum_t w_t x_(s j + t) on Z_N, N = s M. With t = s u + p and x^p_q = x_(s q + p) it is
    y_j = sum_p sum_u w_(s u + p) x^p_(j + u): without a stride, on Z_M, from q = c s channels.
    The unitary Fourier transforms of y and of every x^p turn it into the blocks
    B(omega) = [sum_u w_(s u + p) e^(i omega u)]_p of o x q at omega = 2 pi m / M, whose largest
    norm is the operator's. Where x is 0 at one place of the torus at least in every turn (zero
    padding), entries that go around may be multiplied by -1 as well: omega = 2 pi (m + 1/2) / M
    bounds the same operator, and the least of these bounds is taken. Real weights have equal
    norms at omega and -omega. The largest eigenvalue of B B* is bounded by Cholesky factors.

    On grids of more than 64 points for each degree of B B* = sum_tau R_tau e^(i omega tau) the
    supremum over all omega is taken instead: the largest value on 64 degree points over
    cos(pi / 64), in every such dimension (Ehlich and Zeller, Math. Z. 86, 1964).

    Args:
        weight: (g, o, c, *kernel), float64, of size about 1.
        axes: One for each dimension of the kernel.
        limit: A bound that is known: grids that come to more are left early.

    Returns:
        The bound, with a slack for rounding: sum_u |w_u|_F squared times (3 q + 8 t + 64)
        eps on B B*. Infinite if no grid is below the limit.
    """
    folded, offsets = _polyphase(weight, axes)
    if folded.shape[1] > folded.shape[2]:
        folded = folded.transpose(1, 2)
    spectrum = _Spectrum(folded, offsets)
    repeats = math.prod(axis.repeated for axis in axes)
    least = (limit**2) / repeats
    for shifts in _shifts(axes, spectrum):
        least = min(least, spectrum.largest([axis.points for axis in axes], shifts, least))
    found = math.sqrt(least * repeats) * (1 + 4 * EPS)
    return found if found < limit else math.inf


def _polyphase(weight: Tensor, axes: tuple[Axis, ...]) -> tuple[Tensor, list[list[int]]]:
    """Return weights (g, o, q, *u) of the convolution without stride, and its offsets u."""
    offsets = []
    for place, axis in enumerate(axes):
        dim = 3 + 2 * place  # each dimension so far has become two: u, then p
        taps = [axis.dilation * tap for tap in range(weight.shape[dim])]
        us = sorted({tap // axis.stride for tap in taps})
        ps = sorted({tap % axis.stride for tap in taps})
        moved = weight.movedim(dim, -1)
        wide = moved.new_zeros(*moved.shape[:-1], len(us), len(ps))
        for index, tap in enumerate(taps):
            u, p = divmod(tap, axis.stride)
            wide[..., us.index(u), ps.index(p)] = moved[..., index]
        weight = wide.movedim((-2, -1), (dim, dim + 1))
        offsets.append(us)
    rank = len(axes)
    phases, kernel = [4 + 2 * i for i in range(rank)], [3 + 2 * i for i in range(rank)]
    ordered = weight.permute(0, 1, 2, *phases, *kernel)
    return ordered.flatten(2, 2 + rank), offsets


def _shifts(axes: tuple[Axis, ...], spectrum: _Spectrum) -> Iterator[Sizes]:
    """Yield the half steps by which grids of frequencies are moved, all or the two extremes."""
    free = [
        (0, 1) if axis.twisted and degree else (0,)
        for axis, degree in zip(axes, spectrum.degrees, strict=True)
    ]
    cost = math.prod(axis.points for axis in axes) * spectrum.side**3 * spectrum.groups
    if cost > HEAVY:
        yield from {tuple(ends[-1] for ends in free): 0, tuple(ends[0] for ends in free): 0}
    else:
        yield from itertools.product(*(ends[::-1] for ends in free))


class _Spectrum:
    """B B* at any frequency, as a trigonometric polynomial or from B, whichever is cheaper."""

    def __init__(self, weight: Tensor, offsets: list[list[int]]) -> None:
        self.groups, self.side, inner = weight.shape[:3]
        self.units = [math.gcd(*(u - us[0] for u in us)) or 1 for us in offsets]
        given = zip(offsets, self.units, strict=True)
        self.offsets = [[(u - us[0]) // unit for u in us] for us, unit in given]
        self.degrees = [us[-1] for us in self.offsets]
        self.taps = weight.flatten(3).permute(0, 3, 1, 2)  # (g, t, r, q)
        self.places = list(itertools.product(*self.offsets))
        count = len(self.places)
        sizes = self.taps.flatten(2).norm(dim=2).sum(1)
        self.slack = (3 * inner + 8 * count + 64) * EPS * float(sizes.max()) ** 2
        self.polynomial = count <= 32 or count**2 <= 4 * self.side
        if self.polynomial:
            self._correlate()

    def _correlate(self) -> None:
        """Make the real and imaginary parts of the coefficients R_tau, tau > 0, and R_0."""
        found: dict[Sizes, Tensor] = {}
        zero = (0,) * len(self.offsets)
        for (i, u), (j, v) in itertools.product(enumerate(self.places), repeat=2):
            tau = tuple(a - b for a, b in zip(u, v, strict=True))
            if tau >= zero:
                product = self.taps[:, i] @ self.taps[:, j].mT
                found[tau] = found[tau] + product if tau in found else product
        self.constant = found.pop(zero)
        self.taus = list(found)
        both = list(found.values())
        self.even = torch.stack([r + r.mT for r in both]) if both else None
        self.odd = torch.stack([r - r.mT for r in both]) if both else None

    def largest(self, points: list[int], shifts: Sizes, limit: float) -> float:
        """Return a bound of the largest eigenvalue on a grid; infinity once over the limit."""
        grid, factor = [], 1.0
        units = list(self.units)
        for place, (count, degree) in enumerate(zip(points, self.degrees, strict=True)):
            dense = DENSITY * degree
            if degree and count > dense:
                factor /= math.cos(math.pi / DENSITY) * (1 - 8 * EPS)
                count, units[place] = dense, 1
            grid.append(count if degree else 1)
        result = LargestEigenvalue()
        step = max(1, CHUNK // (self.groups * self.side**2))
        for some in _half(grid, shifts).split(step):
            blocks = self._blocks(some, grid, shifts, units).flatten(0, 1)
            if not result.include(blocks, limit / factor - self.slack):
                return math.inf
        return (result.bound + self.slack) * factor

    def _blocks(self, some: Tensor, grid: list[int], shifts: Sizes, units: list[int]) -> Tensor:
        """Return B B* at some frequencies, (f, g, r, r)."""
        if not self.polynomial:
            phase = _phases(self.places, some, grid, shifts, units).to(self.taps.device)
            rows = torch.complex(phase.cos(), phase.sin())
            b = torch.einsum("ft,gtrq->fgrq", rows, self.taps.to(rows.dtype))
            return b @ b.mH
        constant = self.constant.expand(len(some), -1, -1, -1)
        if self.even is None or self.odd is None:
            return constant
        phase = _phases(self.taus, some, grid, shifts, units).to(self.taps.device)
        real = torch.tensordot(phase.cos(), self.even, 1) + constant
        return torch.complex(real, torch.tensordot(phase.sin(), self.odd, 1))


def _half(grid: list[int], shifts: Sizes) -> Tensor:
    """Return one of each pair of opposite frequencies, (f, d) whole numbers, in random order."""
    axes = [torch.arange(count) for count in grid]
    every = torch.cartesian_prod(*axes).reshape(-1, len(grid))
    sizes = torch.tensor(grid)
    opposite = (-every - torch.tensor(shifts)) % sizes
    weights = torch.tensor([math.prod(grid[i + 1 :]) for i in range(len(grid))])
    kept = every[(every * weights).sum(1) <= (opposite * weights).sum(1)]
    # In random order the largest so far is exceeded only about log f times.
    return kept[torch.randperm(len(kept), generator=torch.Generator().manual_seed(0))]


def _phases(
    places: list[Sizes],
    some: Tensor,
    grid: list[int],
    shifts: Sizes,
    units: list[int],
) -> Tensor:
    """Return omega . tau (f, number of places), reduced in whole numbers to one turn."""
    total = torch.zeros(len(some), len(places), dtype=torch.float64)
    for axis, (count, shift, unit) in enumerate(zip(grid, shifts, units, strict=True)):
        tau = torch.tensor([place[axis] * unit for place in places])
        turns = (2 * some[:, axis, None] + shift) * tau % (2 * count)
        total += turns.double() * (math.pi / count)
    return total
