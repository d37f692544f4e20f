"""Wide networks trained by gradient flow: the mean of the ensemble, and its variance.

An infinitely wide network under gradient flow on |f - y|^2 / 2 stays linear in its weights (Jacot
et al., NeurIPS 2018). With T the tangent kernel and K the NNGP kernel, at time t

    f_t(x) = f_0(x) + A (y - f_0(X)),   A = T(x, X) T^(-1) (1 - exp(-rate t T)),

f_0 is Gaussian with covariance K, and so is f_t (Lee et al., NeurIPS 2019, Section 2.3.2): its mean
is A y, its covariance K(x, x') - A K(X, x') - K(x, X) A'^T + A K A'^T.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from merkhet.core.errors import InputError
from merkhet.kernels.eigen import Decomposition, as_cross, as_kernel, as_targets, decompose
from merkhet.kernels.gaussian_process import Posterior, as_diagonal
from merkhet.kernels.gram import Kernels


@torch.no_grad()
def gradient_flow(
    kernel: Tensor | Decomposition,
    cross: Tensor,
    targets: Tensor,
    time: float = math.inf,
    learning_rate: float = 1.0,
) -> Tensor:
    """Return the predictions at new inputs after kernel gradient flow from 0.

    They are the mean over networks. For a single one of known outputs before training, give
    `targets - f_0(X)` and add f_0(x) to the answer.

    Args:
        kernel: (n, n) tangent kernel over the training inputs, or its decomposition.
        cross: (m, n), new inputs against training inputs.
        targets: (n,) or (n, k).
        time: From 0 on. At `math.inf` the targets are interpolated; what lies in the null space of
            a singular kernel never moves, which leaves the fit of least norm.
        learning_rate: It multiplies the time; the loss is half the sum of squares. For the mean of
            squares divide it by half the number of targets.

    Returns:
        (m,) or (m, k), float64.

    Raises:
        InputError: Shapes do not fit, numbers are not finite, or the time is negative.
    """
    basis = decompose(kernel)
    coefficients = flow_coefficients(basis, targets, time, learning_rate)
    return as_cross(cross, len(basis.inward)) @ coefficients


@torch.no_grad()
def flow_coefficients(
    kernel: Tensor | Decomposition,
    targets: Tensor,
    time: float = math.inf,
    learning_rate: float = 1.0,
) -> Tensor:
    """Return what the kernels of new inputs are multiplied by, (c,) or (c, k), float64.

    Args:
        kernel: (n, n) tangent kernel over the training inputs, or its decomposition.
        targets: (n,) or (n, k).
        time: From 0 on; `math.inf` interpolates.
        learning_rate: It multiplies the time.

    Raises:
        InputError: As `gradient_flow`.
    """
    basis = decompose(kernel)
    y = as_targets(targets, len(basis.vectors))
    learned = _learned(basis, time, learning_rate)
    scaled = learned[:, None] * basis.project(y.reshape(len(y), -1))
    return (basis.inward @ scaled).reshape(-1, *y.shape[1:])


@torch.no_grad()
def gradient_flow_ensemble(
    train: Kernels,
    cross: Kernels,
    diagonal: Tensor,
    targets: Tensor,
    time: float = math.inf,
    learning_rate: float = 1.0,
) -> Posterior:
    """Return the Gaussian of trained networks' outputs over their initialisations.

    Args:
        train: Both kernels (n, n) over the training inputs, `gram(network, x, kind="both")`.
        cross: Both kernels (m, n), new inputs against training inputs.
        diagonal: (m,), NNGP of new inputs with themselves, `diagonal(network, new, "nngp")`.
        targets: (n,) or (n, k).
        time: From 0 on; at 0 it is the prior.
        learning_rate: It multiplies the time.

    Raises:
        InputError: Shapes do not fit, numbers are not finite, or the time is negative.
    """
    for name, given in (("train", train), ("cross", cross)):
        if not isinstance(given, Kernels):
            raise InputError(f'{name} is {type(given).__name__}: give gram(..., kind="both")')
    basis = decompose(train.ntk)
    mean = gradient_flow(basis, cross.ntk, targets, time, learning_rate)
    prior, between = as_kernel(train.nngp).double(), as_cross(cross.nngp, len(basis.vectors))
    if len(prior) != len(basis.vectors) or len(between) != len(mean):
        raise InputError("nngp and ntk are of different inputs: give both of one call of gram")
    step = _learned(basis, time, learning_rate)
    moved = (basis.coordinates(cross.ntk) * step) @ basis.vectors.mT
    change = (moved @ prior - 2 * between) * moved
    variance = as_diagonal(diagonal, len(mean)) + change.sum(1)
    return Posterior(mean, variance.clamp(min=0))  # negative by rounding only


def _learned(basis: Decomposition, time: float, learning_rate: float) -> Tensor:
    """Return (1 - exp(-rate t s)) / s, (r,), of the eigenvalues s; 0 where they are rounding."""
    if math.isnan(time) or time < 0:
        raise InputError(f"time {time:g}: give a number from 0 on, or math.inf")
    if not math.isfinite(learning_rate) or learning_rate <= 0:
        raise InputError(f"learning_rate {learning_rate:g}: give a finite number above 0")
    there = basis.values > basis.rounding
    values = torch.where(there, basis.values, torch.ones_like(basis.values))
    return -torch.expm1(-learning_rate * time * values) / values * there
