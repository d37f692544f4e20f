"""CIFAR-10's official binary archive, packed or unpacked.

Each record is a label byte and 3,072 bytes of a 32x32 picture, red, green and blue planes
one after the other. The archive is read in place, nothing is unpacked to the disk.
"""

from __future__ import annotations

import gzip
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from merkhet.core.errors import InputError
from merkhet.data.decode import resize
from merkhet.data.pictures import Pictures
from merkhet.data.selection import Selection

FILES = "cifar-10-binary.tar.gz (packed or unpacked)"
CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
ARCHIVE = "cifar-10-binary.tar.gz"
FOLDER = "cifar-10-batches-bin"
MEMBERS = {
    "train": tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
    "test": ("test_batch.bin",),
}
SIDE = 32
CHUNK = 2**20
RECORD = 1 + 3 * SIDE * SIDE
MOST_BYTES = 100_000 * RECORD
"""Ten times an official file: a longer one is not what it says."""


def splits(path: Path) -> tuple[str, ...]:
    """Return the splits at `path`: the archive, or a folder that holds it or its contents."""
    if _archive(path) is not None:
        return tuple(MEMBERS)
    folder = _unpacked(path)
    return tuple(
        split for split, names in MEMBERS.items() if all((folder / n).is_file() for n in names)
    )


def read(path: Path, split: str, classes: tuple[str, ...], selection: Selection) -> Pictures:
    """Return a split: uint8 `(n, 3, 32, 32)`.

    Args:
        path: The archive, or a folder that holds it or its contents.
        split: "train" or "test".
        classes: The ten classes' names, or () for the official ones.
        selection: What to keep.

    Raises:
        InputError: A file is damaged or missing in the archive; says which.
    """
    classes = classes or CLASSES
    batches = [_records(name, raw, len(classes)) for name, raw in _raw(path, MEMBERS[split])]
    if len({len(batch) for batch in batches}) > 1:
        counts = ", ".join(str(len(batch)) for batch in batches)
        raise InputError(
            f"{path}: the training files hold {counts} pictures: they must hold equally many"
        )
    records = np.concatenate(batches)
    records = records[selection.rows(len(records)).numpy()]
    images = records[:, 1:].reshape(-1, 3, SIDE, SIDE)
    if selection.size is not None:
        images = resize(images, selection.size)
    labels = torch.from_numpy(records[:, 0].astype(np.int64))
    stacked = torch.from_numpy(np.ascontiguousarray(images))
    return Pictures(stacked, labels, classes, path.name, split, path)


def _records(name: str, raw: bytes, classes: int) -> NDArray[np.uint8]:
    """Return a file's records, `(n, 3073)`, checked."""
    if not raw or len(raw) % RECORD:
        raise InputError(
            f"{name} is damaged: {len(raw)} bytes are not a whole number of "
            f"{RECORD}-byte pictures, one at least"
        )
    records = np.frombuffer(raw, dtype=np.uint8).reshape(-1, RECORD)
    wrong = np.flatnonzero(records[:, 0] >= classes)
    if len(wrong):
        raise InputError(
            f"{name} is damaged: picture {wrong[0]} has the label {records[wrong[0], 0]}, "
            f"labels are from 0 to {classes - 1}"
        )
    return records


def _raw(path: Path, names: tuple[str, ...]) -> Iterator[tuple[str, bytes]]:
    """Yield the wanted files' names and bytes, from the folder or else from the archive."""
    archive = _archive(path)
    if archive is not None:
        yield from _unpack(archive, names)
        return
    for name in names:
        file = _unpacked(path) / name
        _check_length(str(file), file.stat().st_size)
        yield str(file), file.read_bytes()


def _unpack(archive: Path, names: tuple[str, ...]) -> list[tuple[str, bytes]]:
    """Return the wanted members in the order of `names`, reading the archive once."""
    try:
        with gzip.open(archive) as unpacked:
            found = _members(archive, unpacked, names)
            # gzip's checksum stands at the end: without reading up to it nothing is checked.
            while unpacked.read(CHUNK):
                pass
    except (tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputError(f"{archive} is damaged ({error}): get it again") from error
    for name in names:
        if name not in found:
            raise InputError(f"{archive} does not hold {name}: it is not CIFAR-10's binary archive")
    return [(f"{archive}:{name}", found[name]) for name in names]


def _members(archive: Path, unpacked: gzip.GzipFile, names: tuple[str, ...]) -> dict[str, bytes]:
    """Return those of the wanted members that there are, by name."""
    found = {}
    with tarfile.open(fileobj=unpacked, mode="r|") as tar:
        for member in tar:
            name = member.name.rpartition("/")[2]
            if name in names and member.isfile():
                _check_length(f"{archive}:{name}", member.size)
                stream = tar.extractfile(member)
                assert stream is not None
                found[name] = stream.read()
    return found


def _check_length(name: str, size: int) -> None:
    """Refuse a file far longer than an official one before reading it."""
    if size > MOST_BYTES:
        raise InputError(f"{name} is {size} bytes: at most {MOST_BYTES} are read")


def _archive(path: Path) -> Path | None:
    """Return the archive to read, or None where the files lie unpacked or not at all."""
    if path.is_file():
        return path if path.name.endswith((".tar.gz", ".tgz")) else None
    if _unpacked(path).is_dir() and (_unpacked(path) / "test_batch.bin").is_file():
        return None
    return path / ARCHIVE if (path / ARCHIVE).is_file() else None


def _unpacked(path: Path) -> Path:
    """Return the folder that the unpacked files would lie in."""
    return path / FOLDER if (path / FOLDER).is_dir() else path
