"""The directions in which a network's output moves most, example by example.

n examples, K outputs.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from merkhet.core.building import as_generator

ROWS = 100  # outputs up to which the Jacobian is taken row by row, which costs no more than rounds
ENTRIES = 2**24  # of Jacobians in memory at once
ROUNDS = 50  # of power iteration beyond

Function = Callable[[Tensor], Tensor]


def top_directions(output: Function, x: Tensor, *, seed: int = 0) -> Tensor:
    """Return the first right singular vector of the Jacobian at each example, of norm 1.

    Args:
        output: Takes (n, *shape) to (n, K), example by example.
        x: (n, *shape).
        seed: Of the vectors that power iteration starts from.

    Returns:
        (n, *shape); 0 where the Jacobian is 0.
    """
    with torch.no_grad():
        outputs = output(x[:1]).shape[1]
    rows = outputs if outputs <= ROWS else 4
    size = max(1, ENTRIES // max(1, rows * x[0].numel()))
    generator = as_generator(seed)
    find = _by_rows if outputs <= ROWS else _by_power
    return torch.cat([find(output, part, generator) for part in x.split(min(size, 64))])


def _by_rows(output: Function, x: Tensor, _generator: torch.Generator) -> Tensor:
    """Return the directions from all K rows: J^T u of the first left singular vector u."""
    jacobian = rows_of(output, x).flatten(2)
    largest = jacobian.abs().amax((1, 2), keepdim=True)  # so that no square overflows
    jacobian = jacobian / torch.where(largest > 0, largest, 1.0)
    vectors = torch.linalg.eigh(jacobian @ jacobian.mT).eigenvectors[:, :, -1]
    return _unit((vectors[:, None] @ jacobian)[:, 0]).view(x.shape)


def rows_of(output: Function, x: Tensor) -> Tensor:
    """Return the Jacobian, (n, K, *shape); 0 where its entries are NaN or infinite."""
    with torch.enable_grad():
        start = x.detach().requires_grad_()
        y = output(start)
        if not y.requires_grad:
            return x.new_zeros(len(x), y.shape[1], *x.shape[1:])
        rows = [
            torch.autograd.grad(
                y[:, k].sum(), start, retain_graph=True, allow_unused=True, materialize_grads=True
            )[0]
            for k in range(y.shape[1])
        ]
    return torch.stack(rows, 1).nan_to_num(0, 0, 0)


def _by_power(output: Function, x: Tensor, generator: torch.Generator) -> Tensor:
    """Return the directions by power iteration on J^T J.

    J^T u is linear in u, and its derivative by u along v is J v: one graph of it serves all rounds.
    """
    with torch.enable_grad():
        start = x.detach().requires_grad_()
        y = output(start)
        if not y.requires_grad:
            return torch.zeros_like(x)
        weight = torch.randn(y.shape, generator=generator, dtype=y.dtype).requires_grad_()
        (back,) = torch.autograd.grad(y, start, weight, create_graph=True, materialize_grads=True)
        direction = _unit(back.detach())
        for _ in range(ROUNDS):
            (forward,) = torch.autograd.grad(
                back, weight, direction, retain_graph=True, materialize_grads=True
            )
            (found,) = torch.autograd.grad(
                y, start, _unit(forward.detach()), retain_graph=True, materialize_grads=True
            )
            direction = _unit(found)
    return direction


def _unit(vectors: Tensor) -> Tensor:
    """Return each example's vector at norm 1, 0 where it is 0."""
    flat = vectors.flatten(1)
    norms = flat.norm(dim=1, keepdim=True)
    found: Tensor = (flat / torch.where(norms > 0, norms, 1.0)).view(vectors.shape)
    return found
