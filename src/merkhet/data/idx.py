"""The MNIST family's IDX files: one of pictures and one of labels for each split.

A file is a big-endian header (two zero bytes, a type, the number of dimensions, a 32-bit
length for each) and then the values. Sets of this layout store unsigned bytes, gzipped or
not: `train-images-idx3-ubyte.gz`, `train-labels-idx1-ubyte.gz`, and `t10k-` for testing.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray

from merkhet.core.errors import InputError
from merkhet.data.decode import resize
from merkhet.data.pictures import Pictures, numbered
from merkhet.data.selection import Selection

FILES = "train-images-idx3-ubyte.gz, train-labels-idx1-ubyte.gz, and the same with t10k-"
PREFIXES = {"train": "train", "test": "t10k"}
UNSIGNED_BYTE = 0x08
MOST_BYTES = 2**32
CHUNK = 2**24


def splits(folder: Path) -> tuple[str, ...]:
    """Return the splits whose pictures and labels are both in `folder`."""
    return tuple(
        split
        for split, prefix in PREFIXES.items()
        if _file(folder, prefix, "images", 3) and _file(folder, prefix, "labels", 1)
    )


def read(folder: Path, split: str, classes: tuple[str, ...], selection: Selection) -> Pictures:
    """Return a split: uint8 `(n, 1, height, width)`.

    Args:
        folder: Holds both files of the split.
        split: "train" or "test".
        classes: The classes' names, or () to number them.
        selection: What to keep.

    Raises:
        InputError: A file is damaged, or the two do not belong together; says which.
    """
    images_file = _file(folder, PREFIXES[split], "images", 3)
    labels_file = _file(folder, PREFIXES[split], "labels", 1)
    assert images_file is not None
    assert labels_file is not None
    images, labels = read_idx(images_file, 3), read_idx(labels_file, 1)
    if len(images) != len(labels):
        raise InputError(
            f"{images_file} holds {len(images)} pictures and {labels_file} {len(labels)} labels: "
            "they must be of one set"
        )
    classes = classes or numbered(torch.from_numpy(labels))
    if int(labels.max()) >= len(classes):
        raise InputError(
            f"{labels_file} holds the label {labels.max()}: labels must be from 0 to "
            f"{len(classes) - 1}"
        )
    rows = selection.rows(len(images)).numpy()
    images = images[rows, None]
    if selection.size is not None:
        images = resize(images, selection.size)
    kept = torch.from_numpy(labels[rows].astype(np.int64))
    return Pictures(torch.from_numpy(images), kept, classes, folder.name, split, folder)


def read_idx(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """Return the array that an IDX file of unsigned bytes holds.

    Args:
        path: The file; gzipped if its name ends in `.gz`.
        dimensions: How many it must have.

    Raises:
        InputError: The file is not IDX, not of bytes, damaged, empty, or its size is not
            what its header says.
    """
    with path.open("rb") as stream:
        if path.suffix != ".gz":
            return _parse(stream, path, dimensions)
        try:
            with gzip.GzipFile(fileobj=stream) as unpacked:
                return _parse(unpacked, path, dimensions)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise InputError(f"{path} is damaged (gzip: {error}): get it again") from error


def _parse(stream: BinaryIO | gzip.GzipFile, path: Path, dimensions: int) -> NDArray[np.uint8]:
    """Read header and values, believing the header only as far as the file bears it out."""
    head = stream.read(4 + 4 * dimensions)
    expected = bytes((0, 0, UNSIGNED_BYTE, dimensions))
    if head[:4] != expected:
        raise InputError(
            f"{path} starts with {head[:4].hex() or 'nothing'}, not {expected.hex()}: it is not an "
            f"IDX file of unsigned bytes in {dimensions} dimensions"
        )
    if len(head) < 4 + 4 * dimensions:
        raise InputError(f"{path} is damaged: it ends inside its header")
    shape = struct.unpack(f">{dimensions}I", head[4:])
    size = math.prod(shape)
    if not 0 < size <= MOST_BYTES:
        raise InputError(
            f"{path} says it holds {'x'.join(map(str, shape))} values: from 1 to 2^32 are read"
        )
    values = _read_upto(stream, size + 1)
    if len(values) != size:
        found = "more" if len(values) > size else len(values)
        raise InputError(f"{path} is damaged: its header says {size} values, it holds {found}")
    return np.frombuffer(values, dtype=np.uint8).reshape(shape)


def _read_upto(stream: BinaryIO | gzip.GzipFile, size: int) -> bytearray:
    """Return at most `size` bytes, with memory for those only that are there."""
    values = bytearray()
    while part := stream.read(min(CHUNK, size - len(values))):
        values += part
    return values


def _file(folder: Path, prefix: str, what: str, dimensions: int) -> Path | None:
    """Return the file under any of the names in use, or None."""
    for separator in ("-", "."):
        for suffix in (".gz", ""):
            path = folder / f"{prefix}-{what}{separator}idx{dimensions}-ubyte{suffix}"
            if path.is_file():
                return path
    return None
