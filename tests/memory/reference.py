"""The paper's slow forms: every key scored, every gradient dense, every row updated."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def brute_force(queries: Tensor, subkeys: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """Return scores and slots of the k best of all n * n keys, (tokens, heads, k).

    Args:
        queries: (tokens, heads, 2, width).
        subkeys: (heads, 2, n, width).
        top_k: k.
    """
    left, right = torch.einsum("thcd,hcnd->cthn", queries, subkeys)
    every = (left[..., :, None] + right[..., None, :]).flatten(-2)
    scores, slots = every.sort(dim=-1, descending=True, stable=True)
    return scores[..., :top_k], slots[..., :top_k]


def dense_read(values: Tensor, indices: Tensor, weights: Tensor) -> Tensor:
    """Return weighted sums by a matrix over all slots, (tokens, width)."""
    matrix = torch.zeros(len(indices), len(values), dtype=weights.dtype)
    matrix = matrix.scatter_add(1, indices, weights)
    return matrix @ values


class DenseRowwiseAdam:
    """Row-wise Adam that decays and moves every row in every step, in float64."""

    def __init__(self, table: Tensor, betas: tuple[float, float], eps: float) -> None:
        self.table, self.betas, self.eps = table.double().clone(), betas, eps
        self.momentum = torch.zeros_like(self.table)
        self.second = torch.zeros(len(table), dtype=torch.float64)
        self.steps = 0

    def step(self, gradient: Tensor, lr: float) -> None:
        """Take one step with a dense gradient."""
        beta1, beta2 = self.betas
        self.steps += 1
        self.momentum = beta1 * self.momentum + (1 - beta1) * gradient
        self.second = beta2 * self.second + (1 - beta2) * gradient.square().mean(1)
        rate = lr * math.sqrt(1 - beta2**self.steps) / (1 - beta1**self.steps)
        self.table -= rate * self.momentum / (self.second.sqrt() + self.eps)[:, None]
