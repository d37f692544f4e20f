"""Sparse gradients of tables: rows ascending, each once."""

from __future__ import annotations

from torch import Tensor


def coalesced(gradient: Tensor) -> Tensor:
    """Return a sparse COO gradient with each place once, in order; without work where it is so.

    torch forgets that a gradient was coalesced when it becomes a parameter's `grad`, and would
    sort and copy it again.

    Args:
        gradient: Sparse COO, with one sparse dimension where the shortcut is to hold.
    """
    if not gradient.is_coalesced() and gradient.sparse_dim() == 1:
        rows = gradient._indices()[0]
        if bool((rows[1:] > rows[:-1]).all()):
            return gradient._coalesced_(True)
    return gradient.coalesce()
