"""Zonal functions on the sphere S^(p-1): harmonics, means over it, and spectra in closed form.

A zonal function depends on the cosine u = <x, y> of unit vectors alone. P_k is the Legendre
polynomial of dimension p (Gegenbauer's, with P_k(1) = 1), N(p, k) the number of spherical
harmonics of degree k, and E a mean over the sphere. p: dimension; k: degree.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from merkhet.core.errors import InputError, choose

NODES = 32  # of Gauss and Legendre's rule in each panel


def multiplicities(dim: int, degrees: int) -> Tensor:
    """Return N(p, k), the spherical harmonics of each degree 0 to `degrees`, (degrees + 1,).

    Args:
        dim: Dimension p of the space, from 2 on.
        degrees: The highest degree.

    Raises:
        InputError: No such dimension or degree, or a number beyond float64.
    """
    check_sphere(dim, degrees)
    counts = [1, *(_multiplicity(dim, k) for k in range(1, degrees + 1))]
    try:
        return torch.tensor([float(count) for count in counts], dtype=torch.float64)
    except OverflowError as error:
        raise InputError(
            f"degrees = {degrees} in dimension {dim}: float64 cannot hold the number of harmonics; "
            "give fewer degrees"
        ) from error


def _multiplicity(dim: int, k: int) -> int:
    """Return N(p, k) for k from 1 on."""
    return math.comb(k + dim - 1, dim - 1) - (math.comb(k + dim - 3, dim - 1) if k > 1 else 0)


def legendre(u: Tensor, dim: int) -> Iterator[Tensor]:
    """Yield P_0(u), P_1(u), P_2(u), ... without end, each of the shape of `u`.

    (k + p - 2) P_(k+1) = (2k + p - 2) u P_k - k P_(k-1), which is stable for |u| <= 1, where no
    |P_k| exceeds 1. In dimension 2 they are Chebyshev's, in dimension 3 Legendre's.

    Args:
        u: Cosines.
        dim: Dimension p of the space, from 2 on.
    """
    before, now, k = torch.ones_like(u), u, 1
    yield before
    while True:
        yield now
        before, now = now, ((2 * k + dim - 2) * u * now - k * before) / (k + dim - 2)
        k += 1


def sphere_rule(dim: int, panels: int) -> tuple[Tensor, Tensor]:
    """Return cosines and weights whose sums are means of zonal functions over the sphere.

    E f = integral of f(u) (1 - u^2)^((p-3)/2) du over its value for f = 1. With u = cos(theta) the
    weight is sin(theta)^(p-2), and the roots of 1 - u that spoil rules in u are analytic in theta:
    Gauss and Legendre's rule in panels of equal angle converges geometrically.

    Args:
        dim: Dimension p of the space, from 2 on.
        panels: How many parts the angles are divided into.

    Returns:
        Cosines (32 panels,), and weights (32 panels,) of sum 1, in float64.
    """
    nodes, weights = map(torch.from_numpy, np.polynomial.legendre.leggauss(NODES))
    centres = torch.arange(panels, dtype=torch.float64)[:, None] + 0.5
    turns = ((centres + nodes / 2) / panels).flatten()  # theta / pi
    # sin(theta)^(p-2) by logarithms: it underflows, harmlessly, in hundreds of dimensions.
    density = ((dim - 2) * (math.pi * turns).sin().log()).exp()
    mass = weights.repeat(panels) * density
    return (math.pi * turns).cos(), mass / mass.sum()


def project(values: Tensor, u: Tensor, weights: Tensor, dim: int, degrees: int) -> Tensor:
    """Return E[f P_k] and E[|f P_k|] for every degree, (2, degrees + 1).

    The first are the mu_k of f(u) = sum_k mu_k N(p, k) P_k(u), since E[P_k^2] = 1 / N(p, k); the
    second say how much of f rounding acts on.

    Args:
        values: f at the nodes, (nodes,).
        u: Cosines of the nodes, (nodes,).
        weights: Weights of the nodes, (nodes,).
        dim: Dimension p of the space.
        degrees: The highest degree.
    """
    found = torch.empty(2, degrees + 1, dtype=torch.float64)
    weighted = values * weights
    for k, polynomial in zip(range(degrees + 1), legendre(u, dim), strict=False):
        parts = weighted * polynomial
        found[0, k], found[1, k] = parts.sum(), parts.abs().sum()
    return found


def arc_cosine_eigenvalues(dim: int, degrees: int, kind: str = "ntk") -> Tensor:
    """Return the Mercer eigenvalues of one hidden layer of ReLU, in closed form.

    Of u k0(u) + k1(u) for "ntk", which falls like k^-p, of k1(u) for "nngp", like k^-(p+2), and
    of k0(u) for "step"; odd degrees from 3 on (for "step", even ones from 2 on) are 0. Bietti &
    Mairal, NeurIPS 2019, Section 3.2; Bach, JMLR 2017, Appendix D.

    Args:
        dim: Dimension p of the space, from 2 on.
        degrees: The highest degree.
        kind: "ntk", "nngp" or "step".

    Returns:
        mu_k, (degrees + 1,).

    Raises:
        InputError: No such kind, dimension or degree.
    """
    choose("kind of kernel", kind, ("nngp", "ntk", "step"))
    check_sphere(dim, degrees)
    k = torch.arange(degrees + 2, dtype=torch.float64)
    step, ramp = _step(k, dim), _ramp(k, dim)
    if kind != "ntk":
        return (step if kind == "step" else ramp)[:-1]
    # u P_k is a mean of P_(k-1) and P_(k+1): what multiplying by u does to a spectrum.
    below = torch.cat([step.new_zeros(1), step[:-2]])
    share = torch.cat([step.new_zeros(1), (k / (2 * k + dim - 2).clamp(min=1))[1:-1]])
    return share * below + (1 - share) * step[1:] + ramp[:-1]


def _step(k: Tensor, dim: int) -> Tensor:
    """Return the eigenvalues of k0, (degrees,): 2 lambda^2, lambda of the step function."""
    odd = (k % 2 == 1).double()
    at = k.clamp(min=1)
    logarithm = math.lgamma(dim / 2) + (at / 2).lgamma() - ((at + dim) / 2).lgamma()
    found = 2 * odd * (logarithm.exp() / (2 * math.pi)) ** 2
    found[0] = 0.5
    return found


def _ramp(k: Tensor, dim: int) -> Tensor:
    """Return the eigenvalues of k1, (degrees,): 2 p lambda^2, lambda of the ReLU."""
    even = (k % 2 == 0).double()
    at = k.clamp(min=2)
    logarithm = math.lgamma(dim / 2) + ((at - 1) / 2).lgamma() - ((at + dim + 1) / 2).lgamma()
    found = even * logarithm.exp() / (4 * math.pi)
    mean = math.exp(math.lgamma(dim / 2) - math.lgamma((dim - 1) / 2)) / math.sqrt(math.pi)
    found[0] = mean / (dim - 1)
    found[1:2] = 1 / (2 * dim)
    return 2 * dim * found**2


def check_sphere(dim: int, degrees: int) -> None:
    """Refuse dimensions below 2 and degrees below 0.

    Raises:
        InputError: Says what is allowed.
    """
    if not isinstance(dim, int) or dim < 2:
        raise InputError(f"dim = {dim}: give the dimension of the inputs, a whole number from 2 on")
    if not isinstance(degrees, int) or degrees < 0:
        raise InputError(f"degrees = {degrees}: give the highest degree, a whole number from 0 on")
