"""Product keys and the read of values as the paper writes them, for any device and data type.

T tokens, H heads, n sub-keys in each half, k winners of a head, M = H k reads of a token,
N = n n slots, v width of a value.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from merkhet.core.transforms import transforming
from merkhet.memory.rows import Adam, Missed, Moments

CAUGHT_UP_AT_ONCE = 2**14  # rows, for each of which the rates of a few hundred steps are gathered


def select(queries: Tensor, subkeys: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """Return the slots of the k largest inner products of each head, and their softmax.

    The score of slot i n + j is <q1, K1[i]> + <q2, K2[j]>. The k best of all n n are among the
    sums of the k best of each half, and of those among the pairs of ranks (a, b), from 1, with
    a b <= k: a pair is beaten by the a b - 1 others of ranks at most a and b.

    Args:
        queries: (T, H, 2, width of a half).
        subkeys: (H, 2, n, width of a half).
        top_k: k, from 1 to n.

    Returns:
        Slots int64 and weights, both (T, H, k), the best first; of equal scores the one whose
        halves come first.
    """
    scores = torch.einsum("thcd,hcnd->thcn", queries, subkeys)
    best, index = (
        found[..., :top_k] for found in scores.sort(dim=-1, descending=True, stable=True)
    )
    left, right = _ranks(top_k, scores.device)
    sums = best[:, :, 0, left] + best[:, :, 1, right]
    slots = index[:, :, 0, left] * subkeys.shape[2] + index[:, :, 1, right]
    winners, place = (
        found[..., :top_k] for found in sums.sort(dim=-1, descending=True, stable=True)
    )
    return slots.gather(-1, place), winners.softmax(-1)


def read(values: Tensor, indices: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted sum of rows for each token, (T, v), in the weights' data type.

    Args:
        values: (N, v).
        indices: (T, M) int64.
        weights: (T, M).
    """
    if values.dtype == weights.dtype and not transforming():  # embedding_bag has no rules for them
        return F.embedding_bag(indices, values, per_sample_weights=weights, mode="sum")
    picked = F.embedding(indices, values).to(weights.dtype)
    return (weights[..., None] * picked).sum(-2)


def read_gradients(
    values: Tensor, indices: Tensor, weights: Tensor, gradient: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of `read`: by rows, each once, and by weights.

    Args:
        values: (N, v).
        indices: (T, M) int64.
        weights: (T, M).
        gradient: (T, v), of the sums.

    Returns:
        The rows read, (U,), ascending; their gradients, (U, v); and the weights', (T, M).
    """
    rows, hit = indices.flatten().unique(return_inverse=True)
    token = torch.arange(len(indices), device=indices.device).repeat_interleave(indices.shape[1])
    by_row = torch.zeros(len(rows), values.shape[1], dtype=weights.dtype, device=values.device)
    by_row.index_add_(0, hit, weights.flatten()[:, None] * gradient[token])
    picked = values[rows].to(weights.dtype)[hit]
    by_weight = (picked * gradient[token]).sum(1).reshape(weights.shape)
    return rows, by_row.to(values.dtype), by_weight


def _ranks(top_k: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the ranks (a, b), from 0, of the pairs that can be among the k best."""
    pairs = [(a, b) for a in range(top_k) for b in range(top_k // (a + 1))]
    left, right = torch.tensor(pairs, device=device).unbind(1)
    return left, right


def update_rows(
    table: Tensor, moments: Moments, rows: Tensor, gradient: Tensor, adam: Adam
) -> None:
    """Take one step of Adam on some rows, in place.

    Args:
        table: (N, v).
        moments: Of all rows.
        rows: (U,) int64, each once.
        gradient: (U, v).
        adam: The step's numbers.
    """
    wide = moments.second.dtype
    given = gradient.to(wide)
    momentum = moments.momentum[rows].to(wide).lerp(given, 1 - adam.beta1)
    second = moments.second[rows].lerp(given.square().mean(1), 1 - adam.beta2)
    move = adam.rate * momentum / (second.sqrt() + adam.eps)[:, None]
    moments.second[rows] = second
    moments.last[rows] = adam.step
    _store(moments.momentum, rows, momentum, 2 * adam.seed + 1, adam.step)
    _store(table, rows, table[rows].to(wide) - move, 2 * adam.seed, adam.step)


def catch_up_rows(
    table: Tensor, moments: Moments, indices: Tensor | None, adam: Adam, missed: Missed
) -> None:
    """Do to rows the steps that they missed, in place.

    In a step without gradient the momentum m and the second moment s of a row decay and the row
    moves on: after j of them by the sum of rate_j beta1^j m / (beta2^(j/2) sqrt(s) + eps), where
    the factor of m is one number a row.

    Args:
        table: (N, v).
        moments: Of all rows.
        indices: Rows in any shape, or None for all.
        adam: The numbers of the last step.
        missed: The steps that rows may have missed.
    """
    # Rows that a graph holds already are up to date, and do not change: not for its version count.
    table = table.data
    rows = torch.arange(len(table), device=table.device) if indices is None else indices.unique()
    rows = rows[moments.last[rows] < adam.step]
    moved = moments.second[rows] > 0
    moments.last[rows[~moved]] = adam.step  # no gradient ever reached these
    for part in rows[moved].split(CAUGHT_UP_AT_ONCE):
        if len(part):
            _catch_up(table, moments, part, adam, missed)


def _catch_up(table: Tensor, moments: Moments, rows: Tensor, adam: Adam, missed: Missed) -> None:
    """Do to some rows the steps that they missed."""
    wide, last = moments.second.dtype, moments.last[rows].long()
    idle = (adam.step - last).double()
    steps = torch.arange(min(missed.horizon, int(idle.max())), device=table.device)
    places = (last[:, None] - missed.start + steps).clamp(max=len(missed.rates) - 1)
    steps = steps + 1.0
    root = moments.second[rows].double().sqrt()[:, None]
    terms = missed.rates.to(table.device)[places] * adam.beta1 ** steps.double()
    terms /= adam.beta2 ** (steps.double() / 2) * root + adam.eps
    factor = (terms * (steps <= idle[:, None])).sum(1).to(wide)
    momentum = moments.momentum[rows].to(wide)
    moved = table[rows].to(wide) - factor[:, None] * momentum
    momentum *= (adam.beta1**idle).to(wide)[:, None]
    moments.second[rows] *= (adam.beta2**idle).to(wide)
    moments.last[rows] = adam.step
    _store(moments.momentum, rows, momentum, 2 * adam.seed + 1, -adam.step)
    _store(table, rows, moved, 2 * adam.seed, -adam.step)


def _store(table: Tensor, rows: Tensor, values: Tensor, seed: int, step: int) -> None:
    """Write rows; half precision is rounded up or down at random, to the right mean."""
    if table.dtype == values.dtype:
        table[rows] = values
        return
    generator = torch.Generator(table.device).manual_seed(hash((seed, step)) % 2**63)
    near = values.to(table.dtype)
    away = torch.where(near.to(values.dtype) < values, torch.inf, -torch.inf).to(table.dtype)
    other = torch.nextafter(near, away)
    gap = (other.to(values.dtype) - near.to(values.dtype)).abs()
    share = (values - near.to(values.dtype)).abs() / gap
    drawn = torch.rand(values.shape, generator=generator, device=table.device)
    table[rows] = torch.where(drawn < share, other, near)
