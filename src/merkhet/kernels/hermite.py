"""Functions of Gaussian units expanded in Hermite polynomials, the coefficients by quadrature.

With normalised Hermite polynomials h_k and units of variances a and b whose cosine is u,
E[s(sqrt(a) z) s(sqrt(b) w)] = sum_k s_k(a) s_k(b) u^k, s_k(a) = E[s(sqrt(a) z) h_k(z)] (Mehler,
1866; O'Donnell, "Analysis of Boolean functions", Section 11.2).

v variances; q nodes; k terms.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

Function = Callable[[Tensor], Tensor]
END = 12.0  # of the integral over a standard normal: beyond it lies 4e-33 of its mass
PANELS = 24  # of width 1, an edge at 0
AT_ONCE = 2**22  # entries of the polynomials at the nodes that are alive at once
ROUNDING = 1e-13  # what is left of a series, of its sum, that is nothing but rounding


def coefficients(
    function: Function, variance: Tensor, kinks: tuple[float, ...], terms: int, order: int
) -> Tensor:
    """Return s_k of variances (*), k < terms + 2, as (terms + 2, *).

    The last two stand for all even and all odd terms from `terms` on: their squares are what is
    left of E[s^2], so that the series is exact at the cosines 1 and -1 of equal variances.

    Args:
        function: From tensors to tensors of the same shape.
        variance: (*), from 0 on.
        kinks: Where the function is not smooth.
        terms: How many terms are taken one by one; even.
        order: Nodes of Gauss-Legendre on each panel.
    """
    root = square_root(variance).reshape(-1)
    nodes = PANELS * order * (len(root) if kinks else 1)
    side = max(1, AT_ONCE // (terms * PANELS * order)) if kinks else max(1, AT_ONCE // nodes)
    parts = [_some(function, part, kinks, terms, order) for part in root.split(side)]
    return torch.cat(parts, 1).reshape(terms + 2, *variance.shape)


def series(left: Tensor, right: Tensor, u: Tensor, first: Tensor) -> Tensor:
    """Return the sum of left_k right_k u^k, with the term of k = 1 as given.

    Args:
        left: (k, *) that broadcasts to u.
        right: Likewise.
        u: Cosines (*).
        first: The term of k = 1, (*).
    """
    total = left[-1] * right[-1]
    for one, other in zip(left[2:-1].flip(0), right[2:-1].flip(0), strict=True):
        total = total * u + one * other
    return total * u.square() + first + left[0] * right[0]


def square_root(a: Tensor) -> Tensor:
    """Return the square root of any shape, with derivative 0 where it is 0."""
    there = a > 0
    return torch.where(there, a, torch.ones_like(a)).sqrt() * there


def _some(
    function: Function, root: Tensor, kinks: tuple[float, ...], terms: int, order: int
) -> Tensor:
    """Return the coefficients (terms + 2, v) of standard deviations (v,)."""
    z, weights = _rule(root, kinks, order)
    values = function(root[:, None] * z)
    basis = torch.stack(list(_polynomials(z, terms)))
    weighted = values * weights
    if len(z) == 1:  # the same nodes for all
        found = basis[:, 0] @ weighted.mT
    else:
        found = torch.einsum("vq,kvq->kv", weighted, basis)
    mirrored = values.flip(-1)
    rests = []
    for parity, part in enumerate(((values + mirrored) / 2, (values - mirrored) / 2)):
        whole = (weights * part.square()).sum(-1)
        rest = whole - found[parity::2].square().sum(0)
        rests.append(square_root(rest * (rest > ROUNDING * whole)))
    return torch.cat([found, torch.stack(rests)])


def _rule(root: Tensor, kinks: tuple[float, ...], order: int) -> tuple[Tensor, Tensor]:
    """Return nodes and weights, (1 or v, q), symmetric about 0, for a standard normal.

    Panels end where the function of root * z, or its mirror image, has a kink.
    """
    edges = torch.linspace(-END, END, PANELS + 1, dtype=root.dtype, device=root.device)[None]
    breaks = [sign * kink for kink in kinks if kink for sign in (-1, 1)]
    if breaks:
        inverse = 1 / torch.where(root > 0, root, torch.full_like(root, 1e-30))
        places = inverse[:, None] * torch.tensor(breaks, dtype=root.dtype, device=root.device)
        edges = torch.cat([edges.expand(len(root), -1), places.clamp(-END, END)], 1)
        edges = edges.sort(1).values
    points, weights = (
        torch.from_numpy(one).to(root) for one in np.polynomial.legendre.leggauss(order)
    )
    half = edges.diff(dim=1)[..., None] / 2
    z = (edges[:, :-1, None] + half * (1 + points)).flatten(1)
    density = (-z.square() / 2).exp() / math.sqrt(2 * math.pi)
    return z, (half * weights).flatten(1) * density


def _polynomials(z: Tensor, count: int) -> Iterator[Tensor]:
    """Yield Hermite polynomials of degrees below `count` at z, normalised for a standard normal."""
    before, now = torch.zeros_like(z), torch.ones_like(z)
    for degree in range(count):
        yield now
        before, now = now, (z * now - math.sqrt(degree) * before) / math.sqrt(degree + 1)
