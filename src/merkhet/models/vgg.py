"""VGG11: eight convolutions, five poolings, one small head."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from merkhet.core import building
from merkhet.models import layers

# Configuration A of Simonyan & Zisserman, table 1; "pool" halves height and width.
CONFIGURATION_A = (64, "pool", 128, "pool", 256, 256, "pool", 512, 512, "pool", 512, 512, "pool")
SMALLEST = 32  # five poolings


class VGG11(nn.Module):
    """VGG's configuration A with the one linear layer as head that is usual on CIFAR.

    Shapes: (batch, in_channels, height, width) -> (batch, classes), logits; height and
    width from 32 on. What is left of the picture after five poolings (one pixel at 32x32)
    is averaged.

    Args:
        in_channels: Channels of the pictures.
        classes: Number of logits.
        norm: "batch", "group" or "none" (then the convolutions have biases).
        activation: "relu" or "gelu".
        width: Factor on the channels of every convolution; 1.0 is the published network.
        seed: Seed, or generator, of the first weights.

    Raises:
        InputError: An argument is not of these.

    Reference:
        Simonyan & Zisserman, "Very deep convolutional networks for large-scale image
        recognition", ICLR 2015, section 2.2 and table 1.
    """

    def __init__(
        self,
        in_channels: int = 3,
        classes: int = 10,
        norm: str = "batch",
        activation: str = "relu",
        width: float = 1.0,
        seed: int | torch.Generator = 0,
    ) -> None:
        super().__init__()
        building.check_counts(in_channels=in_channels, classes=classes)
        self.in_channels = in_channels
        blocks: list[nn.Module] = []
        channels = in_channels
        with torch.device("meta"):
            for entry in CONFIGURATION_A:
                if isinstance(entry, str):
                    blocks.append(layers.pool_layer("max"))
                    continue
                wider = layers.scaled(entry, width)
                blocks += layers.convolution_block(
                    channels, wider, norm=norm, activation=activation
                )
                channels = wider
            self.features = nn.Sequential(*blocks)
            self.average = nn.AdaptiveAvgPool2d(1)
            self.head = nn.Linear(channels, classes)
        building.allocate(self)
        self.reset_parameters(building.as_generator(seed))

    def reset_parameters(self, generator: torch.Generator) -> None:
        """Draw fresh weights from `generator`."""
        layers.he_initialise(self, generator)

    def forward(self, pictures: Tensor) -> Tensor:
        """Return logits (batch, classes) of pictures (batch, in_channels, height, width).

        Raises:
            InputError: The pictures have another shape or are smaller than 32x32.
        """
        layers.check_pictures(pictures, self.in_channels, SMALLEST)
        logits: Tensor = self.head(self.average(self.features(pictures)).flatten(1))
        return logits
