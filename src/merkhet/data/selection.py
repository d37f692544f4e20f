"""Which pictures of a set are wanted, and at which size."""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from torch import Tensor

from merkhet.core.errors import InputError

LARGEST_SIDE = 16_384


@dataclass(frozen=True)
class Selection:
    """How many pictures to keep, drawn by which seed, and the size to bring them to.

    Attributes:
        limit: Keep this many, drawn uniformly without replacement; None keeps all.
        size: `(height, width)` in pixels, or None for the pictures' own.
        seed: What the draw depends on.

    Raises:
        InputError: `limit` or `size` is out of range.
    """

    limit: int | None = None
    size: tuple[int, int] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise InputError(f"limit is {self.limit}: give 1 or more, or None for all")
        if self.size is not None:
            check_size(*self.size)

    def rows(self, count: int) -> Tensor:
        """Return which of `count` pictures to keep, int64 `(n,)`.

        A sample comes in random order, and samples of one seed are nested: 10 pictures are
        the first of 20. With no limit, or one of at least `count`, all are kept in order.
        """
        if self.limit is None or self.limit >= count:
            return torch.arange(count)
        generator = torch.Generator().manual_seed(self.seed)
        return torch.randperm(count, generator=generator)[: self.limit]


def parse_size(text: str) -> tuple[int, int]:
    """Return `(height, width)` in pixels from "HxW".

    Raises:
        InputError: `text` is not of that form.
    """
    found = re.fullmatch(r"(\d{1,6})[xX](\d{1,6})", text.strip())
    if not found:
        raise InputError(f"size {text!r} is not HxW in pixels: write for example 32x32")
    height, width = int(found[1]), int(found[2])
    check_size(height, width)
    return height, width


def check_size(height: int, width: int) -> None:
    """Refuse a picture size with a side that is not between 1 and 16,384 pixels."""
    if not (1 <= height <= LARGEST_SIDE and 1 <= width <= LARGEST_SIDE):
        raise InputError(f"size {height}x{width}: both sides must be from 1 to {LARGEST_SIDE}")
