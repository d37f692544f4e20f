"""The layouts that data lie in, and which of them a file or folder has."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from merkhet.core.errors import InputError
from merkhet.data import camvid, cifar, folder, idx, npz, parquet
from merkhet.data.pictures import Pictures
from merkhet.data.selection import Selection

HELD_OUT = "test"
WHOLE = "all"
SPELLINGS = {"validation": "val", "valid": "val"}


@dataclass(frozen=True)
class Layout:
    """A way that pictures lie in files.

    Attributes:
        name: What `Source.layouts` calls it.
        files: The files, in words.
        splits: Return the splits that a path holds in this layout, () if none.
        read: Return one of those splits.
    """

    name: str
    files: str
    splits: Callable[[Path], tuple[str, ...]]
    read: Callable[[Path, str, tuple[str, ...], Selection], Pictures]


LAYOUTS = {
    layout.name: layout
    for layout in (
        Layout("npz", npz.FILES, npz.splits, npz.read),
        Layout("idx", idx.FILES, idx.splits, idx.read),
        Layout("cifar", cifar.FILES, cifar.splits, cifar.read),
        Layout("parquet", parquet.FILES, parquet.splits, parquet.read),
        Layout("camvid", camvid.FILES, camvid.splits, camvid.read),
        Layout("folder", folder.FILES, folder.splits, folder.read),
    )
}
"""Tried in this order: a folder of pictures comes last, for any folder could be one."""


def layout_of(path: Path) -> Layout:
    """Return the layout that `path` has.

    Raises:
        InputError: It has none; says which there are.
    """
    for layout in LAYOUTS.values():
        if layout.splits(path):
            return layout
    if not path.exists():
        raise InputError(f"{path} does not exist: give a file or folder of pictures")
    raise InputError(
        f"{path} cannot be read: give a folder of pictures, an .npz file, or CIFAR-10's "
        f"{cifar.ARCHIVE}"
    )


def choose_split(where: str, asked: str, there: tuple[str, ...]) -> str:
    """Return which of the splits that are `there` serves for the one `asked`.

    What is not divided is one split, "all", and serves for "test". Where there is no "test"
    but a "val", that serves for "test". Nothing else ever serves for "train".

    Raises:
        InputError: None does.
    """
    asked = SPELLINGS.get(asked, asked)
    if asked in there:
        return asked
    if asked == HELD_OUT:
        for other in (WHOLE, "val"):
            if other in there:
                return other
    if there == (WHOLE,):
        raise InputError(
            f"{where} is not divided, so it has no split {asked!r}: ask for 'all', or divide it "
            "into train and test (folders, or .npz files, of those names)"
        )
    raise InputError(f"{where} has no split {asked!r}: choose one of {', '.join(there)}")
