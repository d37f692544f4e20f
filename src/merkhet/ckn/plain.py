"""A layer's kernel values and their pooling in plain torch, as the papers have them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from merkhet.ckn.layer import CKNLayer

Pooled = Callable[["CKNLayer", Tensor, Tensor], Tensor]


def pooled(layer: CKNLayer, products: Tensor, norms: Tensor) -> Tensor:
    """Return |z| k(W z / |z|) of all patches z, pooled: (N, filters, *size').

    Args:
        layer: The layer.
        products: W z, (N, filters, *size).
        norms: |z|, (N, 1, *size).
    """
    return layer.pool(norms * layer.kernel.value(products / norms.where(norms > 0, 1)))


def safe_root(squares: Tensor) -> Tensor:
    """Return square roots of any shape, 0 with derivative 0 where there is nothing but rounding."""
    positive = ~(squares <= 1e6 * torch.finfo(squares.dtype).tiny)  # NaN stays NaN
    return squares.where(positive, 1).sqrt().where(positive, 0)
