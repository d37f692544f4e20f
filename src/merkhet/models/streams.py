"""Tensors to and from safetensors files piece by piece: a large one is never twice in memory."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from merkhet.core.errors import InputError

PIECE = 2**26  # bytes moved at once
ALIGNMENT = 8
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "C64": torch.complex64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file.

    Args:
        path: The file; the caller sees to it that it is whole or not there.
        tensors: Contiguous, of any device.

    Raises:
        InputError: A tensor's data type has no name in such files.
    """
    # Large entries first keep all of them aligned, as the library itself does.
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}  # which transformers asks for
    end = 0
    for name in names:
        tensor, start = tensors[name], end
        if tensor.dtype not in NAMES:
            raise InputError(f"{name} is {tensor.dtype}, which safetensors files do not hold")
        end += tensor.numel() * tensor.element_size()
        entry = {"dtype": NAMES[tensor.dtype], "shape": list(tensor.shape)}
        header[name] = {**entry, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    with path.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little"))
        stream.write(text)
        for name in names:
            for piece in _pieces(tensors[name]):
                stream.write(piece.cpu().numpy().data)


class StoredTensors:
    """The tensors of a safetensors file, read when they are asked for.

    Args:
        path: The file.

    Attributes:
        shapes: Shape of each tensor by name.
        dtypes: Data type of each tensor by name.

    Raises:
        FileNotFoundError: There is no such file.
        InputError: The file is damaged or not a safetensors file.
    """

    def __init__(self, path: Path | str) -> None:
        from safetensors import SafetensorError, safe_open

        self.path = Path(path)
        try:
            with safe_open(str(path), framework="pt") as checked:  # header, sizes, overlaps
                names = list(checked.keys())
        except SafetensorError as error:
            raise InputError(f"{path} is damaged or not a safetensors file: {error}") from error
        with self.path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            header = json.loads(stream.read(length))
        self._start = 8 + length
        self._entries = {name: header[name] for name in names}
        self.dtypes = {name: self._dtype(name) for name in names}
        self.shapes = {name: tuple(self._entries[name]["shape"]) for name in names}

    @torch.no_grad()
    def read_into(self, name: str, tensor: Tensor) -> None:
        """Copy a stored tensor into one of its shape, in that one's data type, on its device."""
        dtype = self._dtype(name)
        with self.path.open("rb") as stream:
            stream.seek(self._start + self._entries[name]["data_offsets"][0])
            if tensor.dtype == dtype and tensor.device.type == "cpu" and tensor.is_contiguous():
                for piece in _pieces(tensor):
                    _fill(stream, piece)
                return
            for part in _rows(tensor):
                read = torch.empty(part.shape, dtype=dtype)
                for piece in _pieces(read):
                    _fill(stream, piece)
                part.copy_(read)

    def tensor(self, name: str) -> Tensor:
        """Return a stored tensor in memory of its own."""
        found = torch.empty(self.shapes[name], dtype=self._dtype(name))
        self.read_into(name, found)
        return found

    def _dtype(self, name: str) -> torch.dtype:
        """Return a stored tensor's data type."""
        kind = self._entries[name]["dtype"]
        if kind not in DTYPES:
            raise InputError(f"{name} in {self.path} is of the type {kind}, which is not known")
        return DTYPES[kind]


def _pieces(tensor: Tensor) -> Iterator[Tensor]:
    """Yield a contiguous tensor's bytes, piece by piece, in its own memory."""
    if tensor.numel():
        yield from tensor.detach().reshape(-1).view(torch.uint8).split(PIECE)


def _rows(tensor: Tensor) -> Iterator[Tensor]:
    """Yield parts of a tensor, in order, of about the size of a piece."""
    if tensor.dim() == 0 or not tensor.numel():
        yield tensor
        return
    row = max(1, tensor.numel() // len(tensor) * tensor.element_size())
    yield from tensor.split(max(1, PIECE // row))


def _fill(stream: BinaryIO, piece: Tensor) -> None:
    """Read exactly as many bytes as a piece has."""
    count = stream.readinto(piece.numpy().data)  # type: ignore[attr-defined]
    assert count == piece.numel(), "the file was checked"
