"""From queries to slots and weights: product keys with their gradients."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from merkhet.memory import plain
from merkhet.memory.paths import path, traced


def retrieve(queries: Tensor, subkeys: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """Return the slots with the k largest scores of each head, and their softmax.

    Scores are in float32 at least, whatever the queries' data type and under autocast too:
    in bfloat16 other slots would win.

    Args:
        queries: (tokens, heads, width), its halves one after the other.
        subkeys: (heads, 2, num_subkeys, width / 2).
        top_k: Slots for each head, at most num_subkeys.

    Returns:
        Slots, int64, and weights that sum to 1, both (tokens, heads, top_k), the best first. The
        weights carry gradients to queries and sub-keys.

    References:
        Lample et al., NeurIPS 2019, arXiv 1907.05242, Sections 3.1 and 3.2.
    """
    dtype = torch.promote_types(torch.promote_types(queries.dtype, subkeys.dtype), torch.float32)
    halves = queries.unflatten(-1, (2, -1)).to(dtype)
    with _without_autocast(queries.device.type):
        keys = subkeys.to(dtype)
        if traced() or path(keys) is plain:
            return plain.select(halves, keys, top_k)
        given = halves.contiguous(), keys.contiguous(), top_k
        indices, weights = _Select.apply(*given)  # type: ignore[no-untyped-call]
    return indices, weights


def _without_autocast(device: str) -> AbstractContextManager[object]:
    """Return a context in which products keep their data type."""
    if torch.amp.is_autocast_available(device):
        return torch.autocast(device, enabled=False)
    return nullcontext()


class _Select(torch.autograd.Function):
    """`cpu.select` with its gradient: only the winners have one."""

    @staticmethod
    def forward(ctx: Any, queries: Tensor, subkeys: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
        from merkhet.memory import cpu

        indices, weights = cpu.select(queries.detach(), subkeys.detach(), top_k)
        ctx.save_for_backward(queries, subkeys, indices, weights)
        ctx.mark_non_differentiable(indices)
        return indices, weights

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, _indices: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        from merkhet.memory import cpu

        queries, subkeys, indices, weights = ctx.saved_tensors
        by_query, by_key = cpu.select_gradients(
            queries.detach(), subkeys.detach(), indices, weights.detach(), gradient
        )
        return by_query, by_key, None
