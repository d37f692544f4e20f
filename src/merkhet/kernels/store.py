"""Where the blocks of a Gram matrix go: memory, or a .npy file that knows what it holds."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from merkhet.core.available import refuse_full_disk
from merkhet.core.errors import InputError
from merkhet.core.files import write_text
from merkhet.kernels.layers import Layer
from merkhet.kernels.teams import Team

Block = tuple[slice, slice]
Shape = tuple[int, int, int]  # kinds, rows, columns


class Store(Protocol):
    """Takes blocks of a matrix (kinds, n, m).

    Attributes:
        dtype: Of the entries.
    """

    dtype: torch.dtype

    def has(self, block: Block) -> bool:
        """Tell whether a block is there from an earlier run."""

    def put(self, block: Block, values: Tensor, *, mirror: bool) -> None:
        """Keep a block (kinds, rows, columns), and its transpose on the other side."""

    def finish(self, processes: Team) -> Tensor:
        """Return the matrix (kinds, n, m) once all processes are done."""


class InMemory:
    """A matrix in memory; every process gets all of it.

    Args:
        shape: (kinds, n, m).
        dtype: Of the entries.
        device: Where it is.
    """

    def __init__(self, shape: Shape, dtype: torch.dtype, device: torch.device) -> None:
        self.dtype = dtype
        self._matrix = torch.zeros(shape, dtype=dtype, device=device)

    def has(self, block: Block) -> bool:
        """Tell that it is not."""
        return False

    def put(self, block: Block, values: Tensor, *, mirror: bool) -> None:
        """Keep a block (kinds, rows, columns), and its transpose on the other side."""
        rows, columns = block
        self._matrix[:, rows, columns] = values.to(self._matrix)
        if mirror:
            self._matrix[:, columns, rows] = values.mT.to(self._matrix)

    def finish(self, processes: Team) -> Tensor:
        """Return the matrix (kinds, n, m); each process computed the blocks it is zero without."""
        return processes.sum(self._matrix)


class InFile:
    """A matrix in a .npy file, beside which FILE.blocks lists the blocks that are in it.

    The list begins with a fingerprint of network and inputs, so that a file is never filled from
    two different ones.

    Args:
        path: The file.
        shape: (kinds, n, m).
        dtype: Of the entries.
        side: Of the blocks.
        origin: Network, kind and inputs that the matrix is of.
        processes: Those that fill it; the first makes it.
    """

    def __init__(
        self,
        path: Path,
        shape: Shape,
        dtype: torch.dtype,
        side: int,
        origin: tuple[Layer, str, Tensor, Tensor],
        processes: Team,
    ) -> None:
        if path.suffix != ".npy":
            raise InputError(f"out is {path}: give a file that ends in .npy")
        self._list = path.with_name(f"{path.name}.blocks")
        self.dtype = dtype
        self._kinds = shape[0]
        shown = shape if shape[0] > 1 else shape[1:]
        type_ = np.dtype(str(dtype).removeprefix("torch."))
        header = {"of": _fingerprint(*origin), "side": side, "dtype": str(type_), "shape": shown}
        if processes.rank == 0:
            _prepare(path, self._list, shown, type_, header)
        processes.wait()
        self._matrix = _mapped(path)
        lines = self._list.read_text(encoding="utf-8").splitlines()
        self._there = set(lines[1:])

    def has(self, block: Block) -> bool:
        """Tell whether a block is there from an earlier run."""
        return _name(block).strip() in self._there

    def put(self, block: Block, values: Tensor, *, mirror: bool) -> None:
        """Keep a block (kinds, rows, columns), and its transpose on the other side."""
        rows, columns = block
        whole = self._matrix.reshape(self._kinds, *self._matrix.shape[-2:])  # a view
        found = values.cpu().numpy()
        whole[:, rows, columns] = found
        if mirror:
            whole[:, columns, rows] = found.swapaxes(-1, -2)
        self._matrix.flush()
        with self._list.open("a", encoding="utf-8") as listed:  # one short line: never torn
            listed.write(_name(block))

    def finish(self, processes: Team) -> Tensor:
        """Return the matrix (kinds, n, m) that maps the file, once all processes are done."""
        processes.wait()
        return torch.from_numpy(self._matrix).view(self._kinds, *self._matrix.shape[-2:])


def _prepare(
    path: Path, listed: Path, shape: tuple[int, ...], dtype: np.dtype[Any], header: dict[str, Any]
) -> None:
    """Make the file and its list, or make sure that those there are of the same matrix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    line = json.dumps(header)
    if not path.exists():
        refuse_full_disk(str(path), int(np.prod(shape)) * dtype.itemsize, path.parent)
        write_text(listed, line + "\n")  # first: a file without its list could not go on
        np.lib.format.open_memmap(path, "w+", dtype, shape).flush()
        return
    there = _mapped(path)
    if there.shape != shape or there.dtype != dtype:
        raise InputError(
            f"{path} holds {there.dtype} {there.shape}, and this kernel is {dtype} {shape}: "
            "name another file, or remove it"
        )
    first = listed.read_text(encoding="utf-8").partition("\n")[0] if listed.exists() else ""
    if first != line:
        raise InputError(
            f"{path} holds another kernel, of other inputs or another network: "
            "name another file, or remove it"
        )


def _mapped(path: Path) -> np.memmap[Any, Any]:
    """Return a .npy file as an array that reads and writes it.

    Raises:
        InputError: It is not such a file.
    """
    try:
        return np.load(path, mmap_mode="r+", allow_pickle=False)  # type: ignore[no-any-return]
    except (ValueError, EOFError) as error:
        raise InputError(f"{path} is not a .npy file: name another file") from error


def _name(block: Block) -> str:
    """Return the line that lists a block."""
    return " ".join(str(edge) for part in block for edge in (part.start, part.stop)) + "\n"


def _fingerprint(network: Layer, kind: str, x: Tensor, y: Tensor) -> str:
    """Return a digest of what a matrix is of."""
    digest = hashlib.sha256(f"{network!r} {kind} {x.dtype} {y is x}".encode())
    digest.update(repr([float(number) for number in network.numbers()]).encode())
    for inputs in (x, y):
        digest.update(str(tuple(inputs.shape)).encode())
        whole = inputs.detach().cpu().contiguous()
        digest.update(whole.view(torch.uint8).numpy().tobytes())  # numpy has no bfloat16
    return digest.hexdigest()
