"""Activations: expectations of products over pairs of Gaussian units, in closed form.

A pair (u, v) of units has covariance c and variances a and b; an activation's dual is E[s(u) s(v)],
its slope E[s'(u) s'(v)]. The tangent kernel is multiplied by the slope (Jacot et al., 2018).
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from merkhet.core.errors import InputError
from merkhet.core.kernel_functions import arc_cosine_0, arc_cosine_1, exponential
from merkhet.kernels.layers import Layer, Number, check_number
from merkhet.kernels.state import State, against, variances


class Activation(Layer):
    """A function of each unit."""

    @abstractmethod
    def dual(self, c: Tensor, a: Tensor, b: Tensor) -> Tensor:
        """Return E[s(u) s(v)] for covariances and variances of shapes that broadcast."""

    @abstractmethod
    def slope(self, c: Tensor, a: Tensor, b: Tensor) -> Tensor:
        """Return E[s'(u) s'(v)] for covariances and variances of shapes that broadcast."""

    def fresh(self, before: bool) -> bool:
        """Tell that it is not: its mean may be other than zero."""
        return False

    def __call__(self, state: State) -> State:
        """Return the state after the activation, of batch axes (*batch) as before."""
        if not state.centred:
            raise InputError(f"{self!r} needs Gaussian units: put Linear or Conv2d before it")
        of_x, of_y = variances(state.x, state.axes), variances(state.y, state.axes)
        pairs = against(of_x, of_y, state.axes)
        cross = self.dual(state.cross, *pairs)
        x = cross if state.x is state.cross else self._own(state.x, of_x, state.axes)
        y = x if state.y is state.x else self._own(state.y, of_y, state.axes)
        tangent = None
        if state.tangent is not None:
            tangent = state.tangent * self.slope(state.cross, *pairs)
        return replace(state, cross=cross, x=x, y=y, tangent=tangent, centred=False)

    def _own(self, own: Tensor, of: Tensor, axes: int) -> Tensor:
        """Return the covariance of an input with itself after the activation."""
        return self.dual(own, *against(of, of, axes))


class Homogeneous(Activation):
    """An activation with s(t u) = t s(u) for t > 0: its dual is N f(c / N), N = sqrt(a b)."""

    @abstractmethod
    def of_cosine(self, u: Tensor) -> Tensor:
        """Return the dual of unit variances, of any shape, by their covariance."""

    @abstractmethod
    def slope_of_cosine(self, u: Tensor) -> Tensor:
        """Return the slope, of any shape, by the cosine."""

    def dual(self, c: Tensor, a: Tensor, b: Tensor) -> Tensor:
        """Return E[s(u) s(v)] for covariances and variances of shapes that broadcast."""
        norm = geometric_mean(a, b)
        return norm * self.of_cosine(cosine(c, norm))

    def slope(self, c: Tensor, a: Tensor, b: Tensor) -> Tensor:
        """Return E[s'(u) s'(v)] for covariances and variances of shapes that broadcast."""
        return self.slope_of_cosine(cosine(c, geometric_mean(a, b)))


@dataclass(frozen=True, eq=False)
class LeakyReLU(Homogeneous):
    """max(z, negative_slope z).

    Args:
        negative_slope: The slope below 0, a number or a 0-d tensor.
    """

    negative_slope: Number = 0.01

    def __post_init__(self) -> None:
        slope = self.negative_slope
        if isinstance(slope, Tensor) and not slope.dim():
            slope = float(slope.detach())
        if not isinstance(slope, int | float) or not math.isfinite(slope):
            raise InputError(f"negative_slope = {slope}: give a finite number or 0-d tensor")

    def of_cosine(self, u: Tensor) -> Tensor:
        """Return the dual of unit variances, of any shape, by their covariance."""
        bend = (1 - self.negative_slope) ** 2 / 2
        return self.negative_slope * u + bend * arc_cosine_1(u)

    def slope_of_cosine(self, u: Tensor) -> Tensor:
        """Return the slope, of any shape, by the cosine."""
        return self.negative_slope + (1 - self.negative_slope) ** 2 / 2 * arc_cosine_0(u)


@dataclass(frozen=True, eq=False)
class ReLU(Homogeneous):
    """max(z, 0): arc-cosine kernels (Cho & Saul, NIPS 2009)."""

    def of_cosine(self, u: Tensor) -> Tensor:
        """Return the dual of unit variances, of any shape, by their covariance."""
        return arc_cosine_1(u) / 2

    def slope_of_cosine(self, u: Tensor) -> Tensor:
        """Return the slope, of any shape, by the cosine."""
        return arc_cosine_0(u) / 2


@dataclass(frozen=True, eq=False)
class Exponential(Homogeneous):
    """The homogeneous kernel N exp((u - 1) / sigma^2) / 2 of convolutional kernel networks.

    It is half the kernel of Bietti & Mairal (JMLR 2019, Section 2.1), as ReLU's is half of N k1:
    the next layer's `weight_std` of sqrt(2), the default, makes up for it.

    Args:
        sigma: Width, a number or a 0-d tensor; from 1 on the kernel map is non-expansive.
    """

    sigma: Number = 1.0

    def __post_init__(self) -> None:
        check_number("sigma", self.sigma, positive=True)

    def of_cosine(self, u: Tensor) -> Tensor:
        """Return the dual of unit variances, of any shape, by their covariance."""
        return exponential(u, self.sigma) / 2

    def slope_of_cosine(self, u: Tensor) -> Tensor:
        """Return the slope, of any shape, by the cosine."""
        return exponential(u, self.sigma) / (2 * self.sigma**2)


@dataclass(frozen=True, eq=False)
class Erf(Activation):
    """The error function (Williams, NIPS 1996)."""

    def dual(self, c: Tensor, a: Tensor, b: Tensor) -> Tensor:
        """Return E[s(u) s(v)] for covariances and variances of shapes that broadcast."""
        return 2 / math.pi * (2 * c / ((1 + 2 * a) * (1 + 2 * b)).sqrt()).asin()

    def slope(self, c: Tensor, a: Tensor, b: Tensor) -> Tensor:
        """Return E[s'(u) s'(v)] for covariances and variances of shapes that broadcast."""
        left = 1 + 2 * (a + b) + 4 * apart(a, b, c)
        return 4 / math.pi / left.sqrt()


@dataclass(frozen=True, eq=False)
class GELU(Activation):
    """z times the normal distribution function of z (Tsuchida et al., 2020)."""

    def dual(self, c: Tensor, a: Tensor, b: Tensor) -> Tensor:
        """Return E[s(u) s(v)] for covariances and variances of shapes that broadcast."""
        both = (1 + a) * (1 + b)
        left = 1 + a + b + apart(a, b, c)
        bend = a * b + c**2 * (1 - a / (1 + a) - b / (1 + b))
        return c / 4 + (bend / left.sqrt() + c * (c / both.sqrt()).asin()) / (2 * math.pi)

    def slope(self, c: Tensor, a: Tensor, b: Tensor) -> Tensor:
        """Return E[s'(u) s'(v)] for covariances and variances of shapes that broadcast."""
        both = (1 + a) * (1 + b)
        squared = 1 + a + b + apart(a, b, c)
        bend = c * (1 / (1 + a) + 1 / (1 + b) + 1 / squared) / squared.sqrt()
        return 1 / 4 + (bend + (c / both.sqrt()).asin()) / (2 * math.pi)


@dataclass(frozen=True, eq=False)
class Sine(Activation):
    """The sine."""

    def dual(self, c: Tensor, a: Tensor, b: Tensor) -> Tensor:
        """Return E[s(u) s(v)] for covariances and variances of shapes that broadcast."""
        mean = (a + b) / 2
        return ((c - mean).exp() - (-c - mean).exp()) / 2

    def slope(self, c: Tensor, a: Tensor, b: Tensor) -> Tensor:
        """Return E[s'(u) s'(v)] for covariances and variances of shapes that broadcast."""
        mean = (a + b) / 2
        return ((c - mean).exp() + (-c - mean).exp()) / 2


def geometric_mean(a: Tensor, b: Tensor) -> Tensor:
    """Return sqrt(a b) of shapes that broadcast, with derivative 0 where it is 0."""
    there = (a > 0) & (b > 0)
    return torch.where(there, a * b, torch.ones_like(a * b)).sqrt() * there


def apart(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """Return a b - c^2 of shapes that broadcast, from 0 on where rounding would be below."""
    norm = geometric_mean(a, b)
    return ((norm - c) * (norm + c)).clamp_min(0)


def cosine(c: Tensor, norm: Tensor) -> Tensor:
    """Return c / norm of shapes that broadcast, and 0 where the norm is."""
    there = norm > 0
    return c / torch.where(there, norm, torch.ones_like(norm)) * there
