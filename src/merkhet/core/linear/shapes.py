"""Linear operations that copy or move entries: padding and new shapes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from merkhet.core.linear.base import Sides, Sizes, Step, last_first, of_batch

PadMode = Literal["constant", "reflect", "replicate", "circular"]


@dataclass(frozen=True, eq=False)
class Pad(Step):
    """Padding of the last dimensions.

    Attributes:
        sides: Entries (before, after) for each of the last dimensions, in their order; negative
            ones are cut.
        mode: "constant" (zeros), "reflect", "replicate" or "circular".
    """

    sides: Sides
    mode: PadMode = "constant"

    def apply(self, x: Tensor) -> Tensor:
        """Return x with its last dimensions padded."""
        return F.pad(x, last_first(self.sides), self.mode)


@dataclass(frozen=True, eq=False)
class Reshape(Step):
    """The same entries in another shape: an isometry.

    Attributes:
        shape: Of one example; one size may be -1.
    """

    shape: Sizes

    def apply(self, x: Tensor) -> Tensor:
        """Return x (b, *in) in the other shape."""
        return x.reshape(len(x), *self.shape)


@dataclass(frozen=True, eq=False)
class Flatten(Step):
    """Some neighbouring dimensions as one: an isometry.

    Attributes:
        start: The first of them, of one example.
        end: The last of them, of one example; -1 is the last there is.
    """

    start: int = 0
    end: int = -1

    def apply(self, x: Tensor) -> Tensor:
        """Return x (b, *in) with the dimensions as one."""
        first, last = of_batch((self.start, self.end), x)
        return x.flatten(first, last)


@dataclass(frozen=True, eq=False)
class Permute(Step):
    """Dimensions in another order: an isometry.

    Attributes:
        dims: Those of one example, in their new order.
    """

    dims: Sizes

    def apply(self, x: Tensor) -> Tensor:
        """Return x (b, *in) with its dimensions in the other order."""
        return x.permute(0, *of_batch(self.dims, x))
