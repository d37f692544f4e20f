"""What torch networks have between layers and its own layers do not: borders and factors."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from merkhet.core.errors import InputError, choose
from merkhet.kernels.convolution import Sides
from merkhet.kernels.layers import Layer
from merkhet.kernels.state import State

FILLS = ("circular", "constant", "reflect", "replicate")


@dataclass(frozen=True, eq=False)
class Pad2d(Layer):
    """More positions around a feature map, as `torch.nn.functional.pad` fills them.

    Args:
        sides: How many rows (above, below) and columns (left, right).
        fill: "constant" (zeros), "circular", "reflect" or "replicate".
    """

    sides: Sides
    fill: str = "constant"

    def __post_init__(self) -> None:
        choose("fill", self.fill, FILLS)

    def __call__(self, state: State) -> State:
        """Return the state after padding, of batch axes (*batch) as before."""
        if not state.axes:
            raise InputError(f"{self!r} after a vector: it takes pictures")
        places = [
            _places(size, side, self.fill)
            for size, side in zip(state.size, self.sides, strict=True)
        ]
        return state.map(lambda k: _picked(k, places, state.axes))


@dataclass(frozen=True, eq=False)
class Scale(Layer):
    """Every unit times a constant, which is not trained.

    Args:
        factor: The constant.
    """

    factor: float

    def __call__(self, state: State) -> State:
        """Return the state after the factor, of batch axes (*batch) as before."""
        return state.map(lambda k: self.factor**2 * k)


def _places(size: int, side: tuple[int, int], fill: str) -> Tensor:
    """Return which position each of the positions after padding shows; -1 for a zero."""
    places = torch.arange(-side[0], size + side[1])
    if fill == "circular":
        return places % size
    if fill == "reflect":
        turned = places.abs()
        return (size - 1) - ((size - 1) - turned).abs()
    inside = places.clamp(0, size - 1)
    return inside if fill == "replicate" else torch.where(places == inside, places, -1)


def _picked(k: Tensor, places: list[Tensor], axes: int) -> Tensor:
    """Return a covariance (*batch, *(h, w) axes times) at places of rows and columns."""
    for place in range(2 * axes):
        axis, shown = k.dim() - 2 * axes + place, places[place % 2].to(k.device)
        shape = [1] * k.dim()
        shape[axis] = len(shown)
        k = k.index_select(axis, shown.clamp(min=0)) * (shown >= 0).reshape(shape)
    return k
