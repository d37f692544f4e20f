"""Arrays in .npz files: pictures, signals, or tokens.

Keys: `images` or `x` (pictures), or `signals`; beside them, if there are any, `labels` or `y`
and the classes' names, `classes`. For language models, `tokens`.
"""

from __future__ import annotations

import lzma
import math
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from merkhet.core.errors import InputError
from merkhet.data.decode import check_memory, resize
from merkhet.data.pictures import Pictures, numbered
from merkhet.data.selection import Selection

FILES = "an .npz file (or train.npz and test.npz) with images or signals, and labels"
MOST_BRIGHT = 32.0  # of floats: normalised pictures stay far below, bytes do not
KEYS = ("images", "x", "signals")
CHANNELS = (1, 3)
HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
# What zipfile and numpy raise for damaged files; RuntimeError says encrypted, or compressed in
# a way they do not know.
DAMAGE = (
    OSError,
    ValueError,
    EOFError,
    KeyError,
    RuntimeError,
    lzma.LZMAError,
    zipfile.BadZipFile,
    zlib.error,
)
SPLITS = ("train", "test", "val")
WHOLE = "all"


def splits(path: Path) -> tuple[str, ...]:
    """Return ("all",) for a file, and for a folder the splits it has files of."""
    if path.is_file():
        return (WHOLE,) if path.suffix.lower() == ".npz" else ()
    return tuple(split for split in SPLITS if (path / f"{split}.npz").is_file())


def read(path: Path, split: str, classes: tuple[str, ...], selection: Selection) -> Pictures:
    """Return what the file holds.

    `images` may be `(n, h, w)`, `(n, c, h, w)` or `(n, h, w, c)` with 1 or 3 channels; bytes
    and integers from 0 to 255 become uint8, floats become float32 and keep their values.
    `signals` are `(n, c, length)` and become float32.

    Args:
        path: The file, or a folder with a file for each split.
        split: Which of its `splits`.
        classes: The classes' names, or () for those in the file, or else numbers.
        selection: What to keep.

    Raises:
        InputError: The file is damaged or its arrays do not fit; says which and how.
    """
    file = path if path.is_file() else path / f"{split}.npz"
    arrays = _arrays(file)
    key = _key(file, arrays)
    values = _values(f"{file}: {key}", arrays[key], signals=key == "signals")
    labels, names = _labels(file, arrays, len(values))
    rows = selection.rows(len(values))
    values = values[rows.numpy()]
    if selection.size is not None:
        if key == "signals":
            raise InputError(f"{file} holds signals, which have no height and width: leave size")
        values = resize(values, selection.size)
    images = torch.from_numpy(np.ascontiguousarray(values))
    kept = None if labels is None else labels[rows]
    known = () if labels is None else classes or names or numbered(labels)
    return Pictures(images, kept, known, path.stem, split, path)


def load_tokens(path: Path | str) -> Tensor:
    """Return the array `tokens` of an .npz file, for language models: int64 `(n, length)`.

    Raises:
        InputError: The file is damaged, or `tokens` are absent, negative, not integers or
            not `(n, length)`.
    """
    path = Path(path)
    arrays = _arrays(path)
    if "tokens" not in arrays:
        raise InputError(f"{path} holds {_names(arrays)}: tokens (n, length) are needed")
    tokens = arrays["tokens"]
    if tokens.dtype.kind not in "iu" or tokens.ndim != 2 or not tokens.size:
        raise InputError(f"{path}: tokens are {_told(tokens)}: give integers (n, length)")
    if int(tokens.min()) < 0 or int(tokens.max()) >= 2**31:
        raise InputError(
            f"{path}: tokens go from {tokens.min()} to {tokens.max()}: give 0 to 2^31 - 1"
        )
    return torch.from_numpy(tokens.astype(np.int64))


