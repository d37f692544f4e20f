"""`load`: one door to every set of pictures, by its name or its path."""

from __future__ import annotations

import difflib
from dataclasses import replace
from pathlib import Path

from merkhet.core.errors import InputError
from merkhet.data import camvid, digits
from merkhet.data.find import find, layout_in
from merkhet.data.layouts import Layout, choose_split, layout_of
from merkhet.data.pictures import Pictures, Segmentation
from merkhet.data.selection import Selection
from merkhet.data.sources import DIGITS, SOURCES, Source


def load(
    name_or_path: str | Path,
    split: str = "test",
    *,
    limit: int | None = None,
    size: tuple[int, int] | None = None,
    seed: int = 0,
    download: bool = False,
) -> Pictures:
    """Return a split of a data set of pictures.

    A folder or .npz file that is not divided is one split, "all", which also serves for
    "test"; a folder with `val/` and no `test/` gives `val/` for "test". The split that was
    read is `Pictures.split`. CamVid's pictures come without labels (they are a class for
    each pixel): `load_segmentation` gives those too.

    Args:
        name_or_path: A name ("digits", "mnist", "fashion-mnist", "kmnist", "cifar10",
            "camvid") or the path of a folder or file.
        split: "train", "test", "val" or "all", as far as the set has it.
        limit: Keep this many pictures, drawn uniformly without replacement by `seed`. The
            other picture files of a folder or parquet file are not decoded.
        size: `(height, width)` in pixels to bring every picture to (bicubic).
        seed: What the draw depends on.
        download: Get a named set from its official source if it is not on this machine.

    Raises:
        InputError: There is no such set or split, or its files are damaged; says which.
        ConnectionError: A download failed.
        MissingExtraError: A parquet file is read and pyarrow is not installed.
    """
    selection = Selection(limit, size, seed)
    source = _named(name_or_path)
    if source is None:
        path = _path(name_or_path)
        layout = layout_of(path)
        return layout.read(path, choose_split(str(path), split, layout.splits(path)), (), selection)
    split = choose_split(source.name, split, source.splits)
    if source is DIGITS:
        return digits.read(split, selection)
    place, layout = _found(source, download)
    return replace(layout.read(place, split, source.classes, selection), name=source.name)


def load_segmentation(
    name_or_path: str | Path,
    split: str = "test",
    *,
    limit: int | None = None,
    size: tuple[int, int] | None = None,
    seed: int = 0,
    download: bool = False,
) -> Segmentation:
    """Return a split of pictures in which every pixel has a label.

    Args:
        name_or_path: "camvid", or a folder of its layout.
        split: "train", "val" or "test".
        limit: Keep this many, drawn uniformly without replacement by `seed`.
        size: `(height, width)` in pixels to bring them to: pictures bicubic, label
            pictures by the nearest pixel.
        seed: What the draw depends on.
        download: Get it from its official source if it is not on this machine.

    Raises:
        InputError: It is not there, has no such split, has no label pictures, or its files
            are damaged; says which.
    """
    source = _named(name_or_path)
    if source is not None and "camvid" not in source.layouts:
        raise InputError(f"{source.name} has a label for each picture: read it with load")
    path = _path(name_or_path) if source is None else find(source.name, download=download)
    there = camvid.splits(path)
    if not there:
        raise InputError(f"{path} has no label pictures: {camvid.FILES} are needed")
    split = choose_split(str(path), split, there)
    read = camvid.read_masks(path, split, Selection(limit, size, seed))
    return read if source is None else replace(read, name=source.name)


def splits(name_or_path: str | Path) -> tuple[str, ...]:
    """Return the splits of a set of pictures, by its name or its path.

    Raises:
        InputError: There is no such set.
    """
    source = _named(name_or_path)
    if source is not None:
        return source.splits
    path = _path(name_or_path)
    return layout_of(path).splits(path)


def _named(name_or_path: str | Path) -> Source | None:
    """Return the source of that name; a `Path`, or a string with a slash, is never a name."""
    return SOURCES.get(name_or_path) if isinstance(name_or_path, str) else None


def _path(name_or_path: str | Path) -> Path:
    """Return an existing path, or say which names and paths there are."""
    path = Path(name_or_path).expanduser()
    if path.exists():
        return path
    near = difflib.get_close_matches(str(name_or_path), SOURCES, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise InputError(
        f"no data set or path {str(name_or_path)!r}: give one of {', '.join(sorted(SOURCES))}, "
        f"or the path of a folder or file.{hint}"
    )


def _found(source: Source, download: bool) -> tuple[Path, Layout]:
    """Return where a named set lies and in which layout."""
    place = find(source.name, download=download)
    layout = layout_in(source, place)
    if layout is None:
        raise InputError(f"{place} lost files of {source.name} while it was read: try again")
    return place, layout
