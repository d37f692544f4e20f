"""Folders of pictures: class folders, flat folders, and either below train/ and test/."""

from __future__ import annotations

from pathlib import Path

import torch

from merkhet.core.errors import InputError
from merkhet.data.decode import Encoded, decode
from merkhet.data.pictures import Pictures
from merkhet.data.selection import Selection

FILES = "a folder for each class (or none), all of it below train/ and test/ or not"
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp"})
SPLITS = {
    "train": ("train",),
    "test": ("test",),
    "val": ("val", "valid", "validation"),
}
WHOLE = "all"


def splits(folder: Path) -> tuple[str, ...]:
    """Return the splits that `folder` is divided into, ("all",) if it is not.

    It is divided when every folder in it is named for a split: a class may be called
    "train" as long as another is called "bus".
    """
    names = {path.name for path in _folders(folder)}
    found = tuple(split for split, spellings in SPLITS.items() if names & set(spellings))
    known = {spelling for spellings in SPLITS.values() for spelling in spellings}
    if names and names <= known:
        return found
    return (WHOLE,) if folder.is_dir() else ()


def read(folder: Path, split: str, classes: tuple[str, ...], selection: Selection) -> Pictures:
    """Return a split; files that are not kept are not opened.

    Classes are the folders' names, sorted, over all splits together, so that a label means
    the same in each. Pictures are gray if all that are kept are gray, and RGB otherwise.

    Args:
        folder: The folder.
        split: One of its `splits`.
        classes: The classes' names if they are fixed, or () for those found.
        selection: What to keep.

    Raises:
        InputError: A picture is damaged, a folder is empty or mixes pictures and folders,
            or sizes differ and none is given.
    """
    root = _root(folder, split)
    classes = classes or _classes(folder)
    files = _labelled(root, classes)
    kept = [files[row] for row in selection.rows(len(files)).tolist()]
    images = decode([Encoded(str(path), path) for path, _ in kept], selection.size)
    labels = torch.tensor([label for _, label in kept]) if classes else None
    return Pictures(torch.from_numpy(images), labels, classes, folder.name, split, folder)


def pictures_in(folder: Path) -> list[Path]:
    """Return the picture files right in `folder`, sorted, hidden ones left out."""
    return sorted(path for path in folder.iterdir() if _is_picture(path))


def _labelled(root: Path, classes: tuple[str, ...]) -> list[tuple[Path, int]]:
    """Return picture files with their labels; without classes the labels mean nothing."""
    here, below = pictures_in(root), _folders(root)
    if here and below:
        raise InputError(
            f"{root} holds both pictures and folders ({here[0].name}, {below[0].name}): "
            "put every picture into a class folder, or all of them into one folder"
        )
    if not below:
        if classes or not here:
            raise InputError(
                f"{root} holds no pictures{' in class folders' if classes else ''}: "
                f"{', '.join(sorted(SUFFIXES))} files are read"
            )
        return [(path, 0) for path in here]
    files = []
    for name in sorted(path.name for path in below):
        found = sorted(path for path in (root / name).rglob("*") if _is_picture(path))
        if not found:
            raise InputError(f"the class folder {root / name} holds no pictures: fill or remove it")
        files += [(path, classes.index(name)) for path in found]
    return files


def _classes(folder: Path) -> tuple[str, ...]:
    """Return the class folders' names over all splits, sorted."""
    found = splits(folder)
    roots = [folder] if found == (WHOLE,) else [_root(folder, split) for split in found]
    return tuple(sorted({path.name for root in roots for path in _folders(root)}))


def _root(folder: Path, split: str) -> Path:
    """Return the folder that holds a split's pictures or class folders."""
    for spelling in SPLITS.get(split, ()):
        if (folder / spelling).is_dir():
            return folder / spelling
    return folder


def _folders(folder: Path) -> list[Path]:
    """Return the folders in `folder`, sorted, hidden ones left out."""
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def _is_picture(path: Path) -> bool:
    """Tell whether `path` is named like a picture that is read, and is a file."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()
