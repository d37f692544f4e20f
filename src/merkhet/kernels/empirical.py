"""Tangent kernels of networks as they are: Jacobians contracted, or products without them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from merkhet.core.available import refuse_too_large
from merkhet.core.errors import InputError, choose
from merkhet.kernels.jacobians import Linearised, Tensors, linearised

BYTES = 2**28  # of a block of the Jacobian; two of them are alive at once
TERMS = 2**13  # in one sum: float32 loses 1e-4 over a million of them, and 1e-6 in pieces
BATCH = 64  # inputs in one pass of a product with a vector


def empirical_ntk(
    module: nn.Module,
    x: Tensor,
    y: Tensor | None = None,
    *,
    outputs: Literal["trace", "full"] | Tensor = "trace",
    method: Literal["jacobian", "products"] = "jacobian",
    parameters: Iterable[str] | None = None,
    chunks: tuple[int, int] | None = None,
    vectorize: bool = True,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Return the tangent kernel of a network at its parameters, J(x) J(y)^T.

    The network is in evaluation mode meanwhile (dropout does nothing, batch norm takes its running
    statistics) and is left as found. Its outputs are those of `core.outputs.main_tensor`, as one
    vector of o numbers for each input.

    Args:
        module: Any network from a batch of inputs to a batch of outputs.
        x: (n, ...), floats or tokens, as the network takes them.
        y: (m, ...); by default `x`, with half of the work and exact symmetry.
        outputs: "full" gives the kernel between all outputs. "trace" gives the mean over outputs
            of each one's kernel with itself, 1/o of the trace, as neural-tangents does by default.
            A tensor (k, o) gives the mean over its rows r of r^T K r.
        method: "jacobian" contracts Jacobians; "products" pulls each output of each y back to the
            parameters and pushes it forward through x, which takes less where o is large.
        parameters: Names of the parameters to differentiate in, or of modules for all inside; by
            default those that require a gradient.
        chunks: Inputs and outputs whose rows of the Jacobian are held at once; by default what
            256 MB hold. Jacobians that do not fit are computed again as they are needed.
        vectorize: Whether `torch.func.vmap` takes many inputs at once. What it cannot take
            (control flow by value, compiled loops) raises an error; with False inputs and outputs
            go one after another, by plain automatic differentiation with "jacobian".
        dtype: In which rows are contracted and summed, and of the answer; by default that of the
            outputs, float32 at least.

    Returns:
        (n, m), or (n, m, o, o) for "full".

    Raises:
        InputError: Inputs, parameters or options do not fit; the network does not differentiate.

    References:
        Jacot et al., NeurIPS 2018, arXiv 1806.07572, equation 4; Novak et al., ICML 2022, arXiv
        2206.08720, for both methods.
    """
    choose("method", method, ("jacobian", "products"))
    with linearised(module, parameters, vectorize=vectorize) as network:
        example = network.example("x", x)
        if y is not None and network.example("y", y).shape != example.shape:
            raise InputError("the network gives outputs of other sizes for x and y: give one kind")
        directions = _directions(outputs, example)
        full = isinstance(outputs, str) and outputs == "full"
        inputs, parts = chunks or _chunks(len(x), len(directions), network.bytes_of_row, full)
        if min(inputs, parts) < 1:
            raise InputError(f"chunks = {chunks}: give two whole numbers from 1 on")
        dtype = dtype or torch.promote_types(example.dtype, torch.float32)
        work = _Work(network, directions, full, method == "products", inputs, parts, dtype)
        return work.kernel(x, y)


def ntk_vector_product(
    module: nn.Module,
    x: Tensor,
    v: Tensor,
    y: Tensor | None = None,
    *,
    parameters: Iterable[str] | None = None,
    chunk: int = BATCH,
) -> Tensor:
    """Return the full tangent kernel times a vector, sum over j and b of K[i, j, a, b] v[j, b].

    One pass back through y and one forward through x; no kernel and no Jacobian is formed, as
    iterative solvers want it. Inputs go through in batches, not by vmap.

    Args:
        module: As in `empirical_ntk`.
        x: (n, ...).
        v: (m, o), or (m, ...) in the shape of the network's outputs for y.
        y: (m, ...); by default `x`.
        parameters: As in `empirical_ntk`.
        chunk: Inputs in one pass.

    Returns:
        (n, o), or (n, ...) in the shape of v, in the outputs' type.

    Raises:
        InputError: As in `empirical_ntk`, or v does not fit.
    """
    y = x if y is None else y
    with linearised(module, parameters) as network:
        example = network.example("x", x)
        size = network.example("y", y).shape[1]
        if v.dim() == 0 or v.shape[0] != len(y) or v.numel() != len(y) * size:
            raise InputError(f"v has shape {tuple(v.shape)}: give ({len(y)}, {size})")
        weights = v.detach().reshape(len(y), size).to(example)
        pulled: Tensors = {}
        for part, given in zip(y.split(chunk), weights.split(chunk), strict=True):
            for name, more in network.pull(part, given).items():
                pulled[name] = pulled[name] + more if name in pulled else more
        tangents = {name: value[None] for name, value in pulled.items()}
        found = torch.cat([network.push(part, tangents)[0] for part in x.split(chunk)])
    return found.reshape(len(x), *v.shape[1:]) if found.shape[1] == size else found


