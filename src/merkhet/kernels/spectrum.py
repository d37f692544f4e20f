"""The Mercer spectrum of a dense network's kernel on the sphere, and how fast it decays.

For inputs on the unit sphere S^(p-1) the kernel of a dense network depends on their cosine u alone:
k(u) = sum_k mu_k N(p, k) P_k(u), and mu_k is the eigenvalue, under the uniform distribution, of
each of the N(p, k) spherical harmonics of degree k.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from merkhet.core.errors import InputError, choose
from merkhet.kernels.activations import LeakyReLU, ReLU
from merkhet.kernels.convolution import Conv2d
from merkhet.kernels.inputs import check_request
from merkhet.kernels.layers import Layer
from merkhet.kernels.pooling import Pooling
from merkhet.kernels.sphere import multiplicities, project, sphere_rule
from merkhet.kernels.state import State

# Rounding leaves up to 26 units of E[|k P_k|] in degrees up to 1,000 (seen against closed forms).
ROUNDING = 32 * torch.finfo(torch.float64).eps
SHARP = 0.01  # relative error up to which an eigenvalue counts in a fit


@dataclass(frozen=True)
class Decay:
    """Exponents a of mu_k ~ k^a in a window of degrees, even and odd ones apart.

    Attributes:
        even: Of even degrees; None where fewer than three of them are known well enough.
        odd: Of odd degrees, likewise.
        theory: What theory says of large degrees; None where it names no power, as of analytic
            kernels, which fall faster than any.
        window: The lowest and the highest degree.
    """

    even: float | None
    odd: float | None
    theory: float | None
    window: tuple[int, int]


@dataclass(frozen=True)
class Spectrum:
    """Mercer eigenvalues of a zonal kernel; the table is in `str()`.

    Attributes:
        dim: Dimension p of the space.
        eigenvalues: mu_k for degrees 0, 1, ..., (degrees + 1,), float64, as computed.
        errors: An estimate of the error of each: two quadrature orders compared, and rounding.
        multiplicities: N(p, k), (degrees + 1,).
        at_one: k(1), which the sum of all mu_k N(p, k) is.
        theory: The exponent of the decay for large degrees; None where theory names no power.
    """

    dim: int
    eigenvalues: Tensor
    errors: Tensor
    multiplicities: Tensor
    at_one: float
    theory: float | None

    @property
    def degrees(self) -> Tensor:
        """The degrees 0, 1, ..., (degrees + 1,)."""
        return torch.arange(len(self.eigenvalues))

    @property
    def resolved(self) -> Tensor:
        """Which eigenvalues are above their error, (degrees + 1,); the others may be 0."""
        return self.eigenvalues > self.errors

    @property
    def tail(self) -> float:
        """What the sum of mu_k N(p, k) lacks to k(1): the share of all higher degrees."""
        return self.at_one - float((self.eigenvalues * self.multiplicities)[self.resolved].sum())

    def decay(self, window: tuple[int, int] | None = None) -> Decay:
        """Return the exponents in a window of degrees, by least squares on logarithms.

        A degree counts as k + (p - 2) / 2, the middle of the Gamma functions' arguments: the
        exponent then differs from its limit by terms of order 1 / k^2, not 1 / k.

        Args:
            window: Lowest and highest degree; by default the upper half of the degrees whose
                eigenvalue is known to 1 %.

        Raises:
            InputError: The window holds no such degrees.
        """
        sharp = self.resolved & (self.errors <= SHARP * self.eigenvalues)
        if window is None:
            last = int(sharp.nonzero().max()) if sharp.any() else 0
            window = (max(1, (last + 1) // 2), last)
        low, high = window
        inside = sharp & (self.degrees >= low) & (self.degrees <= high)
        if low < 1 or not inside.any():
            raise InputError(
                f"window = {low}..{high}: give degrees from 1 on with eigenvalues known to 1 %"
            )
        even, odd = (self._slope(inside & (self.degrees % 2 == parity)) for parity in (0, 1))
        return Decay(even, odd, self.theory, (low, high))

    def _slope(self, chosen: Tensor) -> float | None:
        """Return the slope of log mu over log degree, of at least three degrees."""
        if chosen.sum() < 3:
            return None
        x = (self.degrees[chosen] + (self.dim - 2) / 2).log()
        y = self.eigenvalues[chosen].log()
        x = x - x.mean()
        return float((x * y).sum() / x.square().sum())

    def __str__(self) -> str:
        head = f"{'k':>5} {'N(p, k)':>12} {'mu_k':>14} {'error':>9}"
        columns = (self.multiplicities, self.eigenvalues, self.errors, self.resolved)
        rows = zip(*(column.tolist() for column in columns), strict=True)
        lines = [
            f"{k:>5} {count:>12.6g} {f'{value:.6e}' if sure else 'below error':>14} {error:>9.1e}"
            for k, (count, value, error, sure) in enumerate(rows)
        ]
        sums = f"k(1) = {self.at_one:.10g}, of which higher degrees {self.tail:.3g}"
        return "\n".join([head, *lines, sums])


@torch.no_grad()
def spectrum(
    network: Layer, dim: int, kind: str = "ntk", *, degrees: int = 60, scale: str = "gram"
) -> Spectrum:
    """Return the Mercer eigenvalues of a dense network's kernel on the unit sphere.

    Quadrature in the angle, in which kernels of ReLU networks are analytic up to both ends. With
    biases or more than one hidden layer, too; of one hidden layer of ReLU without biases
    `arc_cosine_eigenvalues` knows them in closed form. ReLU networks of any depth decay like
    k^-p (NTK) and k^-(p+2) (NNGP): Bietti & Bach, ICLR 2021; smooth ones faster than any power.

    Args:
        network: Linear layers, activations, Sequential, Residual and Sum.
        dim: Dimension p of the inputs, from 2 on.
        kind: "ntk" or "nngp".
        degrees: The highest degree.
        scale: "gram": of the kernel as `gram` gives it for inputs of length 1, whose inner
            products are divided by p. "paper": of the papers' kernel, whose inner products are
            not divided: inputs of length sqrt(p). Their first layer has weight_std=1 and no biases;
            then ReLU networks have eigenvalues p times those of "gram".

    Raises:
        InputError: The kernel is not zonal, or no such kind, dimension, degree or scale.
    """
    choose("kind of kernel", kind, ("nngp", "ntk"))
    choose("scale", scale, ("gram", "paper"))
    check_request(network, kind, torch.float64)
    _check_zonal(network)
    counts = multiplicities(dim, degrees)
    length = 1.0 if scale == "paper" else 1 / dim
    panels = 8 + math.ceil((degrees + math.sqrt(dim)) / 4)
    coarse, fine = (
        _projected(network, dim, kind, degrees, length, count) for count in (panels, 2 * panels)
    )
    errors = (fine[0] - coarse[0]).abs() + ROUNDING * fine[1]
    at_one = float(_zonal(network, kind, torch.ones(1, dtype=torch.float64), length))
    theory = (-dim if kind == "ntk" else -dim - 2) if _has_kink(network) else None
    return Spectrum(dim, fine[0], errors, counts, at_one, theory)


def _projected(
    network: Layer, dim: int, kind: str, degrees: int, length: float, panels: int
) -> Tensor:
    """Return E[k P_k] and E[|k P_k|], (2, degrees + 1), by one quadrature rule."""
    u, weights = sphere_rule(dim, panels)
    return project(_zonal(network, kind, u, length), u, weights, dim, degrees)


def _zonal(network: Layer, kind: str, u: Tensor, length: float) -> Tensor:
    """Return the kernel of inputs with cosines u and squared length `length`, (cosines,).

    Rounding of u near 1 moves k0 by 1e-16 / theta; under the weight sin(theta)^(p-2) that stays at
    1e-16 of the kernel, in dimension 2 times the logarithm of the number of nodes.
    """
    device = next((number.device for number in network.numbers()), u.device)
    cross = (length * u).to(device)
    own = torch.full_like(cross, length)
    state = network(State(cross, own, own, torch.zeros_like(cross), 0))
    found = state.tangent if kind == "ntk" else state.cross
    assert found is not None
    if not found.isfinite().all():
        raise InputError("the kernel overflows: give smaller weight_std, or fewer layers")
    return found.cpu()


def _has_kink(network: Layer) -> bool:
    """Tell whether an activation has a kink, which alone makes a kernel other than analytic."""
    return any(
        isinstance(layer, ReLU)
        or (isinstance(layer, LeakyReLU) and float(layer.negative_slope) != 1)
        for layer in network.layers()
    )


def _check_zonal(network: Layer) -> None:
    """Refuse networks whose kernel depends on more than the cosine.

    Raises:
        InputError: Names the layer.
    """
    for layer in network.layers():
        if isinstance(layer, Conv2d | Pooling):
            raise InputError(
                f"{layer!r}: the kernel of a convolutional network is no function of the cosine "
                "alone; give Linear layers, or take the eigenvalues of gram(network, x)"
            )
