"""What a linear operation answers: the interface of every step."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from merkhet.core.errors import InputError

Sizes = tuple[int, ...]
Sides = tuple[tuple[int, int], ...]


class Step(ABC):
    """A linear operation on one example of a known shape, applied to batches of them."""

    @abstractmethod
    def apply(self, x: Tensor) -> Tensor:
        """Return the operation's answer (b, *out), in the dtype and on the device of x.

        Args:
            x: (b, *in).
        """

    def spatial(self) -> int | None:
        """Return how many spatial dimensions follow the channels, or None for any shape."""
        return None

    def output_shape(self, input_shape: Sizes) -> Sizes:
        """Return the shape of one answer.

        Args:
            input_shape: Of one example, without the batch.

        Raises:
            InputError: The operation does not take examples of this shape.
        """
        rank = self.spatial()
        try:
            if rank is not None and len(input_shape) != rank + 1:
                raise ValueError(f"channels and {rank} spatial sizes wanted")
            answer = self.apply(torch.empty((1, *input_shape), device="meta"))
        except (RuntimeError, IndexError, ValueError) as error:
            why = str(error).partition("\n")[0]
            raise InputError(
                f"{type(self).__name__} does not take examples of shape {tuple(input_shape)}: "
                f"give the shape of one input, without the batch ({why})"
            ) from error
        return tuple(answer.shape[1:])


def last_first(sides: Sides) -> list[int]:
    """Return sides in the order that torch pads in."""
    return [count for pair in reversed(sides) for count in pair]


def of_batch(dims: Sizes, x: Tensor) -> list[int]:
    """Return dimensions of one example as those of a batch."""
    rank = x.dim() - 1
    if any(not -rank <= dim < rank for dim in dims):
        raise IndexError(f"dimensions {dims} of {rank}")
    return [dim % rank + 1 for dim in dims]
