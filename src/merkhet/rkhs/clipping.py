"""The nearest matrix whose singular values are at most a bound, in the Frobenius norm."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from merkhet.core.errors import InputError


def clipped(matrix: Tensor, bound: float) -> Tensor | None:
    """Return the nearest matrix with singular values of at most a bound; None if it is itself.

    Whether it is itself is decided by a Cholesky factorisation of bound^2 - M M^T, a fraction of
    the cost of singular values. Otherwise with M M^T = U S^2 U^T, in float64, only the part of
    the singular values above the bound is taken off: M - U (1 - bound / S)_+ U^T M.

    Args:
        matrix: (out, in), float.
        bound: Above 0.

    Returns:
        (out, in) in float64, nearest in the Frobenius norm; or None, where the singular values
        are at most bound (1 + slack), the slack being what rounding to the matrix's dtype does.

    Raises:
        InputError: The matrix is not finite.
    """
    if matrix.shape[0] > matrix.shape[1]:
        turned = clipped(matrix.mT, bound)
        return None if turned is None else turned.mT
    exact, size = matrix.detach().double(), len(matrix)
    gram = exact @ exact.mT
    # Rounding entries by eps / 2 moves singular values by sqrt(size) bound eps / 2 at most.
    slack = math.sqrt(size) * torch.finfo(matrix.dtype).eps + 1e-15 * size
    identity = torch.eye(size, dtype=gram.dtype, device=gram.device)
    _, failed = torch.linalg.cholesky_ex((bound * (1 + slack)) ** 2 * identity - gram)
    if not failed:
        return None
    if not gram.isfinite().all():
        raise InputError("a weight is not finite, or its square is not: lower the learning rate")
    squares, left = torch.linalg.eigh(gram)
    above = squares > bound**2
    left, excess = left[:, above], 1 - bound / squares[above].sqrt()
    nearest: Tensor = exact - (left * excess) @ (left.mT @ exact)
    return nearest
