"""Pooled kernel values on processors: the same as `plain`, in one sweep over the products.

The loops are compiled by numba where they are first used, and run on the threads that torch has.
Maps have their channels last in memory.

N pictures, F filters, h and w rows and columns; a prime is after pooling.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from merkhet.ckn import loops, plain
from merkhet.core.pooling import gaussian_windows
from merkhet.core.threads import in_parallel

if TYPE_CHECKING:
    from merkhet.ckn.layer import CKNLayer

KINDS = {"exp": loops.EXP, "inverse": loops.INVERSE, "poly": loops.POLY}
Windows = tuple[Any, Any, Any]


def pooled(layer: CKNLayer, products: Tensor, norms: Tensor) -> Tensor:
    """Return pooled kernel values (N, F, h', w'), as `plain.pooled`, with gradients.

    Args:
        layer: The layer.
        products: (N, F, h, w), float32.
        norms: (N, 1, h, w), float32.
    """
    found: Tensor = Pooled.apply(products, norms, layer)  # type: ignore[no-untyped-call]
    return found


class Pooled(torch.autograd.Function):
    """Pooled kernel values, of which nothing is kept but the products and the norms."""

    @staticmethod
    def forward(ctx: Any, products: Tensor, norms: Tensor, layer: CKNLayer) -> Tensor:
        """Return the values (N, F, h', w')."""
        ctx.save_for_backward(products, norms)
        ctx.layer = layer
        last, given = _last(products), _given(layer, products)
        shape = [len(weights) for weights, _, _ in given[1:]]
        out = torch.empty(len(products), *shape, products.shape[1])
        arrays = last.numpy(), norms[:, 0].contiguous().numpy()
        in_parallel(loops.pooled, _each(products), given[0], *arrays, *given[1:], out.numpy())
        return out.movedim(-1, 1)

    @staticmethod
    def backward(ctx: Any, *above: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients by products and norms.

        Where they are to be differentiated themselves, plain torch computes them.
        """
        products, norms = ctx.saved_tensors
        if torch.is_grad_enabled():
            found = plain.pooled(ctx.layer, products, norms)
            inner = torch.autograd.grad(found, (products, norms), above, create_graph=True)
            return (*inner, None)
        last, given = _last(products), _given(ctx.layer, products)
        by_product, by_norm = torch.empty_like(last), torch.empty(len(norms), *norms.shape[2:])
        in_parallel(
            loops.gradients,
            _each(products),
            given[0],
            last.numpy(),
            norms[:, 0].contiguous().numpy(),
            *given[1:],
            _last(above[0]).numpy(),
            by_product.numpy(),
            by_norm.numpy(),
        )
        return by_product.movedim(-1, 1), by_norm[:, None], None


@functools.lru_cache(maxsize=64)
def windows(length: int, scale: int, step: int) -> Windows:
    """Return a side's weights (out, in), and the first and last window of each position, (in,)."""
    none = (scale, step) == (1, 1)
    weights = np.eye(length) if none else gaussian_windows(length, scale, step).numpy()
    inside = weights > 0
    first = inside.argmax(0)
    last = np.where(inside.any(0), len(weights) - inside[::-1].argmax(0), 0)
    return weights.astype(np.float32), first, last


def _given(layer: CKNLayer, products: Tensor) -> tuple[Any, Windows, Windows]:
    """Return what the loops are told: the kernel, and the windows over rows and columns."""
    kernel = KINDS[layer.kernel.kind], np.float32(layer.kernel.sigma**-2)
    down, along = (windows(length, *layer.pooling) for length in products.shape[2:])
    return kernel, down, along


def _each(maps: Tensor) -> list[tuple[int, int]]:
    """Return pictures as parts of one, which threads take in turns."""
    return [(n, n + 1) for n in range(len(maps))]


def _last(maps: Tensor) -> Tensor:
    """Return maps (N, F, h, w) as contiguous (N, h, w, F)."""
    return maps.detach().movedim(1, -1).contiguous()
