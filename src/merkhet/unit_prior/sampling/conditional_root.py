"""Square roots of the covariance of a Gaussian layer's outputs, which may be singular."""

from __future__ import annotations

import torch
from torch import Tensor


def output_root(rows: Tensor, weight_std: float, bias_std: float) -> Tensor:
    """Return L with L L^T = weight_std^2 X X^T + bias_std^2, float64.

    The outputs of a layer at the rows of X are L z, z standard normal, independently for every
    unit. Each row is scaled to 1 first: squares neither overflow nor vanish, and small rows
    beside large ones keep their digits. Rows of zeros give zeros.

    Args:
        rows: X (..., R, in).
        weight_std: Of a weight.
        bias_std: Of a bias.

    Returns:
        (..., R, R), a row of it for each row of X.
    """
    largest = torch.maximum(rows.amax(-1, True), -rows.amin(-1, True)).double()
    x = rows.double() / _or_one(largest)
    scale = _or_one((weight_std * largest).clamp(min=bias_std))
    weight, bias = weight_std * largest / scale, bias_std / scale
    gram = (x @ x.mT) * (weight * weight.mT) + bias * bias.mT
    std = gram.diagonal(dim1=-2, dim2=-1).sqrt()[..., None]
    correlation = gram / (_or_one(std) * _or_one(std).mT)
    return correlation_root(correlation) * (std * scale)


def correlation_root(gram: Tensor) -> Tensor:
    """Return L (..., R, R) with L L^T = positive semidefinite matrices of diagonals 1 or 0.

    By Cholesky's algorithm with the largest diagonal entry as pivot, which stops where what is
    left is rounding: L L^T is within a small multiple of R eps of the matrix (Higham, Accuracy and
    Stability of Numerical Algorithms, on semidefinite matrices). Rows are in the order given, so
    L is not triangular. Nothing is written in place, so that `torch.vmap` takes it.

    Args:
        gram: (..., R, R), float64.
    """
    size = gram.shape[-1]
    if size == 1:
        return gram.sqrt()
    floor = size * torch.finfo(gram.dtype).eps
    places = torch.arange(size, device=gram.device)
    columns, left = [], gram
    for _ in range(size):
        pivot, place = left.diagonal(dim1=-2, dim2=-1).max(-1, keepdim=True)
        inverse = torch.where(pivot > floor, pivot, torch.inf).rsqrt()
        column = (left * (places == place)[..., None, :]).sum(-1) * inverse
        columns.append(column)
        left = left - column[..., :, None] * column[..., None, :]
    return torch.stack(columns, -1)


def _or_one(values: Tensor) -> Tensor:
    """Return values, and 1 where they are 0."""
    return torch.where(values > 0, values, torch.ones_like(values))
