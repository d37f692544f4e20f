"""A small convolutional network for digits, MNIST and CIFAR."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from merkhet.core import building
from merkhet.core.errors import InputError
from merkhet.models import layers


class SmallCNN(nn.Module):
    """Blocks of convolution 3x3, norm, activation and pooling, then averages and linear head.

    What the blocks leave of the picture is averaged over a grid of tiles before the head,
    so that one network takes every size from `grid * 2 ** len(widths)` on: 8x8 digits,
    28x28 MNIST, 32x32 CIFAR.

    Shapes: (batch, in_channels, height, width) -> (batch, classes), logits.

    Args:
        in_channels: Channels of the pictures.
        classes: Number of logits.
        widths: Channels of each block; a block halves height and width.
        norm: "batch", "group" or "none".
        activation: "relu" or "gelu".
        pool: "max" or "average".
        grid: Rows and columns of the tiles; 1 averages over the whole picture, which
            forgets where things are and costs a network this shallow much accuracy.
        seed: Seed, or generator, of the first weights.

    Raises:
        InputError: An argument is not of these.
    """

    def __init__(
        self,
        in_channels: int = 1,
        classes: int = 10,
        widths: Sequence[int] = (32, 64),
        norm: str = "batch",
        activation: str = "relu",
        pool: str = "max",
        grid: int = 2,
        seed: int | torch.Generator = 0,
    ) -> None:
        super().__init__()
        widths = _checked(widths)
        building.check_counts(in_channels=in_channels, classes=classes, grid=grid)
        self.in_channels = in_channels
        self.smallest = grid * 2 ** len(widths)
        blocks: list[nn.Module] = []
        with torch.device("meta"):
            for before, after in pairwise((in_channels, *widths)):
                blocks += layers.convolution_block(before, after, norm=norm, activation=activation)
                blocks.append(layers.pool_layer(pool))
            self.features = nn.Sequential(*blocks)
            self.average = nn.AdaptiveAvgPool2d(grid)
            self.head = nn.Linear(widths[-1] * grid**2, classes)
        building.allocate(self)
        self.reset_parameters(building.as_generator(seed))

    def reset_parameters(self, generator: torch.Generator) -> None:
        """Draw fresh weights from `generator`."""
        layers.he_initialise(self, generator)

    def forward(self, pictures: Tensor) -> Tensor:
        """Return logits (batch, classes) of pictures (batch, in_channels, height, width).

        Raises:
            InputError: The pictures have another shape or are too small.
        """
        layers.check_pictures(pictures, self.in_channels, self.smallest)
        logits: Tensor = self.head(self.average(self.features(pictures)).flatten(1))
        return logits


def _checked(widths: object) -> tuple[int, ...]:
    """Return `widths` as a tuple of at least one positive whole number."""
    if isinstance(widths, str) or not isinstance(widths, Sequence) or not widths:
        raise InputError(f"widths = {widths!r}: give the channels of each block, such as (32, 64)")
    for width in widths:
        building.check_counts(widths=width)
    return tuple(widths)
