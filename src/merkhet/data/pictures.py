"""Data sets in memory: labelled pictures (or signals), and pictures with label pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import torch
from torch import Tensor
from torch.utils.data import Dataset

from merkhet.core.errors import InputError

NO_LABEL = -1
MOST_CLASSES = 1_000_000


@dataclass(frozen=True, eq=False, repr=False)
class Pictures(Dataset[tuple[Tensor, int]]):
    """Pictures with labels, a torch data set that also offers everything as tensors.

    Attributes:
        images: uint8, or float32 where the source holds floats, of shape
            `(n, channels, height, width)`; float32 signals are `(n, channels, length)`.
        labels: int64 of shape `(n,)`, or None where the source has no labels.
        classes: The classes' names, in the order of the labels; empty without labels.
        name: What the set is called.
        split: "train", "val", "test", or "all" where the source is not split.
        source: The file or folder it was read from; None for what comes with a library.

    Raises:
        InputError: Shapes, dtypes or labels do not fit together.
    """

    images: Tensor
    labels: Tensor | None = None
    classes: tuple[str, ...] = ()
    name: str = "pictures"
    split: str = "all"
    source: Path | None = None

    def __post_init__(self) -> None:
        _check_images(self.images)
        if self.labels is not None:
            _check_labels(self.labels, len(self.images), len(self.classes))

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Return the picture `(channels, height, width)` in [0, 1] and its label.

        The label is -1 where the set has no labels.
        """
        label = NO_LABEL if self.labels is None else int(self.labels[index])
        return as_floats(self.images[index]), label

    def __repr__(self) -> str:
        shape = "x".join(map(str, self.images.shape[1:]))
        labels = f", {len(self.classes)} classes" if self.labels is not None else ", no labels"
        return f"Pictures({self.name} {self.split}: {len(self)} of {shape}{labels})"

    def floats(self, indices: Tensor | Sequence[int] | None = None) -> Tensor:
        """Return pictures as float32: bytes divided by 255, floats as they are.

        Args:
            indices: Which pictures, in which order; all of them by default.

        Returns:
            Shape `(n, channels, height, width)`, or `(n, channels, length)` for signals.
        """
        return as_floats(self.images if indices is None else self.images[_long(indices)])

    def subset(self, indices: Tensor | Sequence[int]) -> Self:
        """Return the set that holds the pictures `indices`, in that order."""
        chosen = _long(indices)
        labels = None if self.labels is None else self.labels[chosen]
        return replace(self, images=self.images[chosen], labels=labels)

    def sample(self, n: int, seed: int = 0) -> Self:
        """Return `n` pictures drawn without replacement, the same for the same seed.

        With labels the draw is as balanced as the set allows: every class gives its first
        picture before any gives its second. Without labels it is uniform. Samples of one
        seed are nested: the sample of 10 is the beginning of the sample of 20.

        Raises:
            InputError: `n` is not between 1 and the number of pictures.
        """
        if not 1 <= n <= len(self):
            raise InputError(f"cannot draw {n} pictures: give a number from 1 to {len(self)}")
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))
        if self.labels is not None:
            turn = _turns(self.labels[order], len(self.classes))
            order = order[torch.argsort(turn, stable=True)]
        return self.subset(order[:n])


@dataclass(frozen=True, eq=False, repr=False)
class Segmentation(Dataset[tuple[Tensor, Tensor]]):
    """Pictures in which every pixel has a label.

    Attributes:
        images: uint8 of shape `(n, 3, height, width)`.
        masks: uint8 of shape `(n, height, width)`: a class for each pixel, or `ignore`.
        classes: The classes' names, in the order of the labels.
        ignore: The label of pixels that count for nothing.
        name: What the set is called.
        split: "train", "val" or "test".
        source: The folder it was read from.

    Raises:
        InputError: Pictures and masks do not fit together.
    """

    images: Tensor
    masks: Tensor
    classes: tuple[str, ...]
    ignore: int
    name: str = "segmentation"
    split: str = "all"
    source: Path | None = None

    def __post_init__(self) -> None:
        _check_images(self.images)
        wanted = (len(self.images), *self.images.shape[2:])
        if self.masks.dtype != torch.uint8 or tuple(self.masks.shape) != wanted:
            raise InputError(
                f"masks are {_told(self.masks)}: for these pictures give uint8 {wanted}"
            )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Return a picture `(3, height, width)` in [0, 1], its int64 mask `(height, width)`."""
        return as_floats(self.images[index]), self.masks[index].long()

    def __repr__(self) -> str:
        shape = "x".join(map(str, self.images.shape[1:]))
        return (
            f"Segmentation({self.name} {self.split}: {len(self)} of {shape}, "
            f"{len(self.classes)} classes)"
        )

    def floats(self, indices: Tensor | Sequence[int] | None = None) -> Tensor:
        """Return pictures as float32 in [0, 1], `(n, 3, height, width)`."""
        return as_floats(self.images if indices is None else self.images[_long(indices)])

    def subset(self, indices: Tensor | Sequence[int]) -> Self:
        """Return the set that holds the pictures `indices`, in that order."""
        chosen = _long(indices)
        return replace(self, images=self.images[chosen], masks=self.masks[chosen])


def as_floats(images: Tensor) -> Tensor:
    """Return bytes as float32 in [0, 1], and floats unchanged."""
    return images.float().div_(255) if images.dtype == torch.uint8 else images


def numbered(labels: Tensor) -> tuple[str, ...]:
    """Return "0", "1", ... up to the largest label, for sets whose classes have no names.

    Raises:
        InputError: The largest label is so large that it cannot number a class.
    """
    largest = int(labels.max())
    if largest >= MOST_CLASSES:
        raise InputError(f"labels go up to {largest}: number the classes 0, 1, 2, ...")
    return tuple(map(str, range(largest + 1)))


def _turns(labels: Tensor, classes: int) -> Tensor:
    """Return how many earlier entries have the same label, `(n,)`."""
    turn = torch.empty_like(labels)
    for label in range(classes):
        same = labels == label
        turn[same] = torch.arange(int(same.sum()))
    return turn


def _check_images(images: Tensor) -> None:
    """Refuse what is not a stack of pictures or signals."""
    pictures = images.ndim == 4 and images.dtype in (torch.uint8, torch.float32)
    signals = images.ndim == 3 and images.dtype == torch.float32
    if not (pictures or signals) or 0 in images.shape:
        raise InputError(
            f"pictures are {_told(images)}: give uint8 or float32 (n, channels, height, width), "
            "or float32 signals (n, channels, length), none of them 0"
        )


def _check_labels(labels: Tensor, count: int, classes: int) -> None:
    """Refuse labels that do not belong to `count` pictures of `classes` classes."""
    if labels.dtype != torch.int64 or tuple(labels.shape) != (count,):
        raise InputError(f"labels are {_told(labels)}: for these pictures give int64 ({count},)")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise InputError(
            f"labels go from {low} to {high}: with {classes} classes they must be "
            f"from 0 to {classes - 1}"
        )


def _told(tensor: Tensor) -> str:
    """Return a tensor's dtype and shape in words."""
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"


def _long(indices: Tensor | Sequence[int]) -> Tensor:
    """Return `indices` as a tensor that can index."""
    return torch.as_tensor(indices, dtype=torch.int64)
