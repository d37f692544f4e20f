"""Product keys and the read of values on processors: the same as `plain`, several times faster.

The loops are compiled by numba where they are first used, and run on the threads that torch has.
Values are float32, or bfloat16 as their bits (numba has no such type); sums are float32.

T tokens, H heads, n sub-keys in each half, k winners of a head, M = H k reads of a token,
N = n n slots, v width of a value, U rows that were read.
"""

from __future__ import annotations

import sys
import threading
from typing import Any

import numpy as np
import torch
from torch import Tensor

from merkhet.core.threads import in_parallel, pieces
from merkhet.memory import kernels, plain
from merkhet.memory.rows import Adam, Missed, Moments

FLOATS: dict[str, Any] = {"dtype": torch.float32, "device": "cpu"}  # whatever the defaults are
BLOCK = 64  # tokens whose scores are computed and searched together
_spare: dict[tuple[int, bool], np.ndarray] = {}  # memory for gradients, by width and type
_guard = threading.Lock()
PIECES = 16  # of the hits in a backward pass: fixed, so that sums do not depend on the threads


def select(queries: Tensor, subkeys: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """Return slots and weights, as `plain.select`."""
    if not bool(subkeys.sum().isfinite()):
        return plain.select(queries, subkeys, top_k)  # compiled comparisons would not see NaN
    tokens, heads = queries.shape[:2]
    indices = torch.empty(tokens, heads, top_k, dtype=torch.int64, device="cpu")
    weights = torch.empty(tokens, heads, top_k, **FLOATS)

    def select_block(low: int, high: int) -> None:
        """Select for some tokens, on one thread: their scores stay in its cache."""
        scores = _scores(queries[low:high], subkeys).numpy()
        kernels.select(0, high - low, scores, indices[low:high].numpy(), weights[low:high].numpy())

    blocks = [(low, min(low + BLOCK, tokens)) for low in range(0, tokens, BLOCK)]
    in_parallel(select_block, blocks)
    return indices, weights


def select_gradients(
    queries: Tensor, subkeys: Tensor, indices: Tensor, weights: Tensor, gradient: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the gradients of `select` by queries and sub-keys, given the weights'."""
    scores = weights * (gradient - (gradient * weights).sum(-1, keepdim=True))
    tokens, heads = queries.shape[:2]
    by_query, by_key = torch.zeros_like(queries), torch.zeros_like(subkeys)
    ids, ds = indices.numpy(), scores.contiguous().numpy()
    given = ids, ds, subkeys.numpy(), by_query.numpy()
    in_parallel(kernels.query_gradient, pieces(tokens), *given)
    given = ids, ds, queries.numpy(), by_key.numpy()
    in_parallel(kernels.key_gradient, [(part, part + 1) for part in range(2 * heads)], *given)
    return by_query, by_key


def read(values: Tensor, indices: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted sums, as `plain.read`."""
    sums = torch.empty(len(indices), values.shape[1], **FLOATS)
    given = bits(values), indices.numpy(), weights.numpy(), sums.numpy()
    in_parallel(kernels.read, pieces(len(indices)), *given)
    return sums


def read_gradients(
    values: Tensor, indices: Tensor, weights: Tensor, gradient: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of `read`, as `plain.read_gradients`."""
    hits = indices.numel()
    ordered, order = indices.flatten().sort(stable=True)
    starts = torch.empty(hits + 1, dtype=torch.int64, device="cpu")
    count = kernels.find_rows(ordered.numpy(), starts.numpy())
    starts = starts[: count + 1]
    by_row = empty_rows(count, values)
    by_weight = torch.empty_like(weights)
    cuts = np.linspace(0, hits, PIECES + 1).astype(np.int64)
    partial = np.zeros((PIECES, 2, values.shape[1]), np.float32)
    in_parallel(
        kernels.read_gradients,
        [(piece, piece + 1) for piece in range(PIECES)],
        *(cuts, bits(values), ordered.numpy(), order.numpy(), starts.numpy()),
        *(weights.numpy(), gradient.numpy(), bits(by_row), partial, by_weight.numpy()),
    )
    kernels.join(cuts, starts.numpy(), partial, bits(by_row))
    return ordered[starts[:-1]], by_row, by_weight


def update_rows(
    table: Tensor, moments: Moments, rows: Tensor, gradient: Tensor, adam: Adam
) -> None:
    """Take one step of Adam on some rows, as `plain.update_rows`."""
    given = rows.numpy(), bits(gradient), *_arrays(table, moments)
    settings = np.array([adam.rate, adam.beta1, adam.beta2, adam.eps])
    in_parallel(kernels.update_rows, pieces(len(rows)), *given, settings, adam.step, adam.seed)


def catch_up_rows(
    table: Tensor, moments: Moments, indices: Tensor | None, adam: Adam, missed: Missed
) -> None:
    """Do to rows the steps that they missed, as `plain.catch_up_rows`."""
    rows = torch.arange(len(table), device="cpu") if indices is None else indices.flatten()
    settings = np.array([adam.beta1, adam.beta2, adam.eps])
    given = rows.numpy(), *_arrays(table, moments), settings, adam.step, adam.seed
    late = missed.rates.numpy(), missed.start, missed.horizon
    # Each thread looks at all indices and takes the rows of its own: repeated ones do no harm.
    threads = torch.get_num_threads()
    own = [(thread, threads) for thread in range(threads)]
    in_parallel(kernels.catch_up_rows, own, *given, *late)


def _arrays(table: Tensor, moments: Moments) -> tuple[np.ndarray, ...]:
    """Return a table and its moments as the kernels take them."""
    return bits(table), bits(moments.momentum), moments.second.numpy(), moments.last.numpy()


def bits(values: Tensor) -> np.ndarray:
    """Return a tensor's memory as the kernels take it: float32, or the bits of bfloat16."""
    if values.dtype == torch.bfloat16:
        return values.detach().view(torch.uint16).numpy()
    return values.detach().numpy()


def empty_rows(count: int, like: Tensor) -> Tensor:
    """Return (count, v) of a table's data type, in memory that earlier steps have used.

    A gradient of some hundred megabytes would cost as much in fresh pages as in arithmetic. The
    memory is kept from step to step, and given again when no tensor is on it any more.
    """
    bits16 = like.dtype == torch.bfloat16
    key = like.shape[1], bits16
    with _guard:
        held = _spare.pop(key, None)
        # Referred to here and by the call below, and by every tensor that is still on it.
        if held is None or len(held) < count or sys.getrefcount(held) > 2:
            room = count + count // 16  # the next step may read a few more
            held = np.empty((room, like.shape[1]), np.uint16 if bits16 else np.float32)
        rows = torch.from_numpy(held[:count])
        _spare[key] = held
    return rows.view(torch.bfloat16) if bits16 else rows


def _scores(queries: Tensor, subkeys: Tensor) -> Tensor:
    """Return the inner products of both halves, (H, 2, T, n) contiguous."""
    heads, halves, keys, width = subkeys.shape
    tokens = len(queries)
    left = queries.reshape(tokens, heads * halves, width).transpose(0, 1)
    right = subkeys.reshape(heads * halves, keys, width).transpose(1, 2)
    return torch.bmm(left, right).view(heads, halves, tokens, keys)