def _arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Return every array of the file by its key, nothing unpickled."""
    try:
        _check_headers(path)
        with np.load(path, allow_pickle=False) as stored:
            return {key: _plain(path, key, stored[key]) for key in stored.files}
    except (InputError, FileNotFoundError, PermissionError):
        raise
    except DAMAGE as error:
        raise InputError(f"{path} is not an .npz file of plain arrays: {error}") from error


def _check_headers(path: Path) -> None:
    """Refuse arrays whose headers say more than their bytes hold, before memory is asked for."""
    with zipfile.ZipFile(path) as packed:
        check_memory(sum(entry.file_size for entry in packed.infolist()))
        for entry in packed.infolist():
            if not entry.filename.endswith(".npy"):
                continue
            with packed.open(entry) as stream:
                version = np.lib.format.read_magic(stream)
                header = HEADERS.get(version)
                if header is None:
                    raise InputError(f"{path}: {entry.filename} is of an unknown .npy version")
                shape, _, dtype = header(stream)
                length = math.prod(shape) * dtype.itemsize
                if not dtype.hasobject and length != entry.file_size - stream.tell():
                    raise InputError(
                        f"{path} is damaged: {entry.filename} says it is {dtype} {shape} "
                        "and is not as long"
                    )


def _plain(path: Path, key: str, array: Any) -> NDArray[Any]:
    """Return what lies in the archive if it is an array at all."""
    if not isinstance(array, np.ndarray):
        raise InputError(f"{path}: {key} is not an array: write the file with numpy.savez")
    return array


def _key(path: Path, arrays: dict[str, NDArray[Any]]) -> str:
    """Return the one key that holds pictures or signals."""
    found = [key for key in KEYS if key in arrays]
    if len(found) == 1:
        return found[0]
    if not found and "tokens" in arrays:
        raise InputError(f"{path} holds tokens: read them with merkhet.data.load_tokens")
    raise InputError(f"{path} holds {_names(arrays)}: give exactly one of {', '.join(KEYS)}")


def _values(name: str, array: NDArray[Any], signals: bool) -> NDArray[Any]:
    """Return pictures `(n, c, h, w)` or signals `(n, c, length)`, bytes or finite float32."""
    if not array.size:
        raise InputError(f"{name} are {_told(array)}: they hold nothing")
    if signals:
        if array.ndim != 3 or array.dtype.kind not in "fiu":
            raise InputError(f"{name} are {_told(array)}: give numbers (n, channels, length)")
        return _finite(name, array)
    array = _channels_first(name, array)
    if array.dtype.kind == "f":
        values = _finite(name, array)
        if values.max() > MOST_BRIGHT:
            raise InputError(
                f"{name} go up to {values.max():g}: floats are taken as they are, with white at 1; "
                "divide by 255, or store integers from 0 to 255"
            )
        return values
    if array.dtype.kind not in "iu" or int(array.min()) < 0 or int(array.max()) > 255:
        raise InputError(f"{name} are {_told(array)}: give floats, or integers from 0 to 255")
    return array.astype(np.uint8)


def _channels_first(name: str, array: NDArray[Any]) -> NDArray[Any]:
    """Return pictures as `(n, c, h, w)`, telling the layouts apart by where 1 or 3 stands."""
    if array.ndim == 3:
        return array[:, None]
    if array.ndim != 4:
        raise InputError(f"{name} are {_told(array)}: give (n, h, w), (n, c, h, w) or (n, h, w, c)")
    first, last = array.shape[1] in CHANNELS, array.shape[3] in CHANNELS
    if first and last:
        raise InputError(
            f"{name} are {_told(array)}: channels could come second or last: give (n, h, w), or "
            "pictures whose height and width are neither 1 nor 3"
        )
    if not first and not last:
        raise InputError(
            f"{name} are {_told(array)}: neither the second nor the last length is 1 or 3 channels"
        )
    return array if first else array.transpose(0, 3, 1, 2)


def _finite(name: str, array: NDArray[Any]) -> NDArray[np.float32]:
    """Return the array in float32, refusing NaN and infinities."""
    with np.errstate(over="ignore"):
        values = array.astype(np.float32)
    if not np.isfinite(values).all():
        index = tuple(int(i) for i in np.argwhere(~np.isfinite(values))[0])
        raise InputError(f"{name} hold {array[index]} at index {index}: give finite float32 values")
    return values


def _labels(
    path: Path, arrays: dict[str, NDArray[Any]], count: int
) -> tuple[Tensor | None, tuple[str, ...]]:
    """Return labels int64 `(n,)` and the classes' names, as far as the file has them."""
    key = next((key for key in ("labels", "y") if key in arrays), None)
    if key is None:
        return None, ()
    labels = arrays[key]
    if labels.dtype.kind not in "iu" or labels.shape != (count,):
        raise InputError(f"{path}: {key} are {_told(labels)}: give integers ({count},)")
    if int(labels.min()) < 0 or int(labels.max()) >= 2**31:
        raise InputError(f"{path}: {key} go from {labels.min()} to {labels.max()}: start at 0")
    names = tuple(map(str, arrays["classes"].tolist())) if "classes" in arrays else ()
    if names and int(labels.max()) >= len(names):
        raise InputError(
            f"{path}: {key} go up to {labels.max()}, and classes names only {len(names)}"
        )
    return torch.from_numpy(labels.astype(np.int64)), names


def _names(arrays: dict[str, NDArray[Any]]) -> str:
    """Return the keys in words."""
    return ", ".join(arrays) or "nothing"


def _told(array: NDArray[Any]) -> str:
    """Return an array's dtype and shape in words."""
    return f"{array.dtype} {array.shape}"
