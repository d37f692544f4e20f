"""How smooth kernel maps are: the paper's bounds and constants, and distances in closed form.

Phi is the kernel map: |Phi(x) - Phi(y)|^2 = K(x, x) + K(y, y) - 2 K(x, y). Kernels are at the
papers' scale, where inner products are not divided by the dimension and one hidden layer of ReLU
has the tangent kernel |x||y| (u k0(u) + k1(u)): Bietti & Mairal, NeurIPS 2019 (arXiv 1905.12173),
Section 4.1. Vectors are the last axis.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from merkhet.core.errors import InputError, choose

ORDERS = (96, 192)  # of Gauss and Hermite's rules that are compared
STEIN = 1e-3  # by how much Stein's identity may fail before an activation counts as kinked


def step_bounds(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return the lower and upper bound of the distance of k0's map on the unit sphere.

    sqrt(2/pi |x - y|) <= |phi0(x) - phi0(y)| <= sqrt(|x - y|), with equality for near and for
    opposite vectors: the map is Hoelder continuous of order 1/2 and no better.

    Args:
        x: Unit vectors (*batch, d).
        y: Unit vectors (*batch, d).

    Returns:
        Both bounds, (*batch).
    """
    upper: Tensor = (x - y).norm(dim=-1).sqrt()
    return math.sqrt(2 / math.pi) * upper, upper


def tangent_bound(x: Tensor, y: Tensor) -> Tensor:
    """Return the upper bound of the tangent map's distance, one hidden layer of ReLU, (*batch).

    |Phi(x) - Phi(y)| <= sqrt(min(|x|, |y|) |x - y|) + 2 |x - y|.

    Args:
        x: Vectors (*batch, d).
        y: Vectors (*batch, d).
    """
    apart = (x - y).norm(dim=-1)
    smaller = torch.minimum(x.norm(dim=-1), y.norm(dim=-1))
    bound: Tensor = (smaller * apart).sqrt() + 2 * apart
    return bound


def norm_bound(x: Tensor, hidden: int) -> Tensor:
    """Return sqrt(n + 1) |x|, which the tangent map's |Phi_n(x)| never exceeds, (*batch).

    Args:
        x: Vectors (*batch, d).
        hidden: Hidden layers n of ReLU.
    """
    bound: Tensor = math.sqrt(hidden + 1) * x.norm(dim=-1)
    return bound


def arc_cosine_distance(x: Tensor, y: Tensor, kind: str = "ntk") -> Tensor:
    """Return |Phi(x) - Phi(y)| for one hidden layer of ReLU, accurate for nearly equal inputs.

    Differences of kernels are written in the angle, so that nothing cancels: the relative error is
    about 1e-16 over the angle.

    Args:
        x: Vectors (*batch, d).
        y: Vectors (*batch, d).
        kind: "ntk", "nngp", or "step" for k0, which sees directions alone.

    Returns:
        (*batch), in float64.

    Raises:
        InputError: No such kind.
    """
    choose("kind of kernel", kind, ("nngp", "ntk", "step"))
    x, y = x.double(), y.double()
    angle = _angle(x, y)
    rise = 2 * (angle / 2).sin().square()  # 1 - cos
    if kind == "step":
        return torch.sqrt(2 * angle / math.pi)
    at_one = 2 if kind == "ntk" else 1
    gap = at_one * rise + (at_one * angle * angle.cos() - angle.sin()) / math.pi
    one, other = x.norm(dim=-1), y.norm(dim=-1)
    squared: Tensor = at_one * (one - other).square() + 2 * one * other * gap.clamp(min=0)
    return squared.sqrt()


def _angle(x: Tensor, y: Tensor) -> Tensor:
    """Return the angle between vectors, exact to rounding when small; 0 where one is 0."""
    one, other = (v / v.norm(dim=-1, keepdim=True).clamp(min=1e-300) for v in (x, y))
    angle: Tensor = 2 * torch.atan2((one - other).norm(dim=-1), (one + other).norm(dim=-1))
    there: Tensor = (x.norm(dim=-1) > 0) & (y.norm(dim=-1) > 0)
    return angle * there


@dataclass(frozen=True)
class Smoothness:
    """How smooth a smooth activation makes the tangent map of one hidden layer.

    Attributes:
        moments: g_j = E[(j-th derivative at z)^2] for j = 0, 1, 2, z standard normal, (3,).
        errors: An estimate of the error of each: two quadrature orders compared, (3,).
    """

    moments: Tensor
    errors: Tensor

    @property
    def constant(self) -> float:
        """The Lipschitz constant sqrt((g0 + g1) max(1, (2 g1 + g2) / (g0 + g1)))."""
        return self._constant(self.moments)

    @property
    def error(self) -> float:
        """An estimate of the constant's error."""
        return abs(self._constant(self.moments + self.errors) - self.constant)

    @staticmethod
    def _constant(moments: Tensor) -> float:
        value, first, second = moments.tolist()
        return math.sqrt(max(value + first, 2 * first + second))


def smoothness(activation: Callable[[Tensor], Tensor]) -> Smoothness:
    """Return the constants of a smooth activation, by Gauss and Hermite's quadrature.

    For the kernel |x||y| kappa(u), kappa(u) = E[s(z) s(z')] + u E[s'(z) s'(z')] with z, z' standard
    normal of covariance u, the tangent map moves at most `constant` times |x - y|, since
    kappa(1) = g0 + g1 and kappa'(1) = 2 g1 + g2 (the paper's appendix).

    Args:
        activation: A function of each number that torch differentiates twice, such as
            `torch.nn.functional.softplus`.

    Raises:
        InputError: It has a kink or a jump, for which there is no such constant.
    """
    derivatives = (
        activation,
        torch.func.vmap(torch.func.grad(activation)),
        torch.func.vmap(torch.func.grad(torch.func.grad(activation))),
    )
    found = []
    for order in ORDERS:
        nodes, weights = map(torch.from_numpy, np.polynomial.hermite_e.hermegauss(order))
        values = torch.stack([of(nodes) for of in derivatives])
        share = weights / weights.sum()
        found.append(values.square() @ share)
    _check_smooth(nodes, share, values)
    return Smoothness(found[1], (found[1] - found[0]).abs())


def _check_smooth(z: Tensor, share: Tensor, values: Tensor) -> None:
    """Refuse kinks, which derivatives taken point by point do not see.

    Stein's identity E[f'(z) h(z)] = E[f(z) (z h(z) - h'(z))] holds for f without jumps: here for
    f = s and s', and h = 1 and z, which see odd and even jumps.

    Raises:
        InputError: It fails.
    """
    for f, slope in pairwise(values):
        size = ((f * z.square()).abs() @ share).clamp(min=1e-30)
        for h, by_parts in ((torch.ones_like(z), z), (z, z.square() - 1)):
            if not ((slope * h - f * by_parts) @ share).abs() <= STEIN * size:
                raise InputError(
                    "the activation has a kink or a jump, with which its tangent map has no "
                    "Lipschitz constant, or bends too sharply for this quadrature: give a smooth "
                    "one, such as torch.nn.functional.softplus"
                )
