"""ResNet18: four stages of two residual blocks."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from merkhet.core import building
from merkhet.core.errors import choose
from merkhet.core.layers import activation_layer, norm_layer
from merkhet.models import layers

STAGES = (64, 128, 256, 512)


class ResidualBlock(nn.Module):
    """Two convolutions 3x3 beside a shortcut; the sum is activated.

    Shapes: (batch, in_channels, height, width) ->
    (batch, out_channels, ceil(height / stride), ceil(width / stride)).
    """

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, norm: str, activation: str
    ) -> None:
        super().__init__()
        self.conv1 = layers.convolution(in_channels, out_channels, 3, stride=stride, norm=norm)
        self.bn1 = norm_layer(norm, out_channels)
        self.act1 = activation_layer(activation)
        self.conv2 = layers.convolution(out_channels, out_channels, 3, norm=norm)
        self.bn2 = norm_layer(norm, out_channels)
        self.act2 = activation_layer(activation)
        self.downsample = nn.Sequential()
        if stride != 1 or in_channels != out_channels:
            shortcut = layers.convolution(in_channels, out_channels, 1, stride=stride, norm=norm)
            self.downsample = nn.Sequential(shortcut, norm_layer(norm, out_channels))

    def forward(self, x: Tensor) -> Tensor:
        """Return act(shortcut(x) + branch(x))."""
        branch = self.act1(self.bn1(self.conv1(x)))
        branch = self.bn2(self.conv2(branch))
        out: Tensor = self.act2(self.downsample(x) + branch)
        return out


class ResNet18(nn.Module):
    """The residual network of 18 layers, for small pictures or for ImageNet's.

    Without a norm, the last convolution of every residual branch starts at zero, so that
    each block starts as its shortcut and the signal keeps its size through any depth: the
    idea of Fixup (rule 1 of Zhang et al., "Fixup initialization", ICLR 2019, section 3)
    and of SkipInit (De & Smith, NeurIPS 2020, section 4). No scalars are added, so the
    network has the same modules with every norm. The first step then moves only the last
    convolutions, the second step all of them.

    Submodules carry torchvision's names: its weights for `stem="imagenet"`, which timm
    publishes under the same names, load with `load_weights`.

    Shapes: (batch, in_channels, height, width) -> (batch, classes), logits; every size.

    Args:
        in_channels: Channels of the pictures.
        classes: Number of logits.
        norm: "batch", "group" or "none" (then the convolutions have biases).
        activation: "relu" or "gelu".
        stem: "cifar" (convolution 3x3) or "imagenet" (7x7 of stride 2, then max pooling).
        width: Factor on the channels of every stage; 1.0 is the published network.
        seed: Seed, or generator, of the first weights.

    Raises:
        InputError: An argument is not of these.

    Reference:
        He et al., "Deep residual learning for image recognition", CVPR 2016, table 1.
    """

    def __init__(
        self,
        in_channels: int = 3,
        classes: int = 10,
        norm: str = "batch",
        activation: str = "relu",
        stem: str = "cifar",
        width: float = 1.0,
        seed: int | torch.Generator = 0,
    ) -> None:
        super().__init__()
        building.check_counts(in_channels=in_channels, classes=classes)
        self.in_channels = in_channels
        self._without_norm = norm == "none"
        first, *_ = stages = [layers.scaled(channels, width) for channels in STAGES]
        with torch.device("meta"):
            small = choose("stem", stem, ("cifar", "imagenet")) == "cifar"
            self.conv1 = layers.convolution(
                in_channels, first, 3 if small else 7, stride=1 if small else 2, norm=norm
            )
            self.bn1 = norm_layer(norm, first)
            self.act1 = activation_layer(activation)
            self.maxpool = nn.Identity() if small else nn.MaxPool2d(3, stride=2, padding=1)
            self.layer1 = _stage(first, first, 1, norm, activation)
            self.layer2 = _stage(first, stages[1], 2, norm, activation)
            self.layer3 = _stage(stages[1], stages[2], 2, norm, activation)
            self.layer4 = _stage(stages[2], stages[3], 2, norm, activation)
            self.avgpool = nn.AdaptiveAvgPool2d(1)
            self.fc = nn.Linear(stages[3], classes)
        building.allocate(self)
        self.reset_parameters(building.as_generator(seed))

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator) -> None:
        """Draw fresh weights from `generator`."""
        layers.he_initialise(self, generator)
        if self._without_norm:
            for module in self.modules():
                if isinstance(module, ResidualBlock):
                    module.conv2.weight.zero_()

    def forward(self, pictures: Tensor) -> Tensor:
        """Return logits (batch, classes) of pictures (batch, in_channels, height, width).

        Raises:
            InputError: The pictures have another shape.
        """
        layers.check_pictures(pictures, self.in_channels)
        x = self.maxpool(self.act1(self.bn1(self.conv1(pictures))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        logits: Tensor = self.fc(self.avgpool(x).flatten(1))
        return logits


def _stage(
    in_channels: int, out_channels: int, stride: int, norm: str, activation: str
) -> nn.Sequential:
    """Return two blocks, the first of which changes channels and size."""
    return nn.Sequential(
        ResidualBlock(in_channels, out_channels, stride, norm, activation),
        ResidualBlock(out_channels, out_channels, 1, norm, activation),
    )
