"""Gram matrices of any size: in blocks, symmetric work once, into memory or a file that resumes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple, overload

import torch
from torch import Tensor

from merkhet.core.available import refuse_too_large
from merkhet.core.errors import InputError
from merkhet.core.progress import progress_bar
from merkhet.kernels.engines import Engine, Plain, engine
from merkhet.kernels.inputs import as_inputs, check_alike, check_request
from merkhet.kernels.layers import Layer
from merkhet.kernels.plain import check_fit
from merkhet.kernels.store import InFile, InMemory, Store
from merkhet.kernels.teams import Team, team

Block = tuple[slice, slice]


class Kernels(NamedTuple):
    """Both kernels of a network.

    Attributes:
        nngp: The covariance of its outputs at initialisation, (n, m) or (n,).
        ntk: Its tangent kernel, of the same shape.
    """

    nngp: Tensor
    ntk: Tensor


@overload
def gram(
    network: Layer,
    x: Any,
    y: Any = None,
    kind: Literal["ntk", "nngp"] = "ntk",
    *,
    dtype: torch.dtype = torch.float32,
    progress: bool = True,
    out: Path | str | None = None,
) -> Tensor: ...
@overload
def gram(
    network: Layer,
    x: Any,
    y: Any = None,
    *,
    kind: Literal["both"],
    dtype: torch.dtype = torch.float32,
    progress: bool = True,
    out: Path | str | None = None,
) -> Kernels: ...
@overload
def gram(
    network: Layer,
    x: Any,
    y: Any = None,
    kind: str = "ntk",
    *,
    dtype: torch.dtype = torch.float32,
    progress: bool = True,
    out: Path | str | None = None,
) -> Any: ...
def gram(
    network: Layer,
    x: Any,
    y: Any = None,
    kind: str = "ntk",
    *,
    dtype: torch.dtype = torch.float32,
    progress: bool = True,
    out: Path | str | None = None,
) -> Any:
    """Return the kernel of a network between all x and all y, (n, m).

    Where `x`, `y` or a hyper-parameter requires a gradient the answer is differentiable; it is then
    computed whole, in the memory that the plain form takes.

    Args:
        network: The network.
        x: (n, d) or (n, channels, height, width), floats.
        y: (m, ...) like `x`; by default `x`, and the answer is symmetric with an exact diagonal.
        kind: "ntk", "nngp", or "both".
        dtype: Of the answer, float32 or float64. What has no fast path is computed in float64 and
            rounded.
        progress: Whether a terminal shows a bar.
        out: A .npy file that is filled block by block, (n, m), or (2, n, m) for "both" with nngp
            first; the same call goes on where it stopped. Processes of torch.distributed share
            the blocks.

    Returns:
        The kernel on the device of `x`, or `Kernels`; with `out`, tensors that map the file.

    Raises:
        InputError: Inputs, network or file do not fit, or the answer does not fit in memory.
    """
    check_request(network, kind, dtype)
    x, y = _inputs(x, y)
    if _differentiable(network, x, y):
        if out is not None:
            raise InputError("out takes no gradients: call gram under torch.no_grad()")
        return _pair(kind, Plain(network, x, y, kind).block(slice(None), slice(None)).to(dtype))
    with torch.no_grad():
        return _pair(kind, _filled(network, x, y, kind, dtype, progress, out))


@torch.no_grad()
def diagonal(
    network: Layer, x: Any, kind: str = "ntk", *, dtype: torch.dtype = torch.float64
) -> Any:
    """Return the kernel of each x with itself, (n,).

    Args:
        network: The network.
        x: (n, d) or (n, channels, height, width), floats.
        kind: "ntk", "nngp", or "both".
        dtype: Of the answer.

    Returns:
        (n,), or `Kernels` of both.

    Raises:
        InputError: Inputs and network do not fit.
    """
    check_request(network, kind, dtype)
    x = as_inputs("x", x)
    return _pair(kind, _fitting(Plain(network, x, x, kind).diagonal(), dtype))


def _inputs(x: Any, y: Any) -> tuple[Tensor, Tensor]:
    """Return both inputs, checked; twice the same where there is one."""
    x = as_inputs("x", x)
    if y is None:
        return x, x
    y = as_inputs("y", y)
    check_alike(x, y)
    return x, y


def _differentiable(network: Layer, x: Tensor, y: Tensor) -> bool:
    """Tell whether a gradient is wanted."""
    given = (x, y, *network.numbers())
    return torch.is_grad_enabled() and any(one.requires_grad for one in given)


def _filled(
    network: Layer,
    x: Tensor,
    y: Tensor,
    kind: str,
    dtype: torch.dtype,
    progress: bool,
    out: Path | str | None,
) -> Tensor:
    """Return the kernels (kinds, n, m), computed in blocks by all processes."""
    computed, processes = engine(network, x, y, kind, dtype), team()
    check_fit(network, x)  # what is wrong is told first
    shape = (2 if kind == "both" else 1, len(x), len(y))
    blocks = list(_blocks(len(x), len(y), computed.side, symmetric=y is x))
    if out is None:
        _refuse_large(shape, dtype)
        store: Store = InMemory(shape, dtype, x.device)
    else:
        store = InFile(Path(out), shape, dtype, computed.side, (network, kind, x, y), processes)
    _fill(store, computed, blocks, processes, progress, symmetric=y is x)
    return store.finish(processes)


def _fill(
    store: Store,
    computed: Engine,
    blocks: list[Block],
    processes: Team,
    progress: bool,
    *,
    symmetric: bool,
) -> None:
    """Compute the blocks of this process that are not there yet."""
    own = [block for block in blocks[processes.rank :: processes.size] if not store.has(block)]
    diagonal = computed.diagonal() if symmetric and own else None
    total = sum(_pairs(block) for block in own)
    with progress_bar("kernel", total, unit="pairs", shown=progress) as tell:
        for rows, columns in own:
            found = _fitting(computed.block(rows, columns), store.dtype)
            if symmetric and rows == columns:
                assert diagonal is not None
                found = _mirrored(found, diagonal[:, rows])
            store.put((rows, columns), found, mirror=symmetric and rows != columns)
            tell(_pairs((rows, columns)))


def _fitting(found: Tensor, dtype: torch.dtype) -> Tensor:
    """Return kernels of any shape in a type, and refuse those that are too large for it."""
    rounded = found.to(dtype)
    if not rounded.isfinite().all():
        raise InputError(f"the kernel does not fit in {dtype}: divide the inputs by their size")
    return rounded


def _mirrored(found: Tensor, diagonal: Tensor) -> Tensor:
    """Return a block on the diagonal from its upper half and the exact diagonal."""
    upper = found.triu(1)
    return upper + upper.mT + torch.diag_embed(diagonal.to(found))


def _blocks(rows: int, columns: int, side: int, *, symmetric: bool) -> Iterator[Block]:
    """Yield blocks that cover the matrix, of a symmetric one those from the diagonal on."""
    for low in range(0, rows, side):
        for left in range(low if symmetric else 0, columns, side):
            yield slice(low, min(low + side, rows)), slice(left, min(left + side, columns))


def _pairs(block: Block) -> int:
    """Return how many pairs of inputs are in a block."""
    rows, columns = block
    return int((rows.stop - rows.start) * (columns.stop - columns.start))


def _refuse_large(shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    """Refuse an answer that memory has no room for."""
    needed = shape[0] * shape[1] * shape[2] * dtype.itemsize
    refuse_too_large(
        f"a kernel of {shape[1]:,} x {shape[2]:,}", needed, 'give out="kernel.npy", or fewer inputs'
    )


def _pair(kind: str, found: Tensor) -> Any:
    """Return one kernel, or both by name."""
    return Kernels(found[0], found[1]) if kind == "both" else found[0]
