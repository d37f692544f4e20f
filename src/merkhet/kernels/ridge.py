"""Kernel ridge regression: a path of ridges and its leave-one-out errors, in closed form.

With K = V diag(s) V^T every ridge costs two products with V: one eigendecomposition serves all.
Leaving an input out moves its prediction by y_i - f_(-i)(x_i) = a_i / G_ii, where
G = (K + ridge)^(-1) and a = G y (Rifkin & Lippert, "Notes on Regularized Least Squares", 2007).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from merkhet.core.errors import InputError
from merkhet.kernels.eigen import Decomposition, as_ridges, as_targets, decompose

RELATIVE_RIDGES = tuple(10.0 ** (half / 2) for half in range(-12, 5))  # of the mean eigenvalue


class LeaveOneOut(NamedTuple):
    """What each training input is predicted as by all the others.

    Attributes:
        ridges: (R,), as given.
        predictions: (R, n) or (R, n, k), of the ridges.
        errors: (R,), the mean squared error of each ridge over inputs and outputs.
    """

    ridges: Tensor
    predictions: Tensor
    errors: Tensor

    @property
    def best(self) -> int:
        """The place of the ridge of least error; of equal ones the largest."""
        least = (self.errors == self.errors.min()).nonzero().flatten()
        return int(least[self.ridges[least].argmax()])


@torch.no_grad()
def leave_one_out(
    kernel: Tensor | Decomposition, targets: Tensor, ridges: Iterable[float] | float
) -> LeaveOneOut:
    """Return the leave-one-out predictions of kernel ridge regression, for a path of ridges.

    Args:
        kernel: (n, n) over the training inputs, or its decomposition.
        targets: (n,) or (n, k).
        ridges: Numbers from 0 on, that are added to the kernel's diagonal.

    Raises:
        InputError: Kernel, targets or ridges do not fit, or the kernel is singular at ridge 0.
    """
    basis = decompose(kernel)
    y = as_targets(targets, len(basis.vectors))
    path = as_ridges(ridges)
    for ridge in path:
        basis.check_ridge(ridge)
    added = torch.tensor(path, dtype=y.dtype, device=y.device)
    moved = _moved(basis, y.reshape(len(y), -1), added)
    predictions = (y.reshape(len(y), -1) - moved).reshape(len(path), *y.shape)
    return LeaveOneOut(added, predictions, moved.square().mean((1, 2)))


@torch.no_grad()
def ridge_coefficients(
    kernel: Tensor | Decomposition, targets: Tensor, ridge: float = 0.0
) -> Tensor:
    """Return what the kernels of new inputs are multiplied by: prediction = cross @ coefficients.

    Args:
        kernel: (n, n) over the training inputs, or its decomposition.
        targets: (n,) or (n, k).
        ridge: A number from 0 on: (K + ridge)^(-1) y.

    Returns:
        (c,) or (c, k): one for each training input, or for each landmark.

    Raises:
        InputError: Kernel, targets or ridge do not fit, or the kernel is singular at ridge 0.
    """
    basis = decompose(kernel)
    y = as_targets(targets, len(basis.vectors))
    basis.check_ridge(float(ridge))
    scaled = basis.project(y.reshape(len(y), -1)) / (basis.values + ridge)[:, None]
    return (basis.inward @ scaled).reshape(-1, *y.shape[1:])


def default_ridges(kernel: Tensor | Decomposition) -> list[float]:
    """Return 17 ridges, from 1e-6 to 100 times the mean eigenvalue, in steps of sqrt(10).

    Args:
        kernel: (n, n) over the training inputs, or its decomposition.

    Raises:
        InputError: The kernel does not fit, or is 0 everywhere.
    """
    basis = decompose(kernel)
    mean = float(basis.values.sum()) / len(basis.vectors)
    if mean == 0:
        raise InputError("the kernel is 0 everywhere: give inputs other than 0, or a bias_std")
    return [mean * relative for relative in RELATIVE_RIDGES]


def _moved(basis: Decomposition, targets: Tensor, ridges: Tensor) -> Tensor:
    """Return how far from its target (R, n, k) each left-out input is predicted."""
    inverse = 1 / (basis.values + ridges[:, None])
    projected, squared = basis.project(targets), basis.vectors.square()
    dual = basis.vectors @ (inverse[:, :, None] * projected)
    own = inverse @ squared.mT
    if not basis.whole:  # the eigenvalues that are not listed are 0
        dual = dual + (targets - basis.vectors @ projected) / ridges[:, None, None]
        own = own + (1 - squared.sum(1)).clamp(min=0) / ridges[:, None]
    return dual / own[:, :, None]
