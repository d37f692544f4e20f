"""Gaussian process regression: posterior mean and variance, and the marginal likelihood.

With the NNGP kernel it is Bayesian inference in an infinitely wide network (Lee et al., "Deep
Neural Networks as Gaussian Processes", ICLR 2018); formulas of Rasmussen & Williams (2006),
equations 2.25, 2.26 and 2.30.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from merkhet.core.errors import InputError
from merkhet.kernels.eigen import Decomposition, as_cross, as_kernel, as_targets, decompose
from merkhet.kernels.ridge import ridge_coefficients


class Posterior(NamedTuple):
    """A Gaussian for each new input, the same variance for all outputs.

    Attributes:
        mean: (m,) or (m, k).
        variance: (m,), of the function without the observations' noise.
    """

    mean: Tensor
    variance: Tensor


@torch.no_grad()
def posterior(
    kernel: Tensor | Decomposition,
    cross: Tensor,
    diagonal: Tensor,
    targets: Tensor,
    noise: float = 0.0,
) -> Posterior:
    """Return the posterior of a Gaussian process of mean zero at new inputs.

    Args:
        kernel: (n, n) over the training inputs, or its decomposition.
        cross: (m, n), new inputs against training inputs (landmarks, if the decomposition has
            them: then the variance is that of deterministic training conditionals).
        diagonal: (m,), new inputs with themselves, as `merkhet.kernels.diagonal` gives it.
        targets: (n,) or (n, k), outputs independent.
        noise: Variance of the observations' noise.

    Raises:
        InputError: Shapes do not fit, numbers are not finite, or the kernel is singular and the
            noise 0.
    """
    basis = decompose(kernel)
    variance = posterior_variance(basis, cross, diagonal, noise)
    mean = as_cross(cross, len(basis.inward)) @ ridge_coefficients(basis, targets, noise)
    return Posterior(mean, variance)


@torch.no_grad()
def posterior_variance(
    kernel: Tensor | Decomposition, cross: Tensor, diagonal: Tensor, noise: float = 0.0
) -> Tensor:
    """Return the posterior's variance (m,), which the targets do not enter; args as `posterior`.

    Args:
        kernel: (n, n), or its decomposition.
        cross: (m, n).
        diagonal: (m,).
        noise: Variance of the observations' noise.

    Raises:
        InputError: As `posterior`.
    """
    basis = decompose(kernel)
    basis.check_ridge(float(noise))
    coordinates = basis.coordinates(cross)
    prior = as_diagonal(diagonal, len(coordinates))
    known = coordinates.square() @ (1 / (basis.values + noise))
    return (prior - known).clamp(min=0)  # a variance of 0 may come out negative by rounding


def log_marginal_likelihood(
    kernel: Tensor | Decomposition, targets: Tensor, noise: Tensor | float
) -> Tensor:
    """Return the log density of the targets, a 0-d tensor: summed over outputs.

    Of a kernel it is computed by Cholesky's factors and is differentiable in kernel and noise, and
    through `gram` in a network's `weight_std` and `bias_std`; of a decomposition it costs one
    product.

    Args:
        kernel: (n, n) over the training inputs, or its decomposition.
        targets: (n,) or (n, k), outputs independent.
        noise: Variance of the observations' noise, a number or a 0-d tensor.

    Raises:
        InputError: Shapes do not fit, numbers are not finite, or kernel + noise is singular.
    """
    if isinstance(kernel, Decomposition):
        return _of_decomposition(kernel, targets, noise)
    given = as_kernel(kernel).double()
    y = as_targets(targets, len(given)).reshape(len(given), -1)
    level = float(torch.as_tensor(noise).detach())
    if not math.isfinite(level) or level < 0:
        raise InputError(f"noise {level:g}: give a finite number from 0 on")
    identity = torch.eye(len(given), dtype=given.dtype, device=given.device)
    factor, failed = torch.linalg.cholesky_ex(given + noise * identity)
    if failed:
        raise InputError(
            f"kernel + {level:g} is not positive definite (equal rows?): give more noise"
        )
    whitened = torch.linalg.solve_triangular(factor, y, upper=False)
    return _log_density(whitened.square().sum(), 2 * factor.diagonal().log().sum(), y)


def as_diagonal(given: Tensor, count: int) -> Tensor:
    """Return the kernel of each new input with itself, (m,), checked, in float64.

    Raises:
        InputError: It has another shape, or a negative or no finite number.
    """
    diagonal = torch.as_tensor(given).double()
    if diagonal.shape != (count,):
        raise InputError(
            f"diagonal has shape {tuple(diagonal.shape)}: give ({count},), as "
            "merkhet.kernels.diagonal(network, new)"
        )
    if not (diagonal.isfinite().all() and (diagonal >= 0).all()):
        raise InputError("diagonal holds a number that is negative or not finite: check the inputs")
    return diagonal


def _of_decomposition(basis: Decomposition, targets: Tensor, noise: Tensor | float) -> Tensor:
    """Return the log density of the targets from a decomposition."""
    basis.check_ridge(float(torch.as_tensor(noise).detach()))
    y = as_targets(targets, len(basis.vectors)).reshape(len(basis.vectors), -1)
    projected, spread = basis.project(y), basis.values + noise
    squares = (projected.square().sum(1) / spread).sum()
    volume = spread.log().sum()
    if not basis.whole:  # the eigenvalues that are not listed are 0
        noise = torch.as_tensor(noise, dtype=y.dtype, device=y.device)
        squares = squares + (y - basis.vectors @ projected).square().sum() / noise
        volume = volume + (len(y) - len(basis.values)) * noise.log()
    return _log_density(squares, volume, y)


def _log_density(squares: Tensor, volume: Tensor, y: Tensor) -> Tensor:
    """Return -1/2 (y^T S^(-1) y + k log det S + n k log 2 pi) for targets (n, k)."""
    return -(squares + y.shape[1] * volume + y.numel() * math.log(2 * math.pi)) / 2