@dataclass
class _Work:
    """One kernel to be computed, block by block."""

    network: Linearised
    directions: Tensor
    full: bool
    products: bool
    inputs: int
    parts: int
    dtype: torch.dtype

    def kernel(self, x: Tensor, y: Tensor | None) -> Tensor:
        """Return the kernel between all x and all y."""
        symmetric = y is None
        y = x if y is None else y
        count = len(self.directions) if self.full else 1
        _refuse_large((len(x), len(y), count), self.dtype)
        shape, where = (len(x), count, len(y), count), self.directions.device
        total = torch.zeros(shape, dtype=self.dtype, device=where)
        for columns, part in self._blocks(y):
            right = self.network.rows(y[columns], self.directions[part])
            for rows in _slices(len(x), self.inputs):
                if not (symmetric and rows.start > columns.start):
                    same = symmetric and rows == columns
                    self._fill(total, (rows, columns), part, x, right, same=same)
        if symmetric:
            total = _mirrored(total)
        if self.full:
            return total.movedim(2, 1)
        return total[:, 0, :, 0] / len(self.directions)

    def _blocks(self, y: Tensor) -> Iterator[tuple[slice, slice]]:
        """Yield inputs and directions whose rows are held together."""
        for part in _slices(len(self.directions), self.parts):
            for columns in _slices(len(y), self.inputs):
                yield columns, part

    def _fill(
        self,
        total: Tensor,
        at: tuple[slice, slice],
        part: slice,
        x: Tensor,
        right: Tensors,
        *,
        same: bool,
    ) -> None:
        """Add to the kernel what some rows of the Jacobian have in common with some x."""
        rows, columns = at
        if not self.full:
            found = self._block(x[rows], part, right if same else None, part, right)
            total[rows, 0, columns, 0] += found
            return
        whole = [slice(0, len(self.directions))]
        for left in whole if self.products else list(_slices(len(self.directions), self.parts)):
            known = right if same and left == part else None
            total[rows, left, columns, part] = self._block(x[rows], left, known, part, right)

    def _block(
        self, x: Tensor, left: slice, known: Tensors | None, part: slice, right: Tensors
    ) -> Tensor:
        """Return a block of the kernel: (r, c), or (r, k, c, l) where it is full."""
        if self.products:
            return self._pushed(x, left, right)
        rows = known if known is not None else self.network.rows(x, self.directions[left])
        return self._contracted(rows, right)

    def _contracted(self, left: Tensors, right: Tensors) -> Tensor:
        """Return the products of rows, summed over parameters and, for a trace, directions."""
        total: Tensor | float = 0.0
        for name, rows in left.items():
            pairs = zip(*(_pieces(part, self.full) for part in (rows, right[name])), strict=True)
            for one, other in pairs:
                product = one.to(self.dtype) @ other.to(self.dtype).mT
                total = total + product.to(self.directions.device)
        assert isinstance(total, Tensor)
        if not self.full:
            return total
        sizes = [next(iter(rows.values())).shape[:2] for rows in (left, right)]
        return total.reshape(*sizes[0], *sizes[1])

    def _pushed(self, x: Tensor, left: slice, right: Tensors) -> Tensor:
        """Return the same with the rows pushed forward through x."""
        shapes = self.network.parameters
        tangents = {n: row.reshape(-1, *shapes[n].shape) for n, row in right.items()}
        inputs, count = next(iter(right.values())).shape[:2]
        moved = self.network.push(x, tangents).to(self.dtype).unflatten(0, (inputs, count))
        directions = self.directions[left].to(self.dtype)
        if self.full:
            return torch.einsum("clro,ko->rkcl", moved, directions)
        return torch.einsum("ckro,ko->rc", moved, directions)


def _directions(outputs: str | Tensor, example: Tensor) -> Tensor:
    """Return the directions (k, o) among outputs whose kernels are wanted."""
    size = example.shape[1]
    if isinstance(outputs, str):
        choose("outputs", outputs, ("trace", "full"))
        return torch.eye(size, dtype=example.dtype, device=example.device)
    if outputs.dim() != 2 or outputs.shape[1] != size or len(outputs) == 0:
        raise InputError(
            f"outputs has shape {tuple(outputs.shape)}: give (k, {size}), a row for each direction"
        )
    return outputs.detach().to(example)


def _chunks(inputs: int, directions: int, bytes_of_row: int, full: bool) -> tuple[int, int]:
    """Return how many inputs and directions to hold: all inputs for a trace, all outputs else."""
    fitting = max(1, BYTES // max(1, bytes_of_row))
    if full:
        parts = min(directions, fitting)
        return min(inputs, max(1, fitting // parts)), parts
    rows = min(inputs, fitting)
    return rows, min(directions, max(1, fitting // rows))


def _pieces(rows: Tensor, full: bool) -> tuple[Tensor, ...]:
    """Return (n, k, s) as matrices of few columns, (n, k s), or (n k, s) where it is full."""
    pieces: tuple[Tensor, ...] = rows.flatten(0, 1 if full else 0).flatten(1).split(TERMS, 1)
    return pieces


def _slices(count: int, size: int) -> Iterator[slice]:
    """Yield slices of a size that cover a range."""
    for low in range(0, count, size):
        yield slice(low, min(low + size, count))


def _mirrored(total: Tensor) -> Tensor:
    """Return (n, k, n, k), symmetric, from its upper half in blocks."""
    shape = total.shape
    square = total.reshape(shape[0] * shape[1], -1)
    return (square.triu() + square.triu(1).mT).reshape(shape)


def _refuse_large(shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    """Refuse an answer that memory has no room for."""
    n, m, outputs = shape
    refuse_too_large(
        f"a tangent kernel of {n:,} x {m:,} inputs and {outputs:,} x {outputs:,} outputs",
        n * m * outputs**2 * dtype.itemsize,
        "give fewer inputs, outputs='trace', or ntk_vector_product, which does not form it",
    )
