"""Street scenes with a label for every pixel, in SegNet's folders of CamVid.

`train/`, `val/` and `test/` hold pictures; `trainannot/`, `valannot/` and `testannot/` hold
label pictures of the same names, one byte a pixel: a class, or 11 for what counts for nothing.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from merkhet.core.errors import InputError
from merkhet.data.decode import Encoded, decode, decode_labels
from merkhet.data.folder import pictures_in
from merkhet.data.pictures import Pictures, Segmentation
from merkhet.data.selection import Selection

FILES = "train/, val/, test/ of pictures and trainannot/, valannot/, testannot/ of label pictures"
SPLITS = ("train", "val", "test")
IGNORE = 11
CLASSES = (
    "sky",
    "building",
    "pole",
    "road",
    "pavement",
    "tree",
    "sign symbol",
    "fence",
    "car",
    "pedestrian",
    "bicyclist",
)


def splits(folder: Path) -> tuple[str, ...]:
    """Return the splits that have both a folder of pictures and one of label pictures."""
    return tuple(
        split
        for split in SPLITS
        if (folder / split).is_dir() and (folder / f"{split}annot").is_dir()
    )


def read(folder: Path, split: str, classes: tuple[str, ...], selection: Selection) -> Pictures:
    """Return a split's pictures without their label pictures: labels are None."""
    del classes  # a pixel's, not a picture's
    files = _chosen(folder, split, selection)
    images = decode([Encoded(str(path), path) for path in files], selection.size)
    return Pictures(torch.from_numpy(images), None, (), folder.name, split, folder)


def read_masks(folder: Path, split: str, selection: Selection) -> Segmentation:
    """Return a split's pictures and label pictures.

    Raises:
        InputError: A file is damaged; a picture has no label picture, or one of another
            size or with values that are no class; says which.
    """
    files = _chosen(folder, split, selection)
    images = _rgb(decode([Encoded(str(path), path) for path in files], selection.size))
    masks = np.stack([_mask(folder, split, path, images, selection.size) for path in files])
    return Segmentation(
        torch.from_numpy(images),
        torch.from_numpy(masks),
        CLASSES,
        IGNORE,
        folder.name,
        split,
        folder,
    )


def _chosen(folder: Path, split: str, selection: Selection) -> list[Path]:
    """Return the picture files to keep."""
    files = pictures_in(folder / split)
    if not files:
        raise InputError(f"{folder / split} holds no pictures")
    return [files[row] for row in selection.rows(len(files)).tolist()]


def _rgb(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return pictures with three channels, `(n, 3, h, w)`, gray ones repeated."""
    return images if images.shape[1] == 3 else np.repeat(images, 3, axis=1)


def _mask(
    folder: Path,
    split: str,
    picture: Path,
    images: NDArray[np.uint8],
    size: tuple[int, int] | None,
) -> NDArray[np.uint8]:
    """Return the label picture that belongs to `picture`, `(h, w)`, checked."""
    path = folder / f"{split}annot" / f"{picture.stem}.png"
    if not path.is_file():
        raise InputError(f"{picture} has no label picture: {path} is missing")
    mask = decode_labels(Encoded(str(path), path), size)
    if mask.shape != images.shape[2:]:
        raise InputError(
            f"{path} is {mask.shape[0]}x{mask.shape[1]} and its picture "
            f"{images.shape[2]}x{images.shape[3]}: they must be of one size"
        )
    if mask.max() > IGNORE:
        raise InputError(
            f"{path} holds the label {mask.max()}: labels are from 0 to {IGNORE - 1}, "
            f"and {IGNORE} for ignored pixels"
        )
    return mask
