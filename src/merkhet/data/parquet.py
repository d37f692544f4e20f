"""Pictures in the hub's parquet files: a column of picture files and one of labels.

Files are named for their split (`train-00000-of-00001.parquet`) and lie in the folder itself
or in `data/` or `plain_text/`. The column of pictures is `img` or `image`, a struct with
`bytes`; labels are integers. Needs merkhet's extra `parquet`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from merkhet.core.errors import InputError, need
from merkhet.data.decode import Encoded, decode
from merkhet.data.pictures import MOST_CLASSES, Pictures, numbered
from merkhet.data.selection import Selection

FILES = "train-*.parquet and test-*.parquet (columns img or image, and label)"
PREFIXES = {"train": ("train",), "test": ("test",), "val": ("val", "validation")}
MOST_ROWS = 2**31
PICTURES = ("img", "image")
LABELS = ("label", "fine_label", "labels")


def splits(folder: Path) -> tuple[str, ...]:
    """Return the splits that `folder` has parquet files of."""
    return tuple(split for split in PREFIXES if _files(folder, split))


def read(folder: Path, split: str, classes: tuple[str, ...], selection: Selection) -> Pictures:
    """Return a split; pictures that are not kept are not decoded.

    Args:
        folder: Holds the files.
        split: "train", "test" or "val".
        classes: The classes' names, or () for those the files tell, or else numbers.
        selection: What to keep.

    Raises:
        InputError: A file is damaged or its columns are others; says which.
        MissingExtraError: pyarrow is not installed.
    """
    labels, encoded, told = _read(_files(folder, split), selection)
    classes = classes or told or numbered(labels)
    if int(labels.max()) >= len(classes):
        raise InputError(
            f"{folder}: the {split} labels go up to {int(labels.max())}: they must be from 0 to "
            f"{len(classes) - 1}"
        )
    images = torch.from_numpy(decode(encoded, selection.size))
    return Pictures(images, labels, classes, folder.name, split, folder)


def _read(
    paths: Sequence[Path], selection: Selection
) -> tuple[torch.Tensor, list[Encoded], tuple[str, ...]]:
    """Return labels, picture files and class names of the rows that are kept, in their order."""
    files = [_opened(path) for path in paths]
    counts = [file.metadata.num_rows for file in files]
    if not 0 < sum(counts) <= MOST_ROWS:
        raise InputError(
            f"{paths[0]} says it holds {sum(counts)} pictures: from 1 to 2^31 are read"
        )
    rows = selection.rows(sum(counts)).numpy()
    labels = np.empty(len(rows), dtype=np.int64)
    encoded: list[Encoded | None] = [None] * len(rows)
    start = 0
    for path, file, count in zip(paths, files, counts, strict=True):
        places = np.flatnonzero((rows >= start) & (rows < start + count))
        if len(places):
            numbers, pictures = _rows_of(file, path, rows[places] - start)
            labels[places] = numbers
            for place, picture in zip(places, pictures, strict=True):
                encoded[place] = picture
        start += count
    return torch.from_numpy(labels), [e for e in encoded if e is not None], _told(files[0])


def _opened(path: Path) -> Any:
    """Return a parquet file of which the footer has been read."""
    parquet = need("pyarrow.parquet", "parquet")
    with _damage_told(path):
        return parquet.ParquetFile(path)


@contextmanager
def _damage_told(path: Path) -> Iterator[None]:
    """Turn what pyarrow raises for damaged files into an error of one line that names it."""
    arrow = need("pyarrow", "parquet")
    try:
        yield
    except (arrow.ArrowException, OSError, UnicodeDecodeError) as error:
        why = " ".join(str(error).split())
        raise InputError(f"{path} is not a parquet file or is damaged: {why}") from error


def _rows_of(
    file: Any, path: Path, rows: NDArray[np.int64]
) -> tuple[NDArray[np.int64], list[Encoded]]:
    """Return labels and picture files of some rows of one parquet file."""
    with _damage_told(path):
        names = file.schema_arrow.names
        picture, label = _column(path, names, PICTURES), _column(path, names, LABELS)
        table = file.read(columns=[picture, label]).take(rows)
        cells, numbers = table.column(picture).to_pylist(), table.column(label).to_pylist()
    if not all(isinstance(number, int) for number in numbers):
        raise InputError(f"{path}: the column {label} must hold integers, none missing")
    if not all(0 <= number < MOST_CLASSES for number in numbers):
        raise InputError(f"{path}: the column {label} must hold classes, numbered 0, 1, 2, ...")
    encoded = []
    for row, cell in zip(rows.tolist(), cells, strict=True):
        data = cell.get("bytes") if isinstance(cell, dict) else cell
        if not isinstance(data, bytes):
            raise InputError(f"{path}: row {row} of the column {picture} holds no picture file")
        encoded.append(Encoded(f"{path} row {row}", data))
    return np.array(numbers, dtype=np.int64), encoded


def _column(path: Path, names: Sequence[str], wanted: Sequence[str]) -> str:
    """Return the first of the `wanted` columns that the file has."""
    for name in wanted:
        if name in names:
            return name
    raise InputError(
        f"{path} has the columns {', '.join(names)}: one of {', '.join(wanted)} is needed"
    )


def _told(file: Any) -> tuple[str, ...]:
    """Return the class names that the hub stores beside the schema, or ()."""
    stored = (file.schema_arrow.metadata or {}).get(b"huggingface", b"{}")
    try:
        features = json.loads(stored)["info"]["features"]
        return next(tuple(features[name]["names"]) for name in LABELS if name in features)
    except (ValueError, KeyError, TypeError, StopIteration):
        return ()


def _files(folder: Path, split: str) -> list[Path]:
    """Return the split's files in order, from the first place that has any."""
    for place in (folder, folder / "data", folder / "plain_text"):
        found = [path for prefix in PREFIXES[split] for path in place.glob(f"{prefix}[-.]*parquet")]
        if found:
            return sorted(found)
    return []
